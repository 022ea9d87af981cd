"""Small exports of many architectures with random weights: what real files look like, made in minutes."""
