"""The tape: it records the gradients of trainable parameters, operation by operation."""
