"""Mutations of models as models: shapes, types, places of data, names, scopes, attributes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from support.models import refer, tensor
from tools.fuzzing.case import SECRET, SECRET_NAME, Case
from tools.fuzzing.seeds import sparse

Mutation = Callable[[ModelProto, random.Random], None]
FileMutation = Callable[[Case, ModelProto, random.Random], Case]

DIMENSIONS = (0, 1, 2, 16, 31, 64, 65, 1024, 1 << 16, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, -1, -64, -(1 << 63))
NAMES = (
    *("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "[red]", "[/]", "[/red]x", "[link=http://x]y[/link]", "<b onload=x>"),
    *("&amp;\"'", "a\nb", "a\r\tb", "\x00", "\x7f\x9b2J", "\u202egpj", "\ufeff", "\u2028", "é" * 30, "{0}%s%n", "../x"),
    *(" ", "y", "w", "x", "n" * 5000, "名前", "🙂", "-", "__class__", "0", "\\x41", "\ud7ff", ":warning:"),
)
LOCATIONS = (
    *(f"../{SECRET_NAME}", f"sub/../../{SECRET_NAME}", "/etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem"),
    *("..", ".", "", "\0", "in.onnx", "./in.onnx", "missing", "zero", "out", "pipe/x", "C:\\x", "..\\x", "a" * 5000),
    *("file:///etc/passwd", "//etc/passwd", "~/.bashrc", "in.0.bin", "in.1.bin", "./in.0.bin", "IN.0.BIN", "out/x"),
    *("\x1b[2J", "\u202e", "in.0.bin\0x", "in.0.bin/", " in.0.bin"),
)
NUMBERS: tuple[str, ...] = (
    "-1",
    "0",
    "1",
    "4096",
    "99999999",
    str(1 << 63),
    str(10**40),
    "9" * 5000,
    "0x10",
    "1e3",
    " 64",
    "+64",
    "١٢",
    "",
)
NUMBERS = (*NUMBERS, "1_000", "64 ", "-0", "00064", "nan")


def graphs(proto: ModelProto) -> list[GraphProto]:
    """The graph and all subgraphs."""
    return [g for g in _messages(proto, 0) if isinstance(g, GraphProto)]


def nodes(proto: ModelProto) -> list[NodeProto]:
    """The nodes of all scopes."""
    return [n for n in _messages(proto, 0) if isinstance(n, NodeProto)]


def tensors(proto: ModelProto) -> list[TensorProto]:
    """All tensors."""
    return [t for t in _messages(proto, 0) if isinstance(t, TensorProto)]


def _messages(message: object, depth: int) -> Iterator[object]:
    yield message
    for descriptor, value in message.ListFields() if depth < 60 else ():  # type: ignore[attr-defined]
        if descriptor.message_type is not None:
            for inner in value if not hasattr(value, "ListFields") else (value,):
                yield from _messages(inner, depth + 1)


def _dims(proto: ModelProto, chance: random.Random) -> None:
    found = chance.choice(tensors(proto) or [TensorProto()])
    way = chance.randrange(6)
    if way == 0:
        found.dims[:] = [chance.choice(DIMENSIONS) for _ in range(chance.choice((0, 1, 2, 2, 3, 70)))]
    elif way == 1 and found.dims:
        found.dims[chance.randrange(len(found.dims))] = chance.choice(DIMENSIONS)
    elif way == 2:
        found.dims[:] = [*found.dims[::-1]]
    elif way == 3:
        found.dims[:] = [1] * chance.choice((1, 31, 33, 63, 65, 400)) + [*found.dims]
    elif way == 4:
        found.dims[:] = [*found.dims, 0]
    else:
        found.dims[:] = [1 << 62] * chance.choice((2, 4, 3000))


def _data_type(proto: ModelProto, chance: random.Random) -> None:
    found = chance.choice(tensors(proto) or [TensorProto()])
    found.data_type = chance.choice((*range(-1, 30), 99, 1 << 30))


def _values(proto: ModelProto, chance: random.Random) -> None:
    """Values in the wrong field, in two fields, too many, too few, not finite."""
    found = chance.choice(tensors(proto) or [TensorProto()])
    way = chance.randrange(8)
    if way == 0:
        found.raw_data = found.raw_data[: chance.randrange(len(found.raw_data) + 1)]
    elif way == 1:
        found.raw_data = found.raw_data + bytes(chance.choice((1, 4, 100)))
    elif way == 2:
        found.float_data.extend([1.0] * chance.choice((1, 2048)))
    elif way == 3:
        found.string_data.extend([b"\xff", b"x"] * chance.choice((1, 1024)))
        found.ClearField("raw_data")
    elif way == 4:
        found.int32_data.extend([chance.choice((-1, 70000, 1 << 30))] * 2048)
        found.ClearField("raw_data")
    elif way == 5:
        found.segment.begin, found.segment.end = 0, chance.choice((1, 1 << 40))
    elif way == 6 and found.raw_data:
        special = chance.choice((np.nan, np.inf, -np.inf, 3e38, 1e-40, -0.0))
        found.raw_data = np.float32(special).tobytes() + found.raw_data[4:]
    elif way == 7:
        found.data_location = chance.choice((TensorProto.EXTERNAL, TensorProto.DEFAULT))


def _external(proto: ModelProto, chance: random.Random) -> None:
    """Entries of external data: places, offsets and lengths, twice, missing, unknown."""
    found = chance.choice(tensors(proto) or [TensorProto()])
    if found.data_location != TensorProto.EXTERNAL or chance.random() < 0.2:
        refer(found, chance.choice(LOCATIONS), chance.choice((None, *NUMBERS)), chance.choice((None, *NUMBERS)))
        return
    key = chance.choice(("location", "offset", "length", "checksum", "basepath", "", "Location"))
    value = chance.choice(LOCATIONS if key == "location" else NUMBERS)
    same = [entry for entry in found.external_data if entry.key == key]
    if same and chance.random() < 0.7:
        same[0].value = value
    else:
        found.external_data.add(key=key, value=value)


def _overlap(proto: ModelProto, chance: random.Random) -> None:
    """Move data so that tensors share some of it."""
    for found in tensors(proto):
        for entry in found.external_data:
            if entry.key == "offset" and entry.value.isdecimal() and chance.random() < 0.7:
                entry.value = str(max(0, int(entry.value) + chance.choice((-4096, -64, -4, -1, 1))))


def _secret(case: Case, proto: ModelProto, chance: random.Random) -> Case:
    """A link out of the folder in place of a data file, or of a folder on the way to it."""
    found = [t for t in tensors(proto) if t.data_location == TensorProto.EXTERNAL] or tensors(proto)[:1]
    target, place = chance.choice(((f"../{SECRET_NAME}", "out"), ("..", f"sub/{SECRET_NAME}"), ("/dev/zero", "out"),
                                   ("/proc/self/environ", "out"), ("out", "out"), ("/dev/stdin", "out")))  # fmt: skip
    for item in found:
        size = len(item.raw_data) or int(np.prod([d for d in item.dims if 0 < d < 5000])) * 4
        refer(item, place, 0, min(size, len(SECRET)))
    return replace(case, links={**case.links, place.split("/")[0]: target})


def _twice(proto: ModelProto, chance: random.Random) -> None:
    """Something that must be unique, twice."""
    graph, whole = chance.choice(graphs(proto)), proto
    groups = [graph.node, graph.initializer, graph.input, graph.output, graph.value_info, graph.sparse_initializer]
    groups += [whole.opset_import, whole.functions, whole.metadata_props]
    groups += [node.attribute for node in nodes(proto)]
    group = chance.choice([g for g in groups if g])
    copy = type(group[0])()
    copy.CopyFrom(chance.choice(group))
    if isinstance(copy, AttributeProto) and chance.random() < 0.5:
        copy.i = chance.choice((0, 1, 7))
        copy.ints[:] = copy.ints[::-1]
    if isinstance(copy, TensorProto) and chance.random() < 0.5:
        copy.raw_data = bytes(len(copy.raw_data))
    if chance.random() < 0.5:
        group.append(copy)
    else:
        rest = [type(item).FromString(item.SerializeToString()) for item in group]
        del group[:]
        group.extend([copy, *rest])


def _edge(proto: ModelProto, chance: random.Random) -> None:
    """Cycles, dangling inputs, other names for inputs and outputs."""
    node = chance.choice(nodes(proto) or [NodeProto()])
    known = [name for n in nodes(proto) for name in (*n.input, *n.output)] + [t.name for t in tensors(proto)]
    name = chance.choice((*known, "nowhere", "", *NAMES[:3]))
    way = chance.randrange(6)
    if way <= 1 and node.input:
        node.input[chance.randrange(len(node.input))] = name
    elif way == 2 and node.output:
        node.output[chance.randrange(len(node.output))] = name
    elif way == 3:
        node.input.append(name)
    elif way == 4:
        node.output.append(name)
    elif node.input:
        del node.input[chance.randrange(len(node.input)) :]


def _outputs(proto: ModelProto, chance: random.Random) -> None:
    graph = chance.choice(graphs(proto))
    group = chance.choice((graph.input, graph.output))
    way = chance.randrange(4)
    if way == 0:
        del group[:]
    elif way == 1:
        info = group.add(name=chance.choice((*NAMES, "w", "y", "x")))
        info.type.tensor_type.elem_type = chance.choice((0, 1, 7, 8, 16, 99))
    elif group:
        info = chance.choice(group)
        kind = chance.choice(("tensor_type", "sequence_type", "optional_type", "sparse_tensor_type", "opaque_type"))
        if way == 2:
            getattr(info.type, kind).SetInParent()
        else:
            shape = info.type.tensor_type.shape
            del shape.dim[:]
            for _ in range(chance.choice((0, 1, 2, 4))):
                shape.dim.add(**_dimension(chance))


def _dimension(chance: random.Random) -> dict[str, int | str]:
    expressions = (
        "a*a",
        "99999*99999*99999",
        "1-9",
        "+".join("a" * 3000),
        "(" * 300,
        "batch",
        "a//0",
        "'\\d'",
        "1 is 1",
    )
    way = chance.random()
    if way < 0.3:
        return {"dim_value": chance.choice(DIMENSIONS)}
    return {"dim_param": chance.choice((*expressions, *NAMES))} if way < 0.8 else {}


def _reorder(proto: ModelProto, chance: random.Random) -> None:
    graph = chance.choice(graphs(proto))
    kept = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    chance.shuffle(kept)
    del graph.node[:]
    graph.node.extend(kept)


def _name(proto: ModelProto, chance: random.Random) -> None:
    """Another name for something, everywhere it is used (mostly)."""
    names = sorted({n for node in nodes(proto) for n in (*node.input, *node.output, node.name) if n})
    if not names:
        return
    old, new = chance.choice(names), chance.choice(NAMES)
    for node in nodes(proto):
        node.name = new if node.name == old or (not node.name and chance.random() < 0.5) else node.name
        for group in (node.input, node.output):
            group[:] = [new if name == old else name for name in group]
    for graph in graphs(proto):
        for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            item.name = new if item.name == old else item.name


def _operator(proto: ModelProto, chance: random.Random) -> None:
    node = chance.choice(nodes(proto) or [NodeProto()])
    kinds: tuple[str, ...] = (
        "MatMul",
        "Gemm",
        "Identity",
        "Transpose",
        "Reshape",
        "If",
        "Loop",
        "Scan",
        "Constant",
        "MatMulNBits",
    )
    kinds = (
        *kinds,
        "MatMulInteger",
        "QLinearMatMul",
        "DequantizeLinear",
        "FusedMatMul",
        "Cast",
        "layer",
        "Nothing",
        "",
    )
    if chance.random() < 0.7:
        node.op_type = chance.choice(kinds)
    else:
        node.domain = chance.choice(("", "ai.onnx", "com.microsoft", "local", "ai.onnx.ml", "\x1b[1m"))


_ATTRIBUTES: tuple[str, ...] = (
    "perm",
    "to",
    "axis",
    "axes",
    "transA",
    "transB",
    "alpha",
    "beta",
    "shape",
    "allowzero",
    "value",
)
_ATTRIBUTES = (*_ATTRIBUTES, "value_int", "value_ints", "value_float", "value_string", "then_branch", "else_branch")
_ATTRIBUTES = (
    *_ATTRIBUTES,
    "body",
    "K",
    "N",
    "bits",
    "block_size",
    "accuracy_level",
    "epsilon",
    "num_scan_inputs",
    "x",
)


def _attribute(proto: ModelProto, chance: random.Random) -> None:
    """An attribute more, less, of another value or of another kind."""
    node = chance.choice(nodes(proto) or [NodeProto()])
    way = chance.random()
    if way < 0.2 and node.attribute:
        del node.attribute[chance.randrange(len(node.attribute))]
        return
    if way < 0.7 and node.attribute:
        made = chance.choice(node.attribute)
    else:
        made = node.attribute.add(name=chance.choice(_ATTRIBUTES))
    kind = (
        made.type if made.type and chance.random() < 0.6 else chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 99))
    )
    _set_value(made, kind, proto, chance)
    if chance.random() < 0.1:
        made.ref_attr_name = chance.choice(("perm", "given", "\x1b[1m"))


def _set_value(made: AttributeProto, kind: int, proto: ModelProto, chance: random.Random) -> None:
    integers = (-1, 0, 1, 2, 3, 7, 16, 100, 1 << 31, (1 << 63) - 1, -(1 << 63))
    made.type = kind if kind in AttributeProto.AttributeType.values() else AttributeProto.UNDEFINED
    made.i, made.f = chance.choice(integers), chance.choice((0.0, -1.0, 0.5, float("inf"), float("nan"), 3e38, 1e-45))
    made.s = chance.choice((b"", b"\xff", b"x" * 1000, b"1"))
    made.ints[:] = [chance.choice(integers) for _ in range(chance.choice((0, 1, 2, 3, 80)))]
    made.floats[:] = [chance.choice((0.0, float("nan"), 1.0)) for _ in range(chance.choice((0, 1, 5)))]
    body = GraphProto.FromString(chance.choice(graphs(proto)).SerializeToString())  # perhaps of a graph around it
    if kind == AttributeProto.TENSOR:
        made.t.CopyFrom(chance.choice(tensors(proto) or [TensorProto()]))
    if kind == AttributeProto.GRAPH:
        made.g.CopyFrom(body)
    if kind == AttributeProto.GRAPHS:
        made.graphs.extend([body] * chance.choice((1, 3, 500)))
    keep = {0: (), 1: ("f",), 2: ("i",), 3: ("s",), 4: ("t",), 5: ("g",), 6: ("floats",), 7: ("ints",), 10: ("graphs",)}
    for field in ("f", "i", "s", "floats", "ints"):
        if field not in keep.get(kind, ()) and chance.random() < 0.9:
            made.ClearField(field)


def _functions(proto: ModelProto, chance: random.Random) -> None:
    """Functions that call themselves or each other, or bear the names of operators."""
    pairs = {
        "itself": [("f", "f")],
        "each other": [("f", "g"), ("g", "f")],
        "deep": [(f"f{i}", f"f{i + 1}") for i in range(60)],
    }
    pairs["wide"] = [(f"f{i}", f"f{i + 1}") for i in range(20)]
    chosen = chance.choice(list(pairs))
    domain = chance.choice(("local", "", "com.microsoft"))
    for name, called in pairs[chosen]:
        calls = [helper.make_node(called, ["a"], [f"b{i}"], domain=domain) for i in range(2 if chosen == "wide" else 1)]
        imports = [helper.make_opsetid(d, v) for d, v in (("", 17), (domain, 1)) if d or v == 17]
        proto.functions.append(helper.make_function(domain, name, ["a"], ["b0"], calls, imports))
    if chosen in ("deep", "wide"):
        last = pairs[chosen][-1][1]
        relu = helper.make_node("Relu", ["a"], ["b0"])
        proto.functions.append(helper.make_function(domain, last, ["a"], ["b0"], [relu], [helper.make_opsetid("", 17)]))
    for name in ("MatMul", "MatMulNBits", "Transpose") if chance.random() < 0.3 else ():
        body = [helper.make_node("Sub", ["a", "a"], ["c"])]
        home = "com.microsoft" if name == "MatMulNBits" else ""
        proto.functions.append(helper.make_function(home, name, ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)]))
    first = chance.choice(nodes(proto) or [NodeProto()])
    if first.output and chance.random() < 0.8:
        made = helper.make_node(pairs[chosen][0][0], list(first.input[:1]), list(first.output[:1]), domain=domain)
        first.CopyFrom(made)
    if domain and domain not in {o.domain for o in proto.opset_import}:
        proto.opset_import.add(domain=domain, version=1)


def _imports(proto: ModelProto, chance: random.Random) -> None:
    way = chance.randrange(4)
    holders = [proto, *proto.functions]
    group = chance.choice(holders).opset_import
    if way == 0:
        del group[:]
    elif way == 1 and group:
        chance.choice(group).version = chance.choice((-1, 0, 1, 5, 7, 11, 13, 99, (1 << 63) - 1))
    elif way == 2:
        group.add(domain=chance.choice(("", "ai.onnx", "com.microsoft", "x")), version=chance.choice((1, 13, 99)))
    else:
        proto.ir_version = chance.choice((-1, 0, 1, 2, 3, 4, 7, 9, 11, 13, 99, (1 << 63) - 1))


def _detours(proto: ModelProto, chance: random.Random) -> None:
    """Put long or circular chains of shapes and casts before an input."""
    graph = chance.choice(graphs(proto))
    usable = [n for n in graph.node if n.input]
    if not usable:
        return
    node, prefix = chance.choice(usable), f"d{chance.randrange(10**6)}"
    index = chance.randrange(len(node.input))
    last, made = node.input[index], []
    way, count = chance.randrange(4), chance.choice((1, 3, 30, 70, 200))
    for i in range(count):
        name = f"{prefix}_{i}"
        if way == 0:
            made.append(helper.make_node("Identity", [last], [name]))
        elif way == 1:
            made.append(
                helper.make_node("Transpose", [last], [name], perm=chance.choice(([1, 0], [0, 1], [0], [0, 0])))
            )
        elif way == 2:
            made.append(helper.make_node("Reshape", [last, last], [name]))
        else:
            made.append(helper.make_node("Cast", [last], [name], to=chance.choice((1, 1, 10, 11, 7))))
        last = name
    node.input[index] = last
    position = list(graph.node).index(node)
    for item in reversed(made):
        graph.node.insert(position, item)


def _sparse(proto: ModelProto, chance: random.Random) -> None:
    graph = chance.choice(graphs(proto))
    names = [t.name for t in graph.initializer] or ["s"]
    item = sparse(chance.choice((*names, "new")))
    item.dims[:] = [chance.choice(DIMENSIONS) for _ in range(chance.choice((1, 2, 3)))]
    graph.sparse_initializer.append(item)
    if chance.random() < 0.5:
        for index in range(len(graph.initializer) - 1, -1, -1):
            if graph.initializer[index].name == item.values.name:
                del graph.initializer[index]


def _nested(proto: ModelProto, chance: random.Random) -> None:
    """A body in a body in a body."""
    inner = GraphProto(name="inner")
    inner.CopyFrom(proto.graph)
    del inner.input[:]
    for level in range(chance.choice((1, 3, 10, 24, 29))):
        outer = GraphProto(name=f"level{level}")
        made = helper.make_node("If", ["cond"], ["y"], name=chance.choice(NAMES))
        made.attribute.add(name="then_branch", type=AttributeProto.GRAPH).g.CopyFrom(inner)
        made.attribute.add(name="else_branch", type=AttributeProto.GRAPH).g.CopyFrom(GraphProto())
        outer.node.append(made)
        outer.output.extend(inner.output)
        inner = outer
    for item in proto.graph.input:
        inner.input.add().CopyFrom(item)
    inner.initializer.append(tensor(np.array(True), "cond"))
    proto.graph.CopyFrom(inner)


def _training(proto: ModelProto, chance: random.Random) -> None:
    info = proto.training_info.add()
    info.algorithm.CopyFrom(chance.choice(graphs(proto)))
    info.update_binding.add(key=chance.choice(NAMES), value="w")


MUTATIONS: dict[str, Mutation] = {
    "shape": _dims, "element type": _data_type, "values": _values, "external data": _external,
    "overlapping data": _overlap, "duplicate": _twice, "edges": _edge, "inputs and outputs": _outputs,
    "order": _reorder, "names": _name, "operator": _operator, "attribute": _attribute, "functions": _functions,
    "operator sets": _imports, "detours": _detours, "sparse": _sparse, "nested bodies": _nested,
    "training": _training,
}  # fmt: skip
FILE_MUTATIONS: dict[str, FileMutation] = {"links": _secret}


def mutate(case: Case, chance: random.Random) -> Case:
    """Change a model, and perhaps the files beside it."""
    try:
        proto = ModelProto.FromString(case.model)
    except Exception:  # noqa: BLE001 - it was damaged earlier; protobuf's own errors have no common base
        return case
    name = ""
    for _ in range(chance.choice((1, 1, 2, 3))):
        name = chance.choice((*MUTATIONS, *FILE_MUTATIONS))
        try:
            if name in FILE_MUTATIONS:
                case = FILE_MUTATIONS[name](case, proto, chance)
            else:
                MUTATIONS[name](proto, chance)
        except (
            ValueError,
            TypeError,
            IndexError,
            RecursionError,
            DecodeError,
        ):  # does not apply to what earlier mutations left
            continue
    try:
        data = proto.SerializeToString()
    except Exception:  # noqa: BLE001 - nested too deeply for protobuf to write
        return case
    return case.with_model(data, name) if 0 < len(data) < 3_000_000 else case


def load(case: Case) -> onnx.ModelProto:
    """The model of a case."""
    return ModelProto.FromString(case.model)
