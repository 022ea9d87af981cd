"""`python -m onnxfq` is `onnxfq`."""

from onnxfq.cli import main

main()
