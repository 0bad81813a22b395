"""Clipping policies held against one another at the same privacy, over seeds: `python -m dplit.compare RECIPE`."""
