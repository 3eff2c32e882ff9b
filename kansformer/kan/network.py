"""Stand-alone Kolmogorov-Arnold networks: layers of curves, product nodes, and edges that became formulas.

Shape letters: `...` any, N samples, I inputs, O outputs, C coefficients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from numbers import Integral
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from kansformer.checks import check_number, check_seed
from kansformer.errors import ConfigError, ShapeError
from kansformer.kan import diagram, edge_curve, editing, fitting, pruning, saving, sparse, symbolic
from kansformer.kan.constraints import Constraints, hold
from kansformer.kan.data import Samples, Table, inputs_of, tensor_of
from kansformer.kan.edges import Edge, SymbolicEdges, clear_edges
from kansformer.kan.init import draw_curves, draw_edges
from kansformer.kan.linearize import slopes_of_columns
from kansformer.nn import KANLinear, refine_grid
from kansformer.nn.grid import move_grids, width_for

Width: TypeAlias = Sequence[int | Sequence[int]]
"""Nodes of every layer, inputs first; a pair (sums, products) for a layer with product nodes."""


class KAN(nn.Module):
    """A Kolmogorov-Arnold network (Liu et al., 2024) of `KANLinear` layers, for functions of a few variables.

    Args:
        width: nodes of every layer, inputs first, such as [2, 5, 1]; a pair (sums, products) for a layer with product
            nodes.
        basis, grid_size, order, domain, base: of every layer, as in `KANLinear`; grids move to their inputs in `fit`,
            the first ones as well.
        bias: whether `fit` trains the constant of every node. A constant is not local as a curve's coefficients are, so
            without it, with `base="zero"` and with `grid_update_every=0`, a network keeps what it learned elsewhere
            when later samples cover a part of the domain.
        init_scale: of the first curves, which are random lines with noise; 0 starts from a network that is 0.
        init_density: share of every layer's edges that exist at first, drawn by the seed, from above 0 to 1; every node
            keeps an edge on both sides.
        seed: of the first coefficients; torch's global random state is left alone.
        device, dtype: of all parameters.

    Attributes:
        layers: the curves.
        formulas: for each layer, its edges that are formulas.
        constraints: the shapes that `fit` was told to hold the network to, or None.
        alive: for each layer the mask of its edges that are not pruned, (I, O), buffers `alive_0` and so on.

    Raises:
        ConfigError: a width, a scale or a share is impossible.

    Examples:
        >>> from kansformer.kan import KAN, create_dataset
        >>> data = create_dataset(lambda x: torch.sin(x[:, 0]) + x[:, 1] ** 2, num_inputs=2)
        >>> model = KAN([2, 1])
        >>> history = model.fit(data, steps=10, progress=False)
        >>> fits = model.fit_symbolic(data)
        >>> fits.fits.names
        ['sin', 'x^2']
    """

    layers: Sequence[KANLinear]
    formulas: Sequence[SymbolicEdges]

    def __init__(
        self,
        width: Width,
        *,
        basis: str = "bspline",
        grid_size: int = 5,
        order: int = 3,
        domain: tuple[float, float] = (-1.0, 1.0),
        base: str = "silu",
        bias: bool = True,
        init_scale: float = 1.0,
        init_density: float = 1.0,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.width = _checked_width(width)
        if not isinstance(bias, bool):
            raise ConfigError(f"bias must be True or False, got {bias!r:.80}.")
        if dtype not in saving.DTYPES.values():
            raise ConfigError(f"dtype must be torch.float32 or torch.float64, got {dtype!r:.80}.")
        check_number("init_scale", init_scale, 0)
        if check_number("init_density", init_density, above=0) > 1:
            raise ConfigError(f"init_density must be a share from above 0 to 1, got {init_density!r}.")
        self.has_bias, self.init_scale = bias, init_scale
        self.constraints: Constraints | None = None
        self.init_seed = check_seed(seed)
        generator = torch.Generator().manual_seed(self.init_seed)
        layers: list[KANLinear] = []
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # a seed means the same network on every device
            for (sums, products), (next_sums, next_products) in pairwise(self.width):
                inputs, outputs = sums + products, next_sums + 2 * next_products
                layer = KANLinear(
                    inputs, outputs, base=base, dtype=dtype,
                    basis=basis, grid_size=grid_size, order=order, domain=domain,
                )  # fmt: skip
                draw_curves(layer, generator, init_scale)
                layer.bias.requires_grad_(bias)
                layers.append(layer)
            for index, layer in enumerate(layers):  # after all curves, which `restart` draws alone
                alive_IO = draw_edges(layer.in_features, layer.out_features, init_density, generator)
                clear_edges(layer, ~alive_IO)
                self.register_buffer(f"alive_{index}", alive_IO)
            self.layers = cast("Sequence[KANLinear]", nn.ModuleList(layers))
            formulas = nn.ModuleList(SymbolicEdges(layer.out_features, dtype=dtype) for layer in layers)
            self.formulas = cast("Sequence[SymbolicEdges]", formulas)
        self.to(torch.get_default_device() if device is None else device)

    # Each of these is a function of its own file, which takes the network first.
    fit = fitting.with_warning(fitting.fit)
    sparsify = sparse.sparsify
    prune = pruning.prune
    prune_inputs = pruning.prune_inputs
    node_scores = pruning.node_scores
    fit_symbolic = symbolic.fit_symbolic
    suggest_symbols = symbolic.suggest_symbols
    fix_symbol = symbolic.fix_symbol
    unfix_symbol = symbolic.unfix_symbol
    formula = symbolic.formula
    edge = edge_curve.edge
    remove_edge = editing.remove_edge
    remove_node = editing.remove_node
    plot = diagram.plot_kan
    plot_edge = diagram.plot_edge
    save = saving.save
    load = classmethod(saving.load)

    def refine(self, grid_size: int) -> KAN:
        """Give every curve a finer grid on the same domain, in place; exact for B-splines on a multiple of the old one.

        Returns:
            The network.
        """
        refine_grid(self, grid_size)
        return self

    def update_grid(self, data: Samples | Table, *, margin: float = 0.05, quantile: float = 1.0) -> KAN:
        """Set the domain of every curve to the range of its inputs and refit the curve there, in place.

        Args:
            data: samples, or inputs (N, I).
            margin, quantile: as in `kansformer.update_grid`.

        Returns:
            The network.
        """
        move_grids(
            self, inputs_of(self, data), margin=margin, quantile=quantile, min_width=width_for(self.layers[0].domain)
        )
        return self

    def hold_constraints(self) -> None:
        """Put the curves onto near ones that obey `constraints`, in place, as every change of grids does."""
        hold(self)

    @property
    def alive(self) -> list[Tensor]:
        return [self.get_buffer(f"alive_{index}") for index in range(len(self.layers))]

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) to (..., O), in the network's dtype."""
        if x.shape[-1:] != (sum(self.width[0]),):
            raise ShapeError(f"The network has {sum(self.width[0])} inputs, got {tuple(x.shape)}.")
        x = x.to(self.layers[0].weight.dtype)
        for index in range(len(self.layers)):
            x = self.nodes(index, self.sums(index, x))
        return x

    @torch.no_grad()
    def predict(self, x: Table | Sequence[Sequence[float]]) -> Tensor:
        """The outputs for a table of inputs, tensor or array, in the network's dtype and without gradients."""
        weight = self.layers[0].weight
        return self(tensor_of(x, "inputs").to(weight))

    def derivatives(self, x: Tensor) -> Tensor:
        """Derivatives of every output by every input, (..., O, I), in the network's dtype."""
        with torch.enable_grad():
            flat = x.detach().to(self.layers[0].weight.dtype).reshape(-1, x.shape[-1]).requires_grad_()
            slopes = slopes_of_columns(self(flat), flat)
        return slopes.reshape(*x.shape[:-1], *slopes.shape[1:])

    def sums(self, index: int, x: Tensor) -> Tensor:
        """The outputs of a layer."""
        sums = self.layers[index](x)
        return sums + self.formulas[index](x) if len(self.formulas[index]) else sums

    def nodes(self, index: int, sums: Tensor) -> Tensor:
        """The nodes behind a layer: its sums, and the products of its outputs."""
        plain, products = self.width[index + 1]
        if not products:
            return sums
        factors = sums[..., plain:].unflatten(-1, (products, 2))
        return torch.cat([sums[..., :plain], factors.prod(dim=-1)], dim=-1)

    def edges(self) -> Iterator[Edge]:
        """The edges that are not pruned, curves and formulas."""
        for index, alive_IO in enumerate(self.alive):
            for i, o in alive_IO.nonzero().tolist():
                yield Edge(index, i, o)

    def curved(self, index: int) -> Tensor:
        """Mask of the edges of a layer that are curves, (I, O)."""
        mask_IO, formulas = self.alive[index].clone(), self.formulas[index]
        if len(formulas):
            mask_IO[formulas.inputs, formulas.outputs_of] = False
        return mask_IO

    def extra_repr(self) -> str:
        return f"width={[[sums, products] if products else sums for sums, products in self.width]}"


def _checked_width(width: Width) -> list[tuple[int, int]]:
    pairs = []
    for entry in width:
        pair: tuple[int, ...] = (int(entry), 0) if isinstance(entry, Integral) else tuple(cast("Sequence[int]", entry))
        if len(pair) != 2 or not all(isinstance(n, Integral) and int(n) >= 0 for n in pair) or sum(pair) < 1:
            raise ConfigError(f"A width must be a number of nodes or a pair [sums, products], got {entry!r}.")
        pairs.append((int(pair[0]), int(pair[1])))
    if len(pairs) < 2 or pairs[0][1]:
        raise ConfigError(f"width must name the inputs, a plain number, and at least the outputs, got {list(width)!r}.")
    return pairs
