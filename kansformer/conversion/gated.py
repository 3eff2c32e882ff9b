"""The short way through a converted gated block: activation, curve and the gate's product in one kernel.

A block's own forward multiplies what the activation returns; the kernel does so itself and saves a pass over memory.
Whether a forward is exactly `down(act(gate(x)) * up(x))` is read from its graph, not from its class.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import fx, nn

from kansformer.nn import LearnedActivation
from kansformer.nn.base import is_watched

_PRODUCTS = {"call_function": (operator.mul, torch.mul), "call_method": ("mul",)}


@dataclass(frozen=True)
class GatedForward:
    """The forward of one block, kept as its instance attribute `forward`: the same bits as its class's own.

    It steps aside for the class's forward whenever that could be told apart: for more arguments, for a module that has
    taken the activation's place, for anyone who watches the activation, and for a class whose forward was changed.
    """

    block: nn.Module
    replaces: Callable[..., object]
    gate: str
    act: str
    up: str
    down: str

    def __call__(self, *args: object, **kwargs: object) -> object:
        act = getattr(self.block, self.act)
        forward = type(self.block).forward
        plain = isinstance(act, LearnedActivation) and not is_watched(act) and forward is self.replaces
        if len(args) != 1 or kwargs or not plain:
            return forward(self.block, *args, **kwargs)
        (x,) = args
        gate, up, down = (getattr(self.block, name) for name in (self.gate, self.up, self.down))
        return down(act(gate(x), factor=up(x)))


def shorten_gated_forward(block: nn.Module, act: str) -> bool:
    """Give a block with a learned activation the short way, if its forward is a plain gated one.

    Args:
        block: owner of the activation.
        act: name of the activation.

    Returns:
        Whether it was.
    """
    # A dropout that only training applies shows in the graph of training.
    mode = block.training
    try:
        block.training = True
        names = _gated_names(block, act)
        block.training = False
        if names is None or _gated_names(block, act) != names:
            return False
    finally:
        block.training = mode
    gate, up, down = names
    _attach(block, GatedForward(block, type(block).forward, gate, act, up, down))
    return True


def restore_forwards(model: nn.Module) -> None:
    """Take every short way out of a model."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), GatedForward):
            del module.__dict__["forward"], module.__dict__["_replicate_for_data_parallel"]


@dataclass(frozen=True)
class _Replicate:
    """`_replicate_for_data_parallel` of a block with a short way: the replica's runs on the replica."""

    forward: GatedForward

    def __call__(self) -> nn.Module:
        block = self.forward.block
        replica = type(block)._replicate_for_data_parallel(block)
        _attach(replica, replace(self.forward, block=replica))
        return replica


def _attach(block: nn.Module, forward: GatedForward) -> None:
    block.__dict__["forward"] = forward
    block.__dict__["_replicate_for_data_parallel"] = _Replicate(forward)


class _ChildrenAreLeaves(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _gated_names(block: nn.Module, act: str) -> tuple[str, str, str] | None:
    """Names of gate, up and down, if the block computes down(act(gate(x)) * up(x)) and nothing else."""
    if "forward" in block.__dict__:
        return None
    try:
        graph = _ChildrenAreLeaves().trace(block)
    except Exception:  # whatever tracing runs into says that the forward is not that simple
        return None
    nodes = [node for node in graph.nodes if node.op != "placeholder" or node.users]
    if len(nodes) != 7:  # x, four modules, the product, the output
        return None
    x, *_, output = nodes
    down = output.args[0]
    product = _only_input(down)
    if product is None or product.kwargs or product.target not in _PRODUCTS.get(product.op, ()):
        return None
    for activated, up in (product.args, product.args[::-1]):
        gate = _only_input(activated)
        if _target(activated) == act and _only_input(gate) is x and _only_input(up) is x:
            return _target(gate), _target(up), _target(down)
    return None


def _target(node: object) -> str:
    return str(node.target) if isinstance(node, fx.Node) else ""


def _only_input(node: object) -> fx.Node | None:
    """The input of a call of a child module with one argument."""
    if isinstance(node, fx.Node) and node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        argument = node.args[0]
        return argument if isinstance(argument, fx.Node) else None
    return None
