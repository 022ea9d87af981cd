"""Running a model in segments, as it is and as it is being quantized, to measure what solvers want to know."""
