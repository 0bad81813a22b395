"""What finished runs say: figures with intervals, costs by group, and what the search for settings cost."""
