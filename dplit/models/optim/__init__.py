"""Optimizers that know about the noise, and learning-rate schedules."""
