"""What is said about a run: as data, as JSON, and as pages."""
