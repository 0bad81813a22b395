"""Public files and pretrained models: fetched once, held to a pinned digest, kept in a cache."""
