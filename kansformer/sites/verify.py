"""Verify a site before a model is changed: with straight curves it must reproduce the original bit for bit."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from kansformer.errors import ProofError
from kansformer.nn.curves import Curved
from kansformer.nn.eval_mode import eval_mode
from kansformer.sites.finite import check_finite_parameters, check_finite_weights
from kansformer.sites.fused_paths import without_fused_paths
from kansformer.sites.probe import BATCH, TOKENS, probes
from kansformer.sites.site import Site, Slot, get_slot_target, runs
from kansformer.sites.surgery import fill_slot, shadow

SEED = 0

_random_state = threading.RLock()
"""torch has one random state for all threads; verification borrows it and gives it back."""


@dataclass(frozen=True)
class Proof:
    """What was compared for a site: its own `block`, the `layer` around it, or the `slots` one by one.

    A block that cannot be called on its own (it needs positions or masks from its model) is verified slot by slot: each
    new module equals the old one on random input, and the model's own forward around them does not change.
    """

    path: str
    level: str


def verify_site(model: nn.Module, site: Site, modules: Mapping[str, nn.Module]) -> Proof:
    """Run the old and the new block on random input.

    Args:
        model: the model, which is not changed.
        site: where.
        modules: the new modules by slot name, with straight curves, which get random coefficients for a moment.

    Returns:
        What was compared.

    Raises:
        ProofError: an output differs, a curve has no effect on it, or the weights are not in memory or not finite.
    """
    if any(parameter.is_meta for module in modules.values() for parameter in module.parameters()):
        raise ProofError(
            f"The weights of {site.name} are not in memory, so its conversion cannot be verified. Load the model "
            "without offloading, or pass verify=False."
        )
    check_finite_weights(model, site)
    # Input curves last: their host may be a layer that is itself replaced.
    slots = sorted((site.slot(name) for name in modules), key=lambda slot: slot.name == "input")
    generator = torch.Generator().manual_seed(SEED)
    for path in _callable_ancestors(model, site):
        block = model.get_submodule(path)
        inner = [below(slot, path) for slot in slots]
        with undisturbed(block):
            run = find_call(block, site, _like(block, modules), generator)
            if run is None:
                backwards = replace(site, width=site.hidden, hidden=site.width)
                if path == site.path and find_call(block, backwards, _like(block, modules), generator):
                    raise ProofError(
                        f"{path} takes tokens of width {site.hidden}, not {site.width}: its layers were read backwards."
                    )
                continue
            new_block = shadow(block, inner)
            filled = []
            try:
                filled += [fill_slot(new_block, slot, modules[slot.name]) for slot in inner]
                idle = _compare(site, slots, modules, partial(run, block), partial(run, new_block))
            finally:  # the host of an input curve may be one of the new modules, which will be used
                for take_out in reversed(filled):
                    take_out()
        if not idle:
            return Proof(site.path, "block" if path == site.path else "layer")
        # A layer may have a second network for other tokens, which random ones alone do not reach.
        if path == site.path and site.kind != "split":
            with undisturbed(block):
                _check_finite_output(block, path, run(block))
            raise ProofError(_no_effect(site, idle[0]))

    for slot in slots:
        old = get_slot_target(model, slot.path) if slot.name != "input" else nn.Identity()
        x = torch.randn(BATCH * TOKENS, slot.features, generator=generator, device="cpu").to(
            _like(modules[slot.name], modules)
        )
        with torch.no_grad():
            if _compare(site, [slot], modules, partial(_clean, old, x), partial(_clean, modules[slot.name], x)):
                raise ProofError(_no_effect(site, slot))
    return Proof(site.path, "slots")


def same_bits(old: object, new: object) -> bool:
    """Whether two outputs hold equal tensors everywhere; NaN equals NaN."""
    old_tensors, new_tensors = list(_tensors(old)), list(_tensors(new))
    return len(old_tensors) == len(new_tensors) and all(
        a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in zip(old_tensors, new_tensors, strict=True)
    )


def _compare(site: Site, slots: Sequence[Slot], modules, run_old: Callable, run_new: Callable) -> list[Slot]:
    """Raise where outputs differ; return the slots whose curves have no effect on them."""
    expected = run_old()
    try:
        result = run_new()
    except Exception as error:  # whatever the block raises says that the slot cannot hold these curves
        raise ProofError(f"{site.name} does not run with straight curves in it: {error}") from error
    if not same_bits(expected, result):
        raise ProofError(f"{site.name} with straight curves differs from the original, so it is not converted.")
    idle = []
    for slot in slots:
        with _random_curves(modules[slot.name]):
            if same_bits(expected, run_new()):
                idle.append(slot)
    return idle


def _check_finite_output(block: nn.Module, path: str, output: object) -> None:
    """Raise where NaN or infinite values hide the effect of curves."""
    if all(bool(tensor.isfinite().all()) for tensor in _tensors(output)):
        return
    check_finite_parameters(block, path)
    raise ProofError(
        f"With curves and without, the output of {path or 'the model'} on random input is NaN or infinite, although "
        "its weights are finite, so nothing can be compared. Convert the model in float32, or pass verify=False."
    )


def _no_effect(site: Site, slot: Slot) -> str:
    return (
        f"The forward of {site.name} does not call {slot.path!r}, so curves in the slot {slot.name!r} "
        "would have no effect. Choose other slots."
    )


def _clean(function: Callable, x: Tensor) -> object:
    """The function of a copy of x: some activations work in place."""
    return function(x.clone())


def find_call(block: nn.Module, site: Site, like: Tensor, generator: torch.Generator) -> Callable | None:
    """A function that calls a module like this block, on the first random arguments that the block accepts."""
    for arguments in probes(block, site, like, generator):

        def run(module: nn.Module, arguments: tuple = arguments) -> object:
            torch.manual_seed(SEED)
            return module(*(a.clone() if isinstance(a, Tensor) else a for a in arguments))

        try:
            if any(True for _ in _tensors(run(block))):
                return run
        except Exception:  # noqa: S112 - wrong arguments fail in any way; the next candidate is tried
            continue
    return None


def _callable_ancestors(model: nn.Module, site: Site) -> Iterator[str]:
    """The site and the modules around it up to its layer, those that can run."""
    path = site.path
    while path:
        module = model.get_submodule(path)
        if runs(module) and not hasattr(module, "_hf_hook"):
            yield path
        if path.rpartition(".")[2].isdigit() and "expert" not in path.rpartition(".")[0].rpartition(".")[2]:
            return
        path = path.rpartition(".")[0]
        if path == site.stack:
            return


def below(slot: Slot, path: str) -> Slot:
    """The slot as seen from the module at `path`."""
    return replace(slot, path=slot.path[len(path) + 1 :] if path else slot.path)


def _like(block: nn.Module, modules: Mapping[str, nn.Module]) -> Tensor:
    parameters = [*block.parameters(), *(p for m in modules.values() for p in m.parameters())]
    return next(p for p in parameters if p.is_floating_point())


@contextmanager
def undisturbed(block: nn.Module) -> Iterator[None]:
    """Evaluation mode, layer by layer, without gradients or effects on the random state; all is put back afterwards."""
    devices = sorted({p.device.index for p in block.parameters() if p.device.type == "cuda"})
    with (
        _random_state,
        without_fused_paths(),
        eval_mode(block),
        torch.no_grad(),
        torch.random.fork_rng(devices=devices),
    ):
        yield


@contextmanager
def _random_curves(module: Curved) -> Iterator[None]:
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(module.coefficients.shape, generator=generator, device="cpu")
    saved = module.coefficients.detach().clone()
    with torch.no_grad():
        module.coefficients.copy_(noise)
        try:
            yield
        finally:
            module.coefficients.copy_(saved)


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, (Mapping, list, tuple)):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(value)
