"""The public `evaluate`: its configuration, its tasks, and its result."""
