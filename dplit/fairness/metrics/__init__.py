"""Figures by group from counts: pure functions, without noise and without a trainer."""
