"""What `tools/faults.py` is made of: places with models, a runner of command lines, a judge, and the campaigns."""
