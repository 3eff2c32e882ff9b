"""A sparse replacement of a feed-forward network whose latents have a learnable curve each.

    z = TopK(ReLU(W_enc x + b_enc))        a_m = φ_m(z_m) where z_m > 0, else 0        y = W_dec a + b_dec (+ W_skip x)

φ_m(z) = z + ψ_m(z) is a `LearnedActivation`, the identity at the start: then, and without curves, this is the TopK
transcoder (Dunefsky et al., 2024), and with `skip` the skip transcoder (Paulo et al., 2025).

Shape letters: `...` any, I input width, M latents, O output width.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from kansformer.checks import check_integer
from kansformer.errors import CheckpointError, ConfigError, ShapeError
from kansformer.files import atomic_folder, check_unused
from kansformer.nn.activation import LearnedActivation
from kansformer.safe_io import FieldKind, check_fields, read_tensors, read_versioned_json

FORMAT_VERSION = 1
CONFIG, TENSORS = "config.json", "transcoder.safetensors"
WHOLE = FieldKind("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool))
TEXT = FieldKind("a text", lambda value: isinstance(value, str))
FLAG = FieldKind("true or false", lambda value: isinstance(value, bool))
FIELDS = {
    **dict.fromkeys(("format_version", "in_features", "latents", "out_features", "k"), WHOLE),
    **{"basis": TEXT, "grid_size": WHOLE, "order": WHOLE, "edges": TEXT, "groups": WHOLE, "skip": FLAG},
}
"""Of `config.json`; an absent or null `k` or `basis` is None."""


class Transcoder(nn.Module):
    """Sparse latents between two linear maps, as a readable replacement of a feed-forward network.

    Args:
        in_features: I, width of the network's input.
        latents: M.
        out_features: O; None is I.
        k: latents that are active at a token, at most; None for every positive one (ReLU), as training with an L1
            penalty needs it.
        basis: of the curves, `bspline`, `chebyshev`, `rbf`, `fourier` or `rational`; None for no curves.
        grid_size, order, edges, groups: of the curves, as in `LearnedActivation`.
        skip: whether a linear map of the input is added.
        device, dtype: of all parameters.

    Attributes:
        encoder, decoder: linear layers with biases.
        act: the curves, a `LearnedActivation`, or None.
        skip: a linear layer without bias, or None.

    Raises:
        ConfigError: a number is out of range, or an argument is not among its choices.
        ShapeError: in `forward`, the last axis is not I long.

    Examples:
        >>> from kansformer.interp import Transcoder
        >>> transcoder, x = Transcoder(16, latents=64, k=4), torch.randn(10, 16)
        >>> transcoder(x).shape, int((transcoder.encode(x) != 0).sum(-1).max())
        (torch.Size([10, 16]), 4)
    """

    def __init__(
        self,
        in_features: int,
        latents: int,
        *,
        out_features: int | None = None,
        k: int | None = 32,
        basis: str | None = "bspline",
        grid_size: int = 5,
        order: int = 3,
        edges: str = "channel",
        groups: int = 8,
        skip: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_integer("in_features", in_features, 1)
        check_integer("latents", latents, 1)
        out_features = check_integer("out_features", in_features if out_features is None else out_features, 1)
        self.k = None if k is None else check_integer("k", k, 1, latents)
        self.encoder = nn.Linear(in_features, latents, device=device, dtype=dtype)
        self.act: LearnedActivation | None = None
        if basis is not None:
            self.act = LearnedActivation(
                latents, base="relu", basis=basis, grid_size=grid_size, order=order, edges=edges, groups=groups,
                device=device, dtype=dtype,
            )  # fmt: skip
        self.decoder = nn.Linear(latents, out_features, device=device, dtype=dtype)
        self.skip = nn.Linear(in_features, out_features, bias=False, device=device, dtype=dtype) if skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)

    @property
    def latents(self) -> int:
        """M."""
        return self.encoder.out_features

    def select(self, x: Tensor) -> Tensor:
        """z (..., M) of inputs (..., I): the pre-activations of active latents, 0 elsewhere."""
        if x.shape[-1] != self.encoder.in_features:
            raise ShapeError(f"The transcoder reads {self.encoder.in_features} channels, got input {tuple(x.shape)}.")
        positive = self.encoder(x).relu()
        if self.k is None:
            return positive
        values, indices = positive.topk(self.k, dim=-1, sorted=False)
        return torch.zeros_like(positive).scatter(-1, indices, values)

    def encode(self, x: Tensor) -> Tensor:
        """a (..., M) of inputs (..., I)."""
        return self.bend(self.select(x))

    def bend(self, z: Tensor) -> Tensor:
        """a of z, both (..., M)."""
        return z if self.act is None else self.act(z) * (z > 0)

    def decode(self, a: Tensor, x: Tensor) -> Tensor:
        """y (..., O) of activations (..., M) and inputs (..., I), which the skip reads."""
        y = self.decoder(a)
        return y if self.skip is None else y + self.skip(x)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) to y (..., O)."""
        return self.decode(self.encode(x), x)

    def _settings(self) -> dict[str, object]:
        """The arguments that `save` keeps, ready for JSON."""
        values: dict[str, object] = dict(
            in_features=self.encoder.in_features,
            latents=self.latents,
            out_features=self.decoder.out_features,
            k=self.k,
            basis=None,
            skip=self.skip is not None,
        )
        if self.act is not None:
            spec = self.act.curves
            basis = spec.basis
            values |= dict(basis=basis.name, grid_size=basis.grid_size, order=basis.order)
            values |= dict(edges=spec.edges, groups=spec.groups)
        return values

    def save(self, folder: str | Path) -> Path:
        """Write `config.json` and `transcoder.safetensors` into a new or empty folder.

        Args:
            folder: where.

        Returns:
            The folder.

        Raises:
            CheckpointError: there are files in it already.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        check_unused(folder)
        with atomic_folder(folder) as partial:
            save_file(
                {name: tensor.contiguous().cpu() for name, tensor in self.state_dict().items()}, partial / TENSORS
            )
            values = {"format_version": FORMAT_VERSION, **self._settings()}
            (partial / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Transcoder:
        """Read what `save` wrote, in the dtype that it was saved in.

        Args:
            folder: where.

        Raises:
            CheckpointError: nothing is there, a file is damaged, or the two do not belong together.
        """
        folder = Path(folder)
        if not (folder / CONFIG).is_file() or not (folder / TENSORS).is_file():
            raise CheckpointError(f"{str(folder)!r} holds no transcoder: it has {CONFIG} and {TENSORS}.")
        place = repr(str(folder / CONFIG))
        settings = check_fields(read_versioned_json(folder / CONFIG, FORMAT_VERSION), FIELDS, place, only=True)
        del settings["format_version"]
        tensors = read_tensors(folder / TENSORS)
        try:
            with torch.device("meta"):
                transcoder = cls(**{"k": None, "basis": None, **settings})
        except (ConfigError, TypeError) as error:
            raise CheckpointError(f"{place}: {error}") from error
        expected = {name: tuple(tensor.shape) for name, tensor in transcoder.state_dict().items()}
        given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if given != expected:
            name = min(name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name))
            raise CheckpointError(
                f"{str(folder / TENSORS)!r} has {name} of shape {given.get(name)}, and {CONFIG} asks for "
                f"{expected.get(name)}."
            )
        transcoder.load_state_dict(tensors, assign=True)
        return transcoder
