"""Metrics by group: pure functions of counts, without noise and without a trainer; one file a family of metrics."""
