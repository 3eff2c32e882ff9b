"""A device that is not the CPU, without one: its tensors keep their values in memory, and say that they are elsewhere.

Operations give what they give on the CPU. As on a GPU, they are errors where tensors of both devices meet, generators
of the CPU draw no numbers there, and NumPy reads none of its tensors. For a process of its own: once this module is
imported, torch has the device.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import kansformer
from kansformer.hub.weight_checksum import WeightChecksum

LIBRARY = str(Path(kansformer.__file__).parent)
NO_CALLER = ("/torch/", "/einops/", __file__)  # parts of paths

aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXING = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor, aten._unsafe_index_put.default,
}  # fmt: skip


_setup_privateuseone_for_python_backend("elsewhere")
CPU, ELSEWHERE = torch.device("cpu"), torch.device("elsewhere", 0)


class DistantTensor(Tensor):
    """A tensor on the device, with the one of the CPU that has its values."""

    @staticmethod
    def __new__(cls, near: Tensor) -> "DistantTensor":
        return Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            layout=near.layout, device=ELSEWHERE,
        )  # fmt: skip

    def __init__(self, near: Tensor) -> None:
        self.near = near

    def __repr__(self) -> str:
        return repr(self.near)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is Tensor.tolist:  # a copy to the CPU, which torch makes for its own tensors only
            return args[0].near.tolist()
        if function in (Tensor.untyped_storage, Tensor.data_ptr):  # by which safetensors finds shared weights
            return function(args[0].near)
        return torch._C._disabled_torch_function_impl(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _call(operation, args, kwargs or {})


class _Generator(torch.Generator):
    """Of the CPU, and says which device it was made for. Operations get another Python object with the same address."""

    made_for: ClassVar[dict[int, torch.device]] = {}

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls, "cpu")
        cls.made_for[generator._cdata] = torch.device(device)
        return generator

    def __init__(self, device="cpu") -> None:
        pass

    def __del__(self) -> None:
        del self.made_for[self._cdata]

    @property
    def device(self) -> torch.device:
        return self.made_for[self._cdata]


class _Dispatch(TorchDispatchMode):
    """Lets operations make tensors on the device, too."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _call(operation, args, kwargs or {})


def _call(operation, args, kwargs):
    leaves = tree_leaves((args, kwargs))
    distant = [leaf for leaf in leaves if isinstance(leaf, DistantTensor)]
    near = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, DistantTensor)]
    asked = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
    _check_devices(operation, args, distant, near)
    if operation in {aten.copy_.default, *INDEXING}:
        is_distant = isinstance(args[0], DistantTensor)
    else:
        is_distant = bool(distant) if asked is None else asked.type == ELSEWHERE.type
    generator = next((leaf for leaf in leaves if isinstance(leaf, torch._C.Generator)), None)
    if generator is not None and (_Generator.made_for.get(generator._cdata, CPU) != CPU) != is_distant:
        raise RuntimeError(f"{operation} on {'elsewhere' if is_distant else 'cpu'} got a generator of the other.")
    given_args, given_kwargs = tree_map(_near, (args, kwargs))
    result = operation(*given_args, **given_kwargs)
    if operation is aten.copy_.default:
        return args[0]
    if not is_distant or operation is aten._local_scalar_dense.default:
        return result
    result = tree_map(lambda part: DistantTensor(part) if type(part) is Tensor else part, result)
    return return_and_correct_aliasing(operation, args, kwargs, result) if distant else result


def _check_devices(operation, args, distant: list[Tensor], near: list[Tensor]) -> None:
    """Tensors of both devices meet in copies and, from the CPU, as indices and numbers."""
    if not distant or not near or operation in COPIES:
        return
    is_into_near = isinstance(args[0], Tensor) and not isinstance(args[0], DistantTensor)
    if operation in INDEXING and not is_into_near:
        return
    if any(tensor.ndim for tensor in near) or (is_into_near and operation._schema.is_mutable):
        shapes = {"elsewhere": [tuple(t.shape) for t in distant], "cpu": [tuple(t.shape) for t in near]}
        raise RuntimeError(f"Expected all tensors to be on the same device, but {operation} got {shapes}.")


def _near(value):
    if isinstance(value, DistantTensor):
        return value.near
    return CPU if isinstance(value, torch.device) and value.type == ELSEWHERE.type else value


@contextmanager
def other_device() -> Iterator[torch.device]:
    """The device, as long as the context lasts."""
    made, checked = torch.Generator, WeightChecksum.__dict__["of"]
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    lifts = torch._C._only_lift_cpu_tensors()
    torch.Generator = _Generator
    # It refuses classes of tensors that it does not know, as those of quantised weights.
    WeightChecksum.of = classmethod(lambda cls, name, tensor: checked.__func__(cls, name, _near(tensor.detach())))
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # values of one device cannot become the other's
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) copies in an operation of its own
    try:
        with _Dispatch():
            yield ELSEWHERE
    finally:
        torch.Generator, WeightChecksum.of = made, checked
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
        torch._C._set_only_lift_cpu_tensors(lifts)


class MadeByTheCaller(DeviceContext):
    """Tensors and modules that a program makes are on the device; what the library makes for itself is where it says,
    on the CPU where it says nothing.
    """

    @property
    def device(self) -> torch.device:
        frame, called = sys._getframe(1), None
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(LIBRARY):
                called = frame
            elif not any(part in file for part in NO_CALLER):
                break
            frame = frame.f_back
        makes_module = called and called.f_code.co_name == "__init__" and isinstance(called.f_locals["self"], nn.Module)
        return CPU if called and not makes_module else ELSEWHERE

    @device.setter
    def device(self, _: torch.device) -> None:
        """torch sets it."""
