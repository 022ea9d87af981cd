"""What is measured of a model, and the gates that may be set on it."""
