"""What is compared: the recipe of a comparison, its variants, grids and overrides."""
