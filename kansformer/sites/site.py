"""The description of a site: one feed-forward network of a model and its slots."""

from dataclasses import dataclass, field

from torch import nn

from kansformer.errors import SlotError

INPUT_CURVE = "input_curve"
"""Name of the module, on the host of an `input` slot, that the host's input goes through first."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place that can take curves.

    Args:
        name: `input`, `up`, `gate`, `act` or `down`.
        path: of the module to replace, or of the host whose input goes through curves (`input`), from the model's root.
        features: width of the axis that the curves act on.
        out_features: of a linear slot, else None.
    """

    name: str
    path: str
    features: int
    out_features: int | None = None

    @property
    def curve_path(self) -> str:
        """Path of the module with curves, once the slot has them."""
        return join_path(self.path, INPUT_CURVE) if self.name == "input" else self.path


@dataclass(frozen=True, kw_only=True)
class Site:
    """A feed-forward network inside a model.

    Args:
        path: of the module that owns the slots.
        kind: `plain` (two linears), `gated` (three), `fused` (gate and up in one), `split` (the two linears live in two
            modules), or `experts` (stacks of 3-D weights).
        layer: number of the layer it belongs to, within its stack.
        stack: path of the list of layers.
        width: model width d.
        hidden: hidden width m.
        slots: by name.
        missing: reason by name of a slot that the site does not have.
    """

    path: str
    kind: str
    width: int
    hidden: int
    slots: dict[str, Slot]
    missing: dict[str, str] = field(default_factory=dict)
    layer: int = 0
    stack: str = ""

    @property
    def name(self) -> str:
        """The path, for messages."""
        return self.path or "the model"

    def slot(self, name: str) -> Slot:
        """The slot of that name.

        Raises:
            SlotError: the site has no such slot.
        """
        if name not in self.slots:
            reason = self.missing.get(name, f"a feed-forward network of the kind {self.kind!r} has none")
            raise SlotError(
                f"{self.path or 'The model'} has no slot {name!r}: {reason}. Choose from: {', '.join(self.slots)}."
            )
        return self.slots[name]


def runs(module: nn.Module) -> bool:
    """Whether a module has a forward of its own; a list or dictionary of modules has none."""
    return getattr(type(module).forward, "__name__", "") != "_forward_unimplemented"


def join_path(path: str, name: str) -> str:
    """Path of a child of the module at `path`, which is empty for the root."""
    return f"{path}.{name}" if path else name


def parent_of(path: str) -> tuple[str, str]:
    """Path of the owner and name of the attribute."""
    owner, _, name = path.rpartition(".")
    return owner, name


def get_slot_target(model: nn.Module, path: str):
    """What stands at a path: a module, or an activation function kept as a plain attribute."""
    owner, name = parent_of(path)
    return getattr(model.get_submodule(owner), name)
