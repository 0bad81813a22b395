"""Where noise comes from: the source that a release draws from, and the keys of its generators."""
