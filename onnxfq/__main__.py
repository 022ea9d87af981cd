"""`python -m onnxfq` is `onnxfq`."""

from onnxfq.cli import main

if __name__ == "__main__":
    main()
