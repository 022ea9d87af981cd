"""How fast models are: times side by side, load time and memory."""
