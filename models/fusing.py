"""Fewer and larger operators in a quantised encoder, which ONNX Runtime's own optimiser does not find there. Needs `train`.

    attention    reshape, transpose, product, scale, mask, softmax, product, transpose, reshape  ->  one MultiHeadAttention
    biases       bias + (integer part + outliers' part)  ->  (integer part + bias) + outliers' part: the runtime makes of an integer
                 product, its scales and a bias one operator, where they follow each other

The weights stay what they are, bit for bit. Sums come in another order, so activations near a step of their scale may be rounded to
the other side: outputs differ a little, as they do between processors, and whoever fuses measures the task again.
"""

from pathlib import Path
from typing import Any, Final

from models.errors import Permanent

DOMAIN: Final = "com.microsoft"  # where ONNX Runtime keeps operators of its own


def fused(source: Path, target: Path, *, heads: int, padded: bool) -> int:
    """Write `source` fused as `target`; return how many attentions were found.

    `heads` are those of each attention. `padded` keeps the mask; without, every run must be of rows of one length, and the graph
    has no `attention_mask` any more. A graph that is fused stays what it is.

    Raises `Permanent` where there is no attention of the known shape, or one of another.
    """
    import onnx

    model = onnx.load(source)
    graph = Graph(model.graph)
    found = [node for node in graph.nodes if node.op_type == "Softmax"]
    for softmax in found:
        _attention(graph, softmax, heads, "attention_mask" if padded else "")
    already: int = sum(node.op_type == "MultiHeadAttention" for node in model.graph.node)
    if not found and not already:
        raise Permanent(f"{source.name} has no attention", hint="is it a transformer's encoder?")
    for node in graph.nodes:
        _bias(graph, node)
    graph.settle()
    if DOMAIN not in {one.domain for one in model.opset_import}:
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target)
    return len(found) + already


class Graph:
    """An ONNX graph under change: who makes a value, who uses it, what is constant."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self.nodes: list[Any] = list(graph.node)
        self.constants = {one.name: one for one in graph.initializer}
        self._makers = {name: node for node in self.nodes for name in node.output}
        self._users: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self._users.setdefault(name, []).append(node)

    def maker(self, name: str, *kinds: str) -> Any:
        """Return the node that makes a value. Raises `Permanent` where it is of another kind."""
        node = self._makers.get(name)
        if node is None or node.op_type not in kinds:
            raise Permanent(f"{name} is not made by {' or '.join(kinds)}", hint="export the encoder with eager attention")
        return node

    def user(self, name: str, kind: str) -> Any:
        """Return the one node that uses a value. Raises `Permanent` where there are others, or it is of another kind."""
        users = self._users.get(name, [])
        if len(users) != 1 or users[0].op_type != kind:
            raise Permanent(f"{name} is not used by one {kind}", hint="export the encoder with eager attention")
        return users[0]

    def constant(self, name: str) -> float:
        """Return a constant number, an initial value of the graph or a node of its own."""
        from onnx import numpy_helper

        value = self.constants[name] if name in self.constants else self.maker(name, "Constant").attribute[0].t
        return float(numpy_helper.to_array(value))

    def is_made_by(self, name: str, kind: str) -> bool:
        """Say whether a node of this kind makes a value."""
        return name in self._makers and self._makers[name].op_type == kind

    def make(self, node: Any) -> None:
        """Add a node; what made its outputs before does so no more."""
        self.nodes.append(node)
        self._makers |= dict.fromkeys(node.output, node)

    def settle(self) -> None:
        """Drop what nobody uses any more, and put the rest in an order in which everything is made before it is used."""
        wanted = {one.name for one in self._graph.output}
        kept: list[Any] = []
        stack = [self._makers[name] for name in wanted]
        seen: set[int] = set()
        while stack:  # from the outputs back; a node goes in when all that it uses is there
            node = stack[-1]
            behind = [self._makers[name] for name in node.input if name in self._makers and id(self._makers[name]) not in seen]
            if behind:
                stack += behind
                continue
            stack.pop()
            if id(node) not in seen:
                seen.add(id(node))
                kept.append(node)
        used = {name for node in kept for name in node.input}
        for part in (self._graph.initializer, self._graph.input):
            for one in [one for one in part if one.name not in used]:
                part.remove(one)
        del self._graph.node[:]
        self._graph.node.extend(kept)
        self.nodes = kept


def _attention(graph: Graph, softmax: Any, heads: int, mask: str) -> None:
    from onnx import TensorProto, helper

    masked = graph.maker(softmax.input[0], "Add")
    scaled = graph.maker(masked.input[0], "Mul")
    scores = graph.maker(scaled.input[0], "MatMul")
    weighed = graph.user(softmax.output[0], "MatMul")
    split = [graph.maker(name, "Transpose") for name in (*scores.input, weighed.input[1])]
    queries, keys, values = (graph.maker(node.input[0], "Reshape").input[0] for node in split)
    joined = graph.user(graph.user(weighed.output[0], "Transpose").output[0], "Reshape")
    scale = graph.constant(scaled.input[1])
    more: list[str] = []
    if mask:
        if not graph.is_made_by(f"{mask}/int32", "Cast"):
            graph.make(helper.make_node("Cast", [mask], [f"{mask}/int32"], to=TensorProto.INT32))
        more = ["", f"{mask}/int32"]
    graph.make(
        helper.make_node(
            "MultiHeadAttention",
            [queries, keys, values, *more],
            list(joined.output),
            f"{softmax.name}/fused",
            domain=DOMAIN,
            num_heads=heads,
            scale=scale,
        )
    )


def _bias(graph: Graph, node: Any) -> None:
    """Turn bias + (inner + outer) into (inner + bias) + outer, in place."""
    if node.op_type != "Add" or node.input[0] not in graph.constants or not graph.is_made_by(node.input[1], "Add"):
        return
    both = graph.maker(node.input[1], "Add")
    if graph.is_made_by(both.input[1], "MatMul"):  # the outliers' part (`models.export.apart`)
        bias, outer = node.input[0], both.input[1]
        both.input[1] = bias
        node.input[0], node.input[1] = both.output[0], outer
