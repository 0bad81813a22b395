"""Where the examples of a batch are in each activation of a model: which dimension, or which rows, belong to which example."""
