"""The callback, and what it is made of: what a step returns, the release of counts, and where figures are shown and kept."""
