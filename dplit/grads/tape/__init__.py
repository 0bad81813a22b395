"""The tape: it records how trainable parameters are used, operation by operation."""
