"""The steps of one model on its way to the quantised one, as `pipeline` puts them together."""
