"""What a person sees of a comparison: the table on screen, pictures and one HTML page."""
