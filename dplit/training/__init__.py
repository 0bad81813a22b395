"""Private training: the step, what it leaves behind, what it refuses, and the Lightning strategies around it."""
