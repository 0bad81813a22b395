"""Where the examples of a batch are inside a model: which dimension, or which rows, is whose."""
