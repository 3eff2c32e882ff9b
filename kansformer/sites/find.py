"""Find the feed-forward networks of a model by the shape of its modules, not by a list of classes.

Letters: d model width, m hidden width.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

from torch import nn

from kansformer.sites.parts import CONVOLUTIONS, activations_of, linears_of, stacks_of
from kansformer.sites.site import Site, Slot, join_path, runs
from kansformer.sites.trace import Traced, computes_activation, trace_feed_forward

# Only tells which of two equal-shaped first layers goes through the activation; a name not listed is taken as `up`.
GATE_NAMES = ("gate", "w1", "wi_0", "gate_proj", "linear_1", "fc1_g")

# Where no activation module tells a feed-forward network from other pairs of layers, its class has to say so.
FFN_CLASS = re.compile(r"mlp|ffn|feed_?forward|intermediate", re.IGNORECASE)

LAST_LAYER = re.compile(r"down|output|w2|wo|fc2")
"""In the name of a stack of weights."""

FFN_NAMES = ("mlp", "ffn", "feed_forward")

CALLED_AS_FUNCTION = "its activation is called as a function inside the forward, where no module can replace it"


def find_sites(model: nn.Module) -> list[Site]:
    """All feed-forward networks of a model, in the order of its modules, numbered by layer.

    A site is an activation together with two linear layers d → m → d, three for a gate, or d → 2m and m → d for a
    fused gate: in one module (alone or beside an attention), in two neighbours, or as 3-D stacks of experts. Where the
    activation is called as a function, a class that is named like a feed-forward network and has no other layers counts
    too, without the slot `act`.
    """
    sites = []
    for path, module in model.named_modules():
        if _inside_attention(model, path):
            continue
        own = _own_site(path, module)
        sites += [own] if own else [*_split_sites(path, module)]
        if experts := _experts_site(path, module):
            sites.append(experts)
    return _numbered(sites)


@dataclass(frozen=True)
class Layers:
    """The linear layers of a feed-forward network, by name, as read from their shapes."""

    kind: str
    first: tuple[str, ...]
    down: str
    width: int
    hidden: int


def _own_site(path: str, module: nn.Module) -> Site | None:
    """All linear layers, and the activation if it is a module, are children of one module."""
    activations = activations_of(module)
    linears = linears_of(module)
    layers = read_layers(linears) if len(linears) > 1 else None
    # A convolution over the hidden channels makes it a state-space mixer (Mamba), whose activation is not an FFN's; one
    # over the model's channels stands before the network (ConvNeXt).
    convolutions = [child for child in module.children() if isinstance(child, CONVOLUTIONS)]
    traced = None
    if not activations and len(linears) > 1 and (traced := trace_feed_forward(module)) is not None:
        layers = layers_of(traced, linears)
    if layers is None or any(child.out_channels != layers.width for child in convolutions):
        return None
    uses_all = {*layers.first, layers.down} == set(linears)
    if not activations and traced is None and not (FFN_CLASS.search(type(module).__name__) and uses_all):
        return None
    alone = not convolutions and not any(any(child.children()) for child in module.children())
    alone = alone and (traced is None or uses_all)
    host = path if alone and runs(module) else None
    return _linear_site(path, layers, host, path, activations, gate=traced.first[0] if traced is not None else None)


def layers_of(traced: Traced, linears: dict[str, tuple[int, int]]) -> Layers:
    """The layers of a feed-forward network that was read from what its block computes."""
    hidden, width = linears[traced.down]
    kind = "gated" if len(traced.first) == 2 else "plain"
    if linears[traced.first[0]][1] != hidden:
        kind = "fused"
    return Layers(kind, traced.first, traced.down, width, hidden)


def _split_sites(path: str, module: nn.Module) -> Iterator[Site]:
    """The first layers and the activation live in one child, the last layer in a sibling (BERT) or beside it (CLVP)."""
    children = dict(module.named_children())
    order = list(children)
    last = {name: shape for name, shape in linears_of(module).items() if "." not in name}
    for name, child in children.items():
        if not activations_of(child):
            last |= {f"{name}.{n}": shape for n, shape in linears_of(child).items()}
    for name, child in children.items():
        activations = activations_of(child)
        linears = {f"{name}.{n}": shape for n, shape in linears_of(child).items()}
        if len(linears) not in (1, 2):
            continue
        if not (activations or FFN_CLASS.search(type(child).__name__) or computes_activation(child)):
            continue
        for down, shape in last.items():
            layers = read_layers(linears | {down: shape}) if down not in linears else None
            if layers is None or layers.down != down or set(layers.first) != set(linears):
                continue
            if layers.width == layers.hidden and order.index(down.partition(".")[0]) < order.index(name):
                continue  # two square layers in the other order, such as a projection and a pooler (FNet)
            del last[down]  # a layer with two networks (text and query) pairs each with its own last layer
            owner = join_path(path, name)
            yield _linear_site(path, layers, owner, owner, activations, kind="split")
            break


def _experts_site(path: str, module: nn.Module) -> Site | None:
    """Stacks of experts: 3-D weights (experts, ·, ·) and an activation that all of them share."""
    activations = activations_of(module)
    stacks = stacks_of(module)
    if not activations or len(stacks) < 2:
        return None
    for down, first in permutations(stacks, 2):
        for width, hidden in (stacks[down], stacks[down][::-1]) if LAST_LAYER.search(down) else ():
            if sorted(stacks[first]) in (sorted((width, hidden)), sorted((width, 2 * hidden))):
                slots = {"act": _activation_slot(path, activations, hidden)}
                reason = "its weights are a stack of experts, which take curves in the act slot only"
                missing = dict.fromkeys(("input", "up", "gate", "down"), reason)
                return Site(path=path, kind="experts", width=width, hidden=hidden, slots=slots, missing=missing)
    return None


def read_layers(linears: dict[str, tuple[int, int]]) -> Layers | None:
    """The one feed-forward network that can be read from the (in, out) of named layers, None if there is none.

    d → m → d read backwards is m → d → m. Of two readings the one with a gate beside up is right, then the one whose
    last layer is defined last.
    """
    order = list(linears)
    readings = []
    for down, (hidden, width) in linears.items():
        same = tuple(n for n, shape in linears.items() if n != down and shape == (width, hidden))
        fused = tuple(n for n, shape in linears.items() if n != down and shape == (width, 2 * hidden))
        if width != hidden and len(same) in (1, 2):
            readings.append(Layers("plain" if len(same) == 1 else "gated", same, down, width, hidden))
        elif len(fused) == 1 and not same:
            readings.append(Layers("fused", fused, down, width, hidden))
    if not readings:
        # d = m cannot be distinguished from other pairs of square layers unless it is the only one.
        square = len(linears) == 2 and len({size for shape in linears.values() for size in shape}) == 1
        return Layers("plain", (order[0],), order[1], *linears[order[0]]) if square else None
    gated = [reading for reading in readings if reading.kind == "gated"]
    defined_last = [r for r in readings if all(order.index(name) < order.index(r.down) for name in r.first)]
    best = gated or defined_last
    return best[0] if len(best) == 1 else None


def _linear_site(
    path: str,
    layers: Layers,
    host: str | None,
    activation_owner: str,
    activations: dict,
    *,
    kind: str | None = None,
    gate: str | None = None,
) -> Site:
    fused = layers.kind == "fused"
    width, hidden = layers.width, layers.hidden
    first = [join_path(path, name) for name in layers.first]
    if gate is None:
        first.sort(key=_is_not_gate)
    host = host if host is not None else (first[0] if len(first) == 1 else None)
    slots, missing = {}, {}
    if host is not None:
        slots["input"] = Slot(name="input", path=host, features=width)
    else:
        missing["input"] = "its gate and up layers take their input beside other modules"
    slots["up"] = Slot(name="up", path=first[-1], features=width, out_features=2 * hidden if fused else hidden)
    if len(first) == 2:
        slots["gate"] = Slot(name="gate", path=first[0], features=width, out_features=hidden)
    elif fused:
        missing["gate"] = "gate and up are one fused layer, which the slot 'up' covers"
    if activations:
        slots["act"] = _activation_slot(activation_owner, activations, hidden)
    else:
        missing["act"] = CALLED_AS_FUNCTION
    slots["down"] = Slot(name="down", path=join_path(path, layers.down), features=hidden, out_features=width)
    return Site(path=path, kind=kind or layers.kind, width=width, hidden=hidden, slots=slots, missing=missing)


def _inside_attention(model: nn.Module, path: str) -> bool:
    """Whether the module above is an attention: its small networks compute positions or gates, not features.

    A whole layer may be called an attention, too (BridgeTower); then the network's own name says what it is.
    """
    owner, _, name = path.rpartition(".")
    return bool(owner) and type(model.get_submodule(owner)).__name__.endswith("Attention") and name not in FFN_NAMES


def _activation_slot(owner: str, activations: dict[str, object], hidden: int) -> Slot:
    # A module that keeps several activations names the feed-forward's with an "act"; the last one defined otherwise.
    names = [name for name in activations if "act" in name.lower()] or list(activations)
    return Slot(name="act", path=join_path(owner, names[-1]), features=hidden)


def _is_not_gate(path: str) -> bool:
    name = path.rpartition(".")[2]
    return name not in GATE_NAMES and "gate" not in name


def _numbered(sites: list[Site]) -> list[Site]:
    """Give every site its layer number within its stack of layers."""
    keys = [_layer_key(site.path) for site in sites]
    stacks: defaultdict[str, dict[tuple[int, ...], int]] = defaultdict(dict)
    for stack, numbers in keys:
        stacks[stack].setdefault(numbers, len(stacks[stack]))
    result = []
    for site, (stack, numbers) in zip(sites, keys, strict=True):
        # Simple stacks keep the model's own numbers; nested ones (stages of blocks) are counted through.
        simple = all(len(other) == 1 for other in stacks[stack])
        layer = numbers[0] if simple else stacks[stack][numbers]
        result.append(replace(site, stack=stack, layer=layer))
    return result


def _layer_key(path: str) -> tuple[str, tuple[int, ...]]:
    """The list of layers a path goes through first, and the numbers on the way, leaving out numbers of experts."""
    parts = path.split(".")
    numbers, stack = [], None
    for i, part in enumerate(parts):
        if part.isdigit() and not (i and "expert" in parts[i - 1]):
            numbers.append(int(part))
            stack = ".".join(parts[:i]) if stack is None else stack
    return (stack or "", tuple(numbers) or (0,))
