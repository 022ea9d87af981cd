"""What is said about a run: as data, as JSON, and as pages."""

from onnxfq.reports import files as files  # so that whoever has a report can save it
