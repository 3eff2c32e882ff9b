"""The one table of sizes. Inputs are standard normal; the names are what `python -m benchmarks --shapes` takes."""

from dataclasses import dataclass

from kansformer.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Size:
    """One problem: a feed-forward block and the input that it gets.

    Args:
        name: of the row.
        tokens, features, hidden: N, d and the hidden width of the KAN.
        grid_size, order: of its B-splines.
        dtype: of parameters and input.
        autocast: run under autocast to bfloat16.
        gated: a SwiGLU block with one curve per channel, measured against the SwiGLU block of the same shape; otherwise
            a block with one curve per edge, measured against the MLP with the same number of parameters.
    """

    name: str
    tokens: int
    features: int
    hidden: int
    grid_size: int = 5
    order: int = 3
    dtype: str = "float32"
    autocast: bool = False
    gated: bool = False

    @property
    def parameters_per_edge(self) -> int:
        """A weight and the coefficients of a curve."""
        return 1 + self.grid_size + self.order

    @property
    def equal_hidden(self) -> int:
        """Hidden width of the MLP that has as many parameters as the KAN, both without biases."""
        return self.hidden * self.parameters_per_edge

    def __str__(self) -> str:
        kind = "gated" if self.gated else "per edge"
        dtype = "autocast" if self.autocast else self.dtype
        other = "" if self.gated else f" (MLP {self.equal_hidden})"
        return (
            f"{self.name}: {kind}, N={self.tokens}, d={self.features}, hidden {self.hidden}{other}, "
            f"G={self.grid_size}, {dtype}"
        )


SIZES = {
    size.name: size
    for size in (
        Size(name="S", tokens=2048, features=256, hidden=1024),
        Size(name="L", tokens=512, features=768, hidden=3072),
        Size(name="narrow", tokens=2048, features=256, hidden=128),
        Size(name="S16", tokens=2048, features=256, hidden=1024, grid_size=16),
        Size(name="S-bf16", tokens=2048, features=256, hidden=1024, dtype="bfloat16"),
        Size(name="S-autocast", tokens=2048, features=256, hidden=1024, autocast=True),
        # pykan keeps several N × d × hidden tensors: 64 tokens are what fits and what it takes seconds for.
        Size(name="S-64", tokens=64, features=256, hidden=1024),
        # The block of SmolLM2-135M, one sequence.
        Size(name="gated", tokens=512, features=576, hidden=1536, gated=True),
        # The block of a 1B Llama, four sequences of 2048.
        Size(name="gated-gpu", tokens=8192, features=2048, hidden=5632, dtype="bfloat16", gated=True),
        Size(name="edges-gpu", tokens=8192, features=2048, hidden=1024, dtype="bfloat16"),
        # For the tests of the harness; says nothing about speed.
        Size(name="tiny", tokens=24, features=8, hidden=6),
        Size(name="gated-tiny", tokens=24, features=8, hidden=12, gated=True),
    )
}

DEFAULT_SIZES = {
    "cpu": ("S", "L", "narrow", "S16", "S-bf16", "S-autocast", "S-64", "gated"),
    "gpu": ("gated-gpu", "edges-gpu", "S", "S16"),
    "backends": ("S", "L", "narrow", "gated"),
}


def choose_sizes(names: tuple[str, ...]) -> tuple[Size, ...]:
    """Rows of the table.

    Raises:
        ConfigError: there is no such row, or none was named.
    """
    for name in names:
        if name not in SIZES:
            raise ConfigError(f"Unknown shape {name!r} in --shapes. Choose any of: {', '.join(SIZES)}.")
    if not names:
        raise ConfigError(f"--shapes names no shape. Choose any of: {', '.join(SIZES)}.")
    return tuple(SIZES[name] for name in dict.fromkeys(names))
