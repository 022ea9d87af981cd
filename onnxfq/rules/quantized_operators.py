"""Operators that read quantized weights, beside those that onnxfq writes."""

from __future__ import annotations

from onnxfq.graph import MICROSOFT

_OF_PRODUCTS = {
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "QLinearMatMul",
    "QGemm",
    "MatMulBnb4",
}
_OF_OTHERS = {"ConvInteger", "QLinearConv", "QLinearConvTranspose", "DynamicQuantizeLSTM", "QAttention", "QMoE"}
_FURTHER = {
    "MatMulFpQ4",
    "QEmbedLayerNormalization",
    "QOrderedMatMul",
    "QOrderedAttention",
    "QOrderedLongformerAttention",
}

QUANTIZED_OPERATORS = frozenset(_OF_PRODUCTS | _OF_OTHERS | _FURTHER)
DOMAINS = ("", MICROSOFT)
