"""What quantizing leaves free, tuned by gradients of the outputs' error: scales, biases, normalization layers."""
