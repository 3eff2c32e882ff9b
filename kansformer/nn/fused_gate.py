"""A converted gated block with activation, curve and the gate's product in one kernel.

A block's own forward multiplies what the activation returns; the kernel does so itself and saves a pass over memory.
Whether a forward is exactly `down(act(gate(x)) * up(x))` is read from what it does, not from its class. `convert` does
this by itself; `convert(model, fuse=False)` does not, and `unfuse_gates(model)` undoes it, also in a loaded model.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial, wraps
from types import MethodType
from typing import TypeGuard

import torch
from torch import Tensor, nn

from kansformer.nn.activation import LearnedActivation
from kansformer.nn.base import is_watched


def gated_product(act: nn.Module, gate: Tensor, up: Tensor) -> Tensor:
    """`act(gate) * up`, in one pass unless that could be told apart: where `act` is another module than a learned
    activation, or someone watches it."""
    if _is_plain(act):
        return act.gated(gate, up)
    return act(gate) * up


def _is_plain(act: nn.Module) -> TypeGuard[LearnedActivation]:
    """Whether `act.gated` computes what calling it does."""
    return isinstance(act, LearnedActivation) and type(act).forward is LearnedActivation.forward and not is_watched(act)


@dataclass(frozen=True)
class GatedNames:
    """Names of the children of a gated block, and its class's own forward."""

    replaces: Callable[..., object]
    gate: str
    act: str
    up: str
    down: str


@cache
def _gated_forward(names: GatedNames) -> Callable[..., object]:
    """A forward for blocks of one class: the same bits as its own. There is one for all of them, as a method of each,
    so that they are one compilation.

    It steps aside for the class's forward whenever that could be told apart: for more arguments, for a module that has
    taken the activation's place, for anyone who watches the activation, and for a class whose forward was changed.
    """

    @wraps(names.replaces)
    def forward(self: nn.Module, *args: object, **kwargs: object) -> object:
        children: dict = self._modules
        act = children[names.act]
        own = type(self).forward
        if len(args) != 1 or kwargs or not _is_plain(act) or own is not names.replaces:
            return own(self, *args, **kwargs)
        gated = act.gated(children[names.gate](*args), children[names.up](*args))
        return children[names.down](gated)

    forward.__name__ = "forward"  # by which a pickled method is found again, as that of the class
    forward.gated_names = names  # type: ignore[attr-defined]
    return forward


def gated_names(block: nn.Module) -> GatedNames | None:
    """Of a block whose forward `fuse_gate` has replaced; None of any other."""
    return getattr(getattr(vars(block).get("forward"), "__func__", None), "gated_names", None)


def _drop_own_forward(block: nn.Module) -> None:
    """Remove an instance attribute `forward` that is the class's own, as a pickled block has it."""
    forward = vars(block).get("forward")
    if isinstance(forward, MethodType) and forward.__self__ is block and forward.__func__ is type(block).forward:
        del vars(block)["forward"]


def fuse_gate(block: nn.Module, act: str) -> bool:
    """Replace the forward of a block, whose learned activation has that name, by one that makes a single pass.

    A pickled block has its class's forward again.

    Returns:
        Whether it was; it is not, unless the block is a plain gated one.
    """
    _drop_own_forward(block)
    # A dropout that only training applies shows in the graph of training.
    mode = block.training
    try:
        block.training = True
        names = _read_names(block, act)
        block.training = False
        if names is None or _read_names(block, act) != names:
            return False
    finally:
        block.training = mode
    _attach(block, names)
    return True


def unfuse_gates(model: nn.Module) -> None:
    """Give every block of a model its class's forward again: the inverse of `fuse_gate`."""
    for module in model.modules():
        if getattr(vars(module).get("_replicate_for_data_parallel"), "func", None) is not _replicate:
            continue
        del vars(module)["_replicate_for_data_parallel"]
        _drop_own_forward(module)
        if gated_names(module) is not None:  # else someone has put another one there
            del vars(module)["forward"]


def _replicate(block: nn.Module, names: GatedNames) -> nn.Module:
    """`_replicate_for_data_parallel` of a fused block: the replica's forward runs on the replica."""
    replica = type(block)._replicate_for_data_parallel(block)
    _attach(replica, names)
    return replica


def _attach(block: nn.Module, names: GatedNames) -> None:
    block.__dict__["forward"] = MethodType(_gated_forward(names), block)
    block.__dict__["_replicate_for_data_parallel"] = partial(_replicate, block, names)


@dataclass(eq=False)
class _Traced:
    """What stands for a tensor while a forward is read: it knows where it came from, and can be multiplied only."""

    steps: list["_Traced"]
    child: str | None = None
    inputs: tuple["_Traced", ...] = ()

    def __mul__(self, other: object) -> "_Traced":
        if not isinstance(other, _Traced):
            raise TypeError("only products of two of them are followed")
        return self.follow(None, self, other)

    mul = __mul__

    def follow(self, child: str | None, *inputs: "_Traced") -> "_Traced":
        """The result of one more step: of a child, or a product."""
        self.steps.append(_Traced(self.steps, child, inputs))
        return self.steps[-1]

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None) -> "_Traced":
        if function is not torch.mul or kwargs:
            raise TypeError("only products are followed")
        one, other = args
        return one * other


@dataclass(frozen=True)
class _Child:
    """A child module while a forward is read."""

    name: str

    def __call__(self, x: _Traced) -> _Traced:
        return x.follow(self.name, x)


def _read_names(block: nn.Module, act: str) -> GatedNames | None:
    """The names, if the block computes down(act(gate(x)) * up(x)) and nothing else.

    Its forward runs on a stand-in of the block. `torch.fx` would do the same, but changes all modules of the process
    while it traces, so that a model that runs in another thread fails.
    """
    if "forward" in block.__dict__:
        return None
    x = _Traced([])
    try:
        stand_in = copy.copy(block)
        stand_in.__dict__["_modules"] = {name: _Child(name) for name in block._modules}
        output = type(block).forward(stand_in, x)
    except Exception:  # whatever it runs into says that the forward is not that simple
        return None
    if not isinstance(output, _Traced) or len(x.steps) != 5 or output is not x.steps[-1] or output.child is None:
        return None
    (product,) = output.inputs
    if product.child is not None or len(product.inputs) != 2:
        return None
    for activated, up in (product.inputs, product.inputs[::-1]):
        if activated.child != act or up.child is None or up.inputs != (x,):
            continue
        (gate,) = activated.inputs
        if gate.child is not None and gate.inputs == (x,):
            return GatedNames(type(block).forward, gate.child, act, up.child, output.child)
    return None
