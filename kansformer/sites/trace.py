"""Read a feed-forward network from what its block computes, where the activation is called as a function.

The block runs once on random input. Of every tensor it is noted which linear layers it comes from, and whether through
an activation, as long as nothing but element-wise operations and cuts of the last axis are between.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kansformer.sites.parts import FUNCTIONS, linears_of
from kansformer.sites.site import Site, runs
from kansformer.sites.verify import find_call, undisturbed

SEED = 0

ACTIVATIONS = {function.__name__ for function in FUNCTIONS} | {"selu", "celu", "prelu", "square", "pow", "erf", "relu_"}
TRANSPARENT = {
    "mul", "multiply", "chunk", "split", "tensor_split", "unbind", "__getitem__", "dropout", "to", "type_as", "float",
    "half", "bfloat16", "contiguous", "clone", "detach", "clamp", "neg", "div", "true_divide", "layer_norm", "rms_norm",
    "alpha_dropout", "feature_alpha_dropout", "mul_", "__mul__", "__rmul__", "__imul__",
}  # fmt: skip
"""Functions of torch, by name, through which a hidden channel stays in its place."""


SUMS = {"add", "sub", "rsub", "__add__", "__radd__", "__sub__", "__rsub__", "add_", "sub_"}
"""Functions that are transparent where they have one tensor, and a number."""


@dataclass(frozen=True)
class Origin:
    """A linear layer that a tensor comes from, by name, and whether through an activation; None for anything else."""

    layer: str | None
    activated: bool = False


@dataclass(frozen=True)
class Traced:
    """A feed-forward network as its block computes it: names of its layers, those of `first` with the gate first."""

    first: tuple[str, ...]
    down: str


def trace_feed_forward(block: nn.Module) -> Traced | None:
    """The one feed-forward network that a block computes by its own linear layers; None if there is none, or several.

    d → m → d with an activation on the way: of two first layers that are multiplied, the gate goes through it.
    """
    shapes = linears_of(block)
    if not runs(block) or not any(_could_be_last(down, shapes) for down in shapes):
        return None  # without running it
    networks = {
        (tuple(sorted(origins, key=lambda origin: not origin.activated)), down)
        for down, origins in _layer_inputs(block, shapes)
        if down and _is_feed_forward(origins, down, shapes)
    }
    if len(networks) != 1:
        return None
    ((origins, down),) = networks
    return Traced(tuple(str(origin.layer) for origin in origins), down)


def computes_activation(block: nn.Module) -> bool:
    """Whether a block with one or two linear layers returns them through an activation that it calls as a function."""
    shapes = linears_of(block)
    if not 1 <= len(shapes) <= 2 or not runs(block):
        return False
    outputs = [origins for name, origins in _layer_inputs(block, shapes) if name == ""]
    return any({o.layer for o in origins} == set(shapes) and any(o.activated for o in origins) for origins in outputs)


def _could_be_last(down: str, shapes: dict[str, tuple[int, int]]) -> bool:
    """Whether another layer has the shape of a first one; square layers only where there are no more than two."""
    hidden, width = shapes[down]
    others = [shape for name, shape in shapes.items() if name != down]
    return (hidden != width or len(shapes) == 2) and bool({(width, hidden), (width, 2 * hidden)} & {*others})


def _is_feed_forward(origins: frozenset[Origin], down: str, shapes: dict[str, tuple[int, int]]) -> bool:
    hidden, width = shapes[down]
    names = [origin.layer for origin in origins]
    if None in names or len(set(names)) != len(names) or not any(origin.activated for origin in origins):
        return False
    sizes = [shapes[str(name)] for name in names]
    if len(sizes) == 2:
        return sizes == [(width, hidden)] * 2
    return sizes in ([(width, hidden)], [(width, 2 * hidden)])


def _layer_inputs(block: nn.Module, shapes: dict[str, tuple[int, int]]) -> Iterable[tuple[str, frozenset[Origin]]]:
    """What goes into each linear layer of a block; under the empty name, what the block returns."""
    like = next((p for p in block.parameters() if p.is_floating_point()), None)
    if like is None:
        return []
    site = Site(path="", kind="plain", width=0, hidden=0, slots={})
    for width in dict.fromkeys(shape[0] for shape in shapes.values()):
        with undisturbed(block):
            run = find_call(block, replace(site, width=width), like, torch.Generator().manual_seed(SEED))
            if run is None:
                continue
            record = _Record()
            handles = []
            try:
                for name in shapes:
                    layer = block.get_submodule(name)
                    handles.append(layer.register_forward_pre_hook(partial(record.enter, name)))
                    handles.append(layer.register_forward_hook(partial(record.leave, name)))
                with record:
                    output = run(block)
            finally:
                for handle in handles:
                    handle.remove()
            return [*record.inputs, ("", record.origins_of([output]))]
    return []


class _Record(TorchFunctionMode):
    """Notes the origins of every tensor while a block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[str, frozenset[Origin]]] = []
        self._origins: dict[int, frozenset[Origin]] = {}
        self._kept: list[Tensor] = []  # or another tensor could get the same id

    def enter(self, name: str, module: nn.Module, args: tuple) -> None:
        """A linear layer is called."""
        self.inputs.append((name, self.origins_of(args)))

    def leave(self, name: str, module: nn.Module, args: tuple, output: Tensor) -> None:
        """A linear layer has its output."""
        self._note([output], frozenset({Origin(name)}))

    def origins_of(self, values: Iterable[object]) -> frozenset[Origin]:
        """Of all tensors among values, but for the weights of modules."""
        tensors = [value for value in values if isinstance(value, Tensor) and not isinstance(value, nn.Parameter)]
        unknown = frozenset({Origin(None)})
        return frozenset().union(*(self._origins.get(id(tensor), unknown) for tensor in tensors))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call the function, and note the origins of what it returns."""
        result = func(*args, **(kwargs or {}))
        name = func.__name__
        values = [*args, *(kwargs or {}).values()]
        if name in ACTIVATIONS:
            origins = frozenset(replace(origin, activated=True) for origin in self.origins_of(values))
        elif name in TRANSPARENT or (name in SUMS and sum(isinstance(value, Tensor) for value in values) == 1):
            origins = self.origins_of(values)
        else:
            return result
        self._note(result if isinstance(result, tuple | list) else [result], origins)
        return result

    def _note(self, tensors: Iterable[object], origins: frozenset[Origin]) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self._kept.append(tensor)
                self._origins[id(tensor)] = origins
