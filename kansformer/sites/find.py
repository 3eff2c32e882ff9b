"""Find the feed-forward networks of a model by the shape of its modules, not by the names of its classes.

Letters: d model width, m hidden width.
"""

from dataclasses import replace

from torch import nn

from kansformer.sites.parts import CONVOLUTIONS, activations_of, linears_of, stacks_of
from kansformer.sites.site import Site, Slot, runs

# Only tells which of two equal-shaped first layers goes through the activation; a name not listed is taken as `up`.
GATE_NAMES = ("gate", "w1", "wi_0", "gate_proj", "linear_1", "fc1_g")


def find_sites(model: nn.Module) -> list[Site]:
    """All feed-forward networks of a model, in the order of its modules, numbered by layer.

    A site is an activation together with two linear layers d → m → d, three for a gate, or d → 2m and m → d for a
    fused gate: in one module (alone or beside an attention), in two neighbours, or as 3-D stacks of experts.
    """
    sites = []
    for path, module in model.named_modules():
        site = _own_site(path, module) or _split_site(path, module) or _experts_site(path, module)
        if site is not None:
            sites.append(site)
    return _numbered(sites)


def _own_site(path: str, module: nn.Module) -> Site | None:
    """The activation and all linear layers are children of one module."""
    activations = activations_of(module)
    linears = linears_of(module)
    # A convolution beside the linears makes it a state-space or convolution mixer, whose activation is not the FFN's.
    if not activations or len(linears) < 2 or any(isinstance(c, CONVOLUTIONS) for c in module.children()):
        return None
    found = _match(linears)
    if found is None:
        return None
    kind, first, down, width, hidden = found
    alone = all(isinstance(child, nn.Dropout) or not any(child.children()) for child in module.children())
    host = path if alone and runs(module) else None
    return _linear_site(path, kind, _joined(path, first), _join(path, down), width, hidden, path, activations, host)


def _split_site(path: str, module: nn.Module) -> Site | None:
    """The first layers and the activation live in one child, the last layer in another (BERT)."""
    children = dict(module.named_children())
    for first_name, first_child in children.items():
        activations = activations_of(first_child)
        linears = linears_of(first_child)
        if not activations or not 1 <= len(linears) <= 2 or _match(linears) is not None:
            continue
        for down_name, down_child in children.items():
            if down_name == first_name or activations_of(down_child):
                continue
            for name, shape in linears_of(down_child).items():
                found = _match({**{f"{first_name}.{n}": s for n, s in linears.items()}, f"{down_name}.{name}": shape})
                if found is None or found[2] != f"{down_name}.{name}":
                    continue
                kind, first, down, width, hidden = found
                owner = _join(path, first_name)
                return _linear_site(
                    path, "split", _joined(path, first), _join(path, down), width, hidden, owner, activations, owner,
                    fused=kind == "fused",
                )  # fmt: skip
    return None


def _experts_site(path: str, module: nn.Module) -> Site | None:
    """Stacks of experts: 3-D weights (experts, ·, ·) and an activation that all of them share."""
    activations = activations_of(module)
    stacks = stacks_of(module)
    if not activations or len(stacks) < 2:
        return None
    names = list(stacks)
    for down in names:
        for first in names:
            if first == down:
                continue
            for width, hidden in (stacks[down], stacks[down][::-1]):
                if sorted(stacks[first]) in (sorted((width, hidden)), sorted((width, 2 * hidden))) and _looks_down(down):
                    slots = {"act": _activation_slot(path, activations, hidden)}
                    reason = "its weights are a stack of experts, which take curves in the act slot only"
                    missing = {name: reason for name in ("input", "up", "gate", "down")}
                    return Site(path=path, kind="experts", width=width, hidden=hidden, slots=slots, missing=missing)
    return None


def _looks_down(name: str) -> bool:
    return any(part in name for part in ("down", "output", "w2", "wo", "fc2"))


def _match(linears: dict[str, tuple[int, int]]):
    """(kind, first layers, last layer, d, m) when exactly one feed-forward network can be read from the shapes."""
    candidates = []
    for down, (hidden, width) in linears.items():
        same = [n for n, shape in linears.items() if n != down and shape == (width, hidden)]
        fused = [n for n, shape in linears.items() if n != down and shape == (width, 2 * hidden)]
        if len(same) == 1 and width != hidden:
            candidates.append(("plain", same, down, width, hidden))
        elif len(same) == 2 and width != hidden:
            candidates.append(("gated", same, down, width, hidden))
        elif len(fused) == 1 and not same:
            candidates.append(("fused", fused, down, width, hidden))
    if len(linears) == 2 and len(set(linears.values())) == 1 and len(set(next(iter(linears.values())))) == 1:
        (first, (width, hidden)), (down, _) = linears.items()  # d = m: the order of definition decides
        return "plain", [first], down, width, hidden
    # d → m → d read backwards is m → d → m: of two readings the one defined first to last is right.
    order = list(linears)
    forward = [c for c in candidates if all(order.index(n) < order.index(c[2]) for n in c[1])]
    forward = forward or candidates
    return forward[0] if len(forward) == 1 or (len(candidates) == 2 and forward) else None


def _linear_site(
    path, kind, first, down, width, hidden, activation_owner, activations, host, fused: bool | None = None
) -> Site:
    fused = kind == "fused" if fused is None else fused
    slots, missing = {}, {}
    first = sorted(first, key=lambda p: not _is_gate(p)) if len(first) == 2 else first
    host = host if host is not None else (first[0] if len(first) == 1 else None)
    if host is not None:
        slots["input"] = Slot(name="input", path=host, features=width)
    else:
        missing["input"] = "its gate and up layers take their input beside other modules"
    out = 2 * hidden if fused else hidden
    slots["up"] = Slot(name="up", path=first[-1], features=width, out_features=out)
    if len(first) == 2:
        slots["gate"] = Slot(name="gate", path=first[0], features=width, out_features=hidden)
    elif fused:
        missing["gate"] = "gate and up are one fused layer, which the slot 'up' covers"
    slots["act"] = _activation_slot(activation_owner, activations, hidden)
    slots["down"] = Slot(name="down", path=down, features=hidden, out_features=width)
    return Site(path=path, kind=kind, width=width, hidden=hidden, slots=slots, missing=missing)


def _activation_slot(owner: str, activations: dict[str, object], hidden: int) -> Slot:
    # A module that keeps several activations names the feed-forward's with an "act"; the last one defined otherwise.
    names = [name for name in activations if "act" in name.lower()] or list(activations)
    return Slot(name="act", path=_join(owner, names[-1]), features=hidden)


def _is_gate(path: str) -> bool:
    name = path.rpartition(".")[2]
    return name in GATE_NAMES or "gate" in name


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _joined(path: str, names: list[str]) -> list[str]:
    return [_join(path, name) for name in names]


def _numbered(sites: list[Site]) -> list[Site]:
    """Give every site its layer number within its stack of layers."""
    keys = [_layer_key(site.path) for site in sites]
    stacks: dict[str, list[tuple[int, ...]]] = {}
    for stack, numbers in keys:
        stacks.setdefault(stack, [])
        if numbers not in stacks[stack]:
            stacks[stack].append(numbers)
    result = []
    for site, (stack, numbers) in zip(sites, keys, strict=True):
        # Simple stacks keep the model's own numbers; nested ones (stages of blocks) are counted through.
        simple = all(len(other) == 1 for other in stacks[stack])
        layer = numbers[0] if simple else stacks[stack].index(numbers)
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
