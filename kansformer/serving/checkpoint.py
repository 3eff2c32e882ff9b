"""The curves of a checkpoint on their way into a served model: made for this process, checked by name, stored.

Servers load weights by tables of names, and with quantised checkpoints they do not ask whether a weight is missing. So
curves do not go through those tables: they are picked out of the stream of weights.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kansformer.conversion.digest import CurveDigest
from kansformer.conversion.record import ConversionRecord
from kansformer.conversion.tensor_check import check_values
from kansformer.errors import CheckpointError
from kansformer.nn.curves import CURVE_PARAMETERS, CURVE_TENSORS, CurveSpec
from kansformer.nn.parallel import SplitBy, split_axes
from kansformer.sites.site import Slot, join_path

SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


@dataclass(frozen=True)
class Rank:
    """This process among those that share a layer: its number, and how many they are."""

    index: int = 0
    count: int = 1


def split_of(sizes: tuple[int, int], whole: tuple[int, int]) -> SplitBy | None:
    """How a layer is split among processes, from its (inputs, outputs) in this one and in all of them."""
    if sizes[0] < whole[0]:
        return "inputs"
    return "outputs" if sizes[1] < whole[1] else None


@dataclass(frozen=True)
class Destination:
    """Where a tensor of a checkpoint goes in this process.

    Args:
        parameter: that holds it, or one such tensor for each of several merged layers on its first axis.
        layer: number of the merged layer; None where the parameter holds one tensor.
        shape: of the tensor in the checkpoint.
        axis: along which it is split among processes; None if each holds all of it.
        rank: this process.
    """

    parameter: nn.Parameter
    layer: int | None
    shape: tuple[int, ...]
    axis: int | None
    rank: Rank

    def store(self, tensor: Tensor) -> None:
        """Copy this process's part of the checkpoint's tensor."""
        if self.axis is not None:
            tensor = tensor.chunk(self.rank.count, self.axis)[self.rank.index]
        target = self.parameter.data
        (target if self.layer is None else target[self.layer]).copy_(tensor)


class ServedCurves:
    """All curves of one served model in this process.

    Args:
        record: the checkpoint's settings.

    Raises:
        CheckpointError: the settings are not those that were saved with the checkpoint.
    """

    def __init__(self, record: ConversionRecord) -> None:
        if record.digest is not None:
            record.digest.check_settings()
        self.record = record
        self._slots = {slot.curve_path: slot for slot in record.slots}
        self._expected = {  # names of all curve tensors that the checkpoint must have
            join_path(slot.curve_path, name)
            for slot in record.slots
            for name in self.spec_of(slot).shapes(slot.features, 1)  # the names are the same for any outputs
        }
        self._destinations: dict[str, Destination] = {}
        self._absent: set[str] = set()
        self._loaded: set[str] = set()

    def slot_at(self, path: str) -> Slot | None:
        """The recorded slot whose curves are at a path, which may have the base model's name in front."""
        return self._slots.get(path) or self._slots.get(path.partition(".")[2])

    def spec_of(self, slot: Slot) -> CurveSpec:
        """Basis and sharing of a slot's curves."""
        return self.record.config.curve_spec(slot.name)

    def skip(self, slot: Slot) -> None:
        """Note that a slot belongs to layers that another process has."""
        self._absent.add(slot.curve_path)

    def make_parameters(
        self,
        slots: Sequence[Slot | None],
        spec: CurveSpec,
        in_features: int,
        out_features: int | None,
        *,
        by: SplitBy | None,
        rank: Rank,
        dtype: torch.dtype,
        device: torch.device | None = None,
        stacked: bool = False,
    ) -> dict[str, nn.Parameter]:
        """Uninitialised parameters for this process's part of the curves, which `loading` fills.

        Args:
            slots: one slot; or, `stacked`, the slots of the layers that a server has merged into one, None for a layer
                without curves.
            spec: of their curves.
            in_features, out_features: of each of the layers, over all processes; no outputs where there are no weights.
            by: how the layer is split among processes.
            rank: this process.
            dtype: of all but domains, which are float32 at least.
            device: None is torch's default one.
            stacked: whether each parameter has the merged layers on a first axis of its own.

        Returns:
            Parameters by the names of `CURVE_TENSORS`, without gradients.

        Raises:
            CheckpointError: a checkpoint's width is not the layer's, or curves do not divide among the processes.
        """
        axes = split_axes(spec, by) if rank.count > 1 else {}
        parameters = {}
        present = [slot for slot in slots if slot is not None]
        for slot in present:
            if slot.features != in_features:
                raise CheckpointError(
                    f"The checkpoint has curves for {slot.features} channels at {slot.path}, where this model has "
                    f"{in_features}."
                )
        for name, shape in spec.shapes(in_features, out_features).items():
            local = _local_shape(join_path(present[0].curve_path, name), shape, axes.get(name), rank)
            wide = dtype if name in CURVE_PARAMETERS else torch.promote_types(dtype, torch.float32)
            size = (len(slots), *local) if stacked else local
            parameters[name] = nn.Parameter(torch.empty(size, dtype=wide, device=device), requires_grad=False)
            for slot in present:
                layer = slots.index(slot) if stacked else None
                self._destinations[join_path(slot.curve_path, name)] = Destination(
                    parameters[name], layer, shape, axes.get(name), rank
                )
        return parameters

    def loading(
        self, weights: Iterable[tuple[str, Tensor]], rename: Callable[[str], str | None] = str
    ) -> Iterator[tuple[str, Tensor]]:
        """Take the curves out of a checkpoint's weights and store them; the other weights are passed on.

        Args:
            weights: full name and tensor of each, as the files have them.
            rename: gives the model's name of a weight, with at most the base model's name in front of the recorded one.

        Raises:
            CheckpointError: a curve tensor is missing, misshapen, unusable or belongs to no slot, or the curves are not
                those that were saved with the settings. In a model that has its curves already, weights may be missing.
        """
        digest, seen = CurveDigest(), set()
        for key, tensor in weights:
            name = self._tensor_name(key, rename)
            if name is None:
                yield key, tensor
                continue
            self._store(name, key, tensor)
            if tensor.dtype in SAFETENSORS_NAMES:
                digest.add(key, SAFETENSORS_NAMES[tensor.dtype], tensor.shape, tensor.cpu)
            seen.add(name)
        self._loaded |= seen
        self._check_complete()
        expected = self.record.digest
        if expected is not None and seen == self._expected:
            expected.check_curves(digest.hexdigest())

    def names_of(self, model: nn.Module) -> set[str]:
        """Names in a model of the parameters that hold its curves."""
        ids = {id(destination.parameter) for destination in self._destinations.values()}
        return {name for name, parameter in model.named_parameters() if id(parameter) in ids}

    def _tensor_name(self, key: str, rename: Callable[[str], str | None]) -> str | None:
        """Recorded name of a curve tensor; None of any other weight."""
        if key.rpartition(".")[2] not in CURVE_TENSORS:
            return None
        owner, _, tensor = (rename(key) or key).rpartition(".")
        slot = self.slot_at(owner)
        if slot is None:
            if tensor != "coefficients":  # a weight of the model's own may be called domain
                return None
            raise CheckpointError(
                f"{key} does not belong to a slot of the config, which was changed after it was saved. "
                "Save the converted model again."
            )
        return join_path(slot.curve_path, tensor)

    def _store(self, name: str, key: str, tensor: Tensor) -> None:
        if name not in self._expected:
            slot = self.slot_at(name.rpartition(".")[0])
            assert slot is not None
            raise CheckpointError(
                f"{key} does not belong to {self.spec_of(slot).edges} curves with {self.spec_of(slot).basis.name}, as "
                "the config describes them. Save the converted model again."
            )
        check_values(key, tensor)
        destination = self._destinations.get(name)
        if destination is None:
            if not self._is_absent(name):
                raise CheckpointError(
                    f"The checkpoint has curves at {name.rpartition('.')[0]}, but the served model has no place for "
                    "them there."
                )
            return
        if tuple(tensor.shape) != destination.shape:
            raise CheckpointError(
                f"The checkpoint's weights do not fit its config: {key} has shape {tuple(tensor.shape)} instead of "
                f"{destination.shape}. It was changed after it was saved; save the converted model again."
            )
        destination.store(tensor)

    def _check_complete(self) -> None:
        missing = sorted(self._expected - self._loaded)
        if missing:
            raise CheckpointError(
                f"The checkpoint's weights do not fit its config: {missing[0]} is missing"
                + (f" (and {len(missing) - 1} more)." if len(missing) > 1 else ".")
                + " It was saved incompletely; save the converted model again."
            )

    def _is_absent(self, name: str) -> bool:
        return name.rpartition(".")[0] in self._absent


def _local_shape(name: str, shape: tuple[int, ...], axis: int | None, rank: Rank) -> tuple[int, ...]:
    if axis is None:
        return shape
    size, rest = divmod(shape[axis], rank.count)
    if rest:
        kind = "curves" if axis == 0 else "outputs"
        raise CheckpointError(
            f"{name} has {shape[axis]} {kind}, which do not divide among {rank.count} tensor-parallel ranks. Serve the "
            f"model on a number of ranks that divides {shape[axis]}."
        )
    return (*shape[:axis], size, *shape[axis + 1 :])
