"""The way through a graph of torch.fx, from the image to the scores: each operation a layer.

Nets of ours are chains: a layer reads what the one before it gave, and a sum what an earlier one
gave as well.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from golf_opt.task.arch import Net
from golf_opt.task.layers import Shape
from golf_opt.task.modules import translate
from golf_opt.task.modules.factory import show_line, tensors_of, trained
from golf_opt.task.modules.translate import NotOurs, Row, as_module, name_of

IMAGE = -1  # the place of the input, before all layers


@dataclass
class Traced:
    """A module as layers: what `build_net` takes, and whose tensors theirs are."""

    rows: list[Row] = field(default_factory=list)
    tensors: dict[str, str] = field(default_factory=dict)  # ours -> the user's
    normalised: bool = False  # the module's scores went through a log-softmax

    def tensors_of(self, net: Net, module: nn.Module) -> dict[str, Any]:
        """Return the module's tensors as those of the net, `weights/...` and `buffers/...`."""
        theirs = tensors_of(module)
        named = [("weights", p) for p in net.parameters] + [("buffers", b) for b in net.buffers]
        return {
            f"{kind}/{p.name}": theirs[self.tensors[p.name]].detach().numpy().reshape(p.shape)
            for kind, p in named
        }


class Walk:
    """Reads a graph from the image to the scores, a node at a time."""

    def __init__(self, module: nn.Module) -> None:
        self.traced = Traced()
        self._module = module
        self._at: dict[fx.Node, int] = {}  # a value -> the layer whose output it is
        self._shape: Shape = ()  # of the last layer's output
        self._first: dict[str, int] = {}  # a module with tensors -> the layer that it became

    @property
    def _last(self) -> int:
        return len(self.traced.rows) - 1

    def visit(self, node: fx.Node) -> None:
        """Take a node of the graph into the layers."""
        if node.op == "placeholder":
            if not self._at:  # what forward may be given besides the image is left to its default
                self._at[node] = IMAGE
                self._shape = _shape(node)
        elif node.op == "output":
            self._end(node.args[0])
        elif node.op != "get_attr" and _is_tensor(node):
            called = self._module.get_submodule(str(node.target)) if _calls_module(node) else None
            try:
                self._operation(node, called)
            except (NotOurs, TypeError, ValueError) as error:
                why = str(error) if isinstance(error, NotOurs) else "options that are no numbers"
                what = f" with {why}" if why else ""
                uses = f"uses {name_of(node.target, called)}{what}{show_line(node.stack_trace)}"
                raise NotOurs(f"{uses}, which is no layer of ours") from error

    def _operation(self, node: fx.Node, called: nn.Module | None) -> None:
        if self.traced.normalised:
            raise NotOurs("what comes before it, a log-softmax")
        if called is None:
            if node.target in translate.SUMS:
                self._sum(node)
            elif node.target in translate.PRODUCTS:
                self._product(node)
            elif node.target in translate.MEANS:
                self._mean(node)
            elif node.target in translate.FUNCTIONS:
                self._layer(node, as_module(node.target, node.args, dict(node.kwargs)))
            else:
                raise NotOurs
        else:
            self._layer(node, called)

    def _layer(self, node: fx.Node, module: nn.Module) -> None:
        source = _source(node)
        if source not in self._at:
            raise NotOurs(f"{source}, which is no output of a layer")
        if type(module) in translate.SAME_NUMBERS:
            self._same_numbers(node, source)
        elif type(module) in translate.LOG_SOFTMAX:
            if len(_shape(source)) != 1 or getattr(module, "dim", None) not in (1, -1):
                raise NotOurs("another dimension than the scores'")
            self.traced.normalised = True
            self._at[node] = self._at[source]
        elif type(module) in translate.LAYERS:
            if module._forward_hooks or module._forward_pre_hooks:
                raise NotOurs("hooks")
            row = translate.LAYERS[type(module)](module, _shape(source))
            self._append(node, source, row, module if _calls_module(node) else None)
        else:
            raise NotOurs

    def _same_numbers(self, node: fx.Node, source: fx.Node) -> None:
        before, after = _shape(source), _shape(node)
        squeezed = [side for side in before if side > 1] == [side for side in after if side > 1]
        flat = after == (math.prod(before),)
        if not after or not (flat or squeezed):
            raise NotOurs(f"a shape of {list(after)} for {list(before)}")
        self._at[node] = self._at[source]

    def _mean(self, node: fx.Node) -> None:
        source = _source(node)
        axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        pair = {axis % 4 for axis in axes} if isinstance(axes, (tuple, list)) else None
        if source not in self._at or len(_shape(source)) != 3 or pair != {2, 3}:
            raise NotOurs("other axes than those of the image")
        self._append(node, source, translate._global_pool(nn.AdaptiveAvgPool2d(1), _shape(source)))

    def _sum(self, node: fx.Node) -> None:
        both = [*node.args, *(node.kwargs[key] for key in ("other",) if key in node.kwargs)]
        if node.kwargs.get("alpha", 1) != 1 or len(both) != 2:
            raise NotOurs("alpha")
        left, right = both
        if not all(isinstance(side, fx.Node) and side in self._at for side in both):
            raise NotOurs("what is no output of a layer")
        assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
        if _shape(left) != _shape(right):
            raise NotOurs(f"shapes {list(_shape(left))} and {list(_shape(right))}")
        now, earlier = (left, right) if self._at[left] == self._last else (right, left)
        place = self._at[earlier]
        if place == IMAGE:
            raise NotOurs("the image itself")
        if "name" not in self.traced.rows[place]:
            raise NotOurs("the output of a layer that is used again")
        self._append(node, now, {"kind": "add", "of": self.traced.rows[place]["name"]})

    def _product(self, node: fx.Node) -> None:
        sides = [side for side in node.args if isinstance(side, fx.Node)]
        inner = [side for side in sides if side in self._at]
        factors = [side for side in sides if side.op == "get_attr"]
        if len(inner) != 1 or len(factors) != 1:
            raise NotOurs
        path, shape = str(factors[0].target), _shape(inner[0])
        parameter = trained(self._module).get(path)
        per_channel = (shape[0], *[1] * (len(shape) - 1))
        if parameter is None or tuple(parameter.shape[-len(shape) :]) != per_channel:
            raise NotOurs("other than one trained factor per channel")
        if path in self._first:
            raise NotOurs("a factor that is used again")
        self._first[path] = len(self.traced.rows)
        row = self._append(node, inner[0], {"kind": "scale"}, name=path)
        self.traced.tensors[f"{row['name']}.weight"] = path

    def _append(
        self, node: fx.Node, source: fx.Node, row: Row, module: nn.Module | None = None,
        name: str = "",
    ) -> Row:  # fmt: skip
        """Add a layer that makes a value of the graph of another one."""
        kind = row["kind"]
        if self._at[source] != self._last:
            raise NotOurs("what a layer before the last one gave, a branch that is no sum")
        if kind in translate.PER_CHANNEL and _shape(source)[0] != self._shape[0]:
            raise NotOurs("an image that is flattened")
        if kind == "avg_pool" and _ends_flat(node):
            row = {"kind": "global_avg_pool"}
        path = str(node.target) if module is not None else name
        if module is not None and tensors_of(module):
            if path in self._first:
                first = self.traced.rows[self._first[path]]
                row = {"kind": "reuse", "of": first["name"]}
            else:
                self._first[path] = self._last + 1
        if row["kind"] != "reuse":
            row["name"] = self._free(path, row["kind"])
            if module is not None:
                for own in tensors_of(module):
                    self.traced.tensors[f"{row['name']}.{own}"] = f"{path}.{own}"
        self.traced.rows.append(row)
        self._at[node] = self._last
        if kind not in translate.EACH_BY_ITSELF:  # they leave an image one, flattened or not
            flat = row["kind"] == "global_avg_pool"
            self._shape = _shape(node)[:1] if flat else _shape(node)
        return row

    def _free(self, path: str, kind: str) -> str:
        """Return a name for a layer: that of the user's module where it can be one."""
        taken = {row.get("name") for row in self.traced.rows}
        name = re.sub(r"\W", "_", path, flags=re.ASCII)[:50]
        if not re.match("[a-zA-Z]", name):  # of a Sequential, or of no module
            numbered = (f"{kind}{number}" for number in range(1, len(taken) + 2))
            return next(name for name in numbered if name not in taken)
        again = (f"{name}_{number}" for number in range(2, len(taken) + 3))
        return next(free for free in (name, *again) if free not in taken)

    def _end(self, value: Any) -> None:
        if not isinstance(value, fx.Node) or self._at.get(value) != self._last:
            raise NotOurs("gives other scores than the output of its last layer")
        if not self.traced.rows:
            raise NotOurs("has no layer")
        if len(self._shape) == 3 and self._shape[1:] == (1, 1):
            name = self._free("", "global_avg_pool")
            self.traced.rows.append({"kind": "global_avg_pool", "name": name})


def _calls_module(node: fx.Node) -> bool:
    return node.op == "call_module"


def _is_tensor(node: fx.Node) -> bool:
    return node.meta.get("tensor_meta") is not None  # a tuple's is one of tensors


def _shape(node: fx.Node) -> Shape:
    """Return the shape of a value for one image."""
    shape = getattr(node.meta.get("tensor_meta"), "shape", ())
    return tuple(shape[1:])


def _source(node: fx.Node) -> fx.Node:
    """Return the value that an operation works on."""
    source = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(source, fx.Node):
        raise NotOurs("no tensor")
    return source


def _ends_flat(node: fx.Node) -> bool:
    """Whether all that reads an average sees a number per channel, and no image of 1x1."""
    if len(_shape(node)) == 1:
        return True
    return bool(node.users) and all(
        user.op != "output" and len(_shape(user)) == 1 for user in node.users
    )
