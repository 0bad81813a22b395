"""Poisson sampling: which records are in a draw, how it is cut into physical batches, and what one unit is."""
