"""Public files and pretrained models: downloaded once, checked against a pinned digest, kept in a cache."""
