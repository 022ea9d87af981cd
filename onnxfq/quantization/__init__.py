"""The steps of one model on its way to the quantized one, as `pipeline` puts them together."""
