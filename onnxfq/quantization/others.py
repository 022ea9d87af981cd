"""Weights that no other rule takes: which are stored small and become floats again when the model is loaded.

Nothing but the error of the weights speaks against that. What is measured here is that error; what it does to the
outputs is measured when the data are there (`settle_others`).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import replace

import numpy as np

from onnxfq.graph import Graph, Scratch
from onnxfq.options import FLOAT, Options
from onnxfq.packing import row_chunks
from onnxfq.providers import ProviderName
from onnxfq.quantization.assign import Planned, changes_for
from onnxfq.quantization.find import compiled, excluded
from onnxfq.quantization.job import kept_weights
from onnxfq.quantized import squared_error, weight_range
from onnxfq.rules import STORED, Skip, Target, is_moving, moves_for_others
from onnxfq.scheme import Scheme
from onnxfq.solvers.rtn import Rtn

STORED_4, STORED_8 = Scheme(4, 32, symmetric=True, activations="float"), Scheme(8, "channel", True, "float")
# Σ(w−ŵ)² / Σw², up to which 8 bits are taken without being asked for. Of 650 weights of 45 models a scale for each
# channel leaves .00008 of one in two, .0003 of the worst tenth, at most .0009; blocks of 32 can leave no more than
# .00017 of any: 32 / (12 * 127²), where a single weight of each is not 0.
LARGEST_ERROR = 2e-4
_FINER = (STORED_8, replace(STORED_8, block_size=128), replace(STORED_8, block_size=32))
_WHOLE = "its weights are whole numbers, such as those that choose or count"


def plan_others(
    graph: Graph, planned: Sequence[Planned], skips: Sequence[Skip], options: Options, provider: ProviderName
) -> tuple[list[Planned], list[Skip]]:
    """Decide about all weights that no other rule took.

    Args:
        graph: the model.
        planned: what other rules took.
        skips: what they left, with reasons.
        options: what was asked for.
        provider: where the model will run.

    Returns:
        All planned targets, and what is left of the skips, with more of them.

    Raises:
        SchemeError: a scheme that nothing is stored in was asked for by name.
    """
    found, left = _find(graph, planned, options)
    if options.others == FLOAT:
        left += [
            _left(target, f'it stays in float (`others="{FLOAT}"`)') for target in found if not is_moving(target.node)
        ]
        return list(planned), _joined(skips, left, ())
    chosen: dict[Hashable, Scheme | str] = {}
    more: list[Planned] = []
    for target in found:
        if target.key not in chosen:
            chosen[target.key] = _scheme(target, options)
        scheme = chosen[target.key]
        if isinstance(scheme, str):
            left.append(_left(target, scheme))
        else:
            more.append(Planned(target, STORED, scheme, STORED.kernel(provider, scheme, target), STORED))
    kept = kept_weights(graph, [*planned, *more])
    left += [
        _left(p.target, "others read its weight too, and need it in float")
        for p in more
        if _stays(graph, p.target, kept)
    ]
    more = [p for p in more if not _stays(graph, p.target, kept)]
    return [*planned, *more], _joined(skips, left, more)


def _stays(graph: Graph, target: Target, kept: Collection[Hashable]) -> bool:
    """Whether a weight stays in float all the same, because other nodes or callers read it."""
    returned = (reader is None for _, name in target.weight.names for reader, _ in graph.readers(target.node, name))
    return target.weight.part in kept or any(returned)


def _find(graph: Graph, planned: Sequence[Planned], options: Options) -> tuple[list[Target], list[Skip]]:
    """Ask the rule about every node that no other took."""
    wanted, unwanted = compiled("include", options.include), compiled("exclude", options.exclude)
    taken = {id(p.target.node.proto) for p in planned}
    targets: list[Target] = []
    left: list[Skip] = []
    for node in graph.nodes():
        idle = id(node.proto) in taken or (is_moving(node) and not moves_for_others(graph, node, taken))
        found = None if idle else STORED.match(graph, node)
        if isinstance(found, Skip):
            left.append(found)
        elif found:
            reason = excluded(node.name, wanted, unwanted)
            left += [_left(target, reason) for target in found if reason]
            targets += [target for target in found if not reason]
    return targets, left


def _scheme(target: Target, options: Options) -> Scheme | str:
    """What a weight is stored in, or why it stays in float."""
    changes = changes_for(target, options)
    if changes or options.others in _SCHEMES:
        scheme = _SCHEMES.get(options.others, STORED_8)
        for change in changes:
            scheme = scheme.changed({name: change[name] for name in ("bits", "block_size") if name in change})
        return scheme
    errors, whole = _errors(target, _FINER[:1])
    if whole:
        return _WHOLE
    if not errors[0] > LARGEST_ERROR:  # neither where it is not finite, which is found, and named, when it is solved
        return STORED_8
    errors, _ = _errors(target, _FINER[1:])
    return next((scheme for scheme, e in zip(_FINER[1:], errors, strict=True) if e <= LARGEST_ERROR), _FINER[-1])


_SCHEMES = {"stored8": STORED_8, "stored4": STORED_4}


def _errors(target: Target, schemes: Sequence[Scheme]) -> tuple[list[float], bool]:
    """The relative error that each scheme leaves, and whether all weights are whole numbers."""
    matrix, scratch, whole = target.matrix, Scratch(), True
    value = matrix.read(scratch)
    sums, squares = [0.0] * len(schemes), 0.0
    with np.errstate(all="ignore"):
        for rows in row_chunks(matrix.n, matrix.k):
            weight = matrix.rows(value, rows)
            whole = whole and bool((weight == np.rint(weight)).all())
            squares += weight_range(weight).sum_squares
            if not squares < float("inf"):
                return [0.0] * len(schemes), False
            for i, scheme in enumerate(schemes):
                q = Rtn().solve(weight, scheme, None, scale_type=target.scale_type)
                sums[i] += squared_error(weight, q)
    return [error / squares if squares else 0.0 for error in sums], whole


def _left(target: Target, reason: str) -> Skip:
    return Skip(target.name, target.node.op_type, reason, nbytes=target.float_bytes)


def _joined(skips: Sequence[Skip], left: Sequence[Skip], more: Sequence[Planned]) -> list[Skip]:
    """What is left after all: a node that is stored after all is not, and one has one reason."""
    taken = {(p.target.name, p.target.node.op_type) for p in more}
    known = {(skip.name, skip.op_type) for skip in skips}
    kept = [skip for skip in skips if (skip.name, skip.op_type) not in taken]
    return [*kept, *(skip for skip in dict.fromkeys(left) if (skip.name, skip.op_type) not in known)]
