"""Per-example gradients in factors: what one application of a parameter leaves behind, and what can be computed from it."""
