"""The runs of a comparison: their plan, the workers that make them, and the folders they leave."""
