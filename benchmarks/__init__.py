"""Measurements of onnxfq beside other tools and beside the hardware's limits; results are JSON files in `results/`."""
