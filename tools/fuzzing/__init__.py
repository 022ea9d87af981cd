"""Hostile inputs for onnxfq, and a process that is watched while it works on them; `tools/fuzz.py` is the campaign."""
