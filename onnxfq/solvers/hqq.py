"""Placeholder until the fit is there."""

from onnxfq.solvers.rtn import Rtn


class Hqq(Rtn):
    """Being written."""

    name = "hqq"
