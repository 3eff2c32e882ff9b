"""Repairs for Triton's CPU interpreter: for bfloat16, which it stores as uint16, and for the time that it takes.

In 3.6 … 3.9 a product of two bfloat16 tiles multiplies the raw bits, and a cast to bfloat16 cuts digits off where the
GPU rounds to nearest even. Both are silent. Every call of a function in a kernel replaces the whole language by that of
the interpreter again, and every operation makes the types of its tensors anew: that takes longer than their numbers.
"""

from types import SimpleNamespace

import numpy as np
import triton.language as tl
from triton.language.semantic import TritonSemantic
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

CASTS = ("si_to_fp", "ui_to_fp", "fp_to_si", "fp_to_ui", "fp_ext", "fp_trunc")


def widen(bits: np.ndarray) -> np.ndarray:
    """The float32 of bfloat16 bits."""
    return np.left_shift(bits.astype(np.uint32), 16).view(np.float32)


def round_to_bits(values: np.ndarray) -> np.ndarray:
    """The bits of the nearest bfloat16, ties to even."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    nearest = (bits + 0x7FFF + (np.right_shift(bits, 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, nearest).astype(np.uint16)


def patch_once() -> None:
    """Leave the language replaced, for the kernels of each module from the first on."""
    original_patch, patched = interpreter._patch_lang, set()

    def patch(function):
        if function.__module__ not in patched:
            original_patch(function)
            patched.add(function.__module__)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch


def make_types_once() -> None:
    """Copy types of blocks and shapes of tensors from the first such, and return at once what would be left alone."""
    make_block, make_tensor = tl.block_type.__init__, tl.tensor.__init__
    original_cast, original_broadcast = TritonSemantic.cast, TritonSemantic.broadcast_impl_value
    original_dtype = interpreter._get_np_dtype
    blocks, tensors, dtypes = {}, {}, {}

    def init_block(self, element_ty, shape):
        key = (element_ty.name, *(getattr(size, "value", size) for size in shape))
        if key not in blocks:
            make_block(self, element_ty, shape)
            blocks[key] = dict(vars(self))
        vars(self).update(blocks[key], element_ty=element_ty)

    def init_tensor(self, handle, type):
        if type.name not in tensors:
            make_tensor(self, handle, type)
            tensors[type.name] = dict(vars(self))
        vars(self).update(tensors[type.name], handle=handle, type=type, dtype=type.scalar)

    def cast(self, input, dst_ty, *rounding):
        return input if input.dtype is dst_ty else original_cast(self, input, dst_ty, *rounding)

    def broadcast(self, lhs, rhs):
        if lhs.type.is_block() == rhs.type.is_block() and lhs.handle.data.shape == rhs.handle.data.shape:
            return lhs, rhs
        return original_broadcast(self, lhs, rhs)

    def numpy_dtype(type):
        if type.name not in dtypes:
            dtypes[type.name] = original_dtype(type)
        return dtypes[type.name]

    tl.block_type.__init__, tl.tensor.__init__ = init_block, init_tensor
    TritonSemantic.cast, TritonSemantic.broadcast_impl_value = cast, broadcast
    interpreter._get_np_dtype = numpy_dtype


def repair() -> None:
    """Replace the casts and the product of every interpreted kernel in this process, and silence numpy."""
    patch_once()
    make_types_once()
    original_cast, original_dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot
    original_convert = InterpreterBuilder.create_fp_to_fp
    np.seterr(over="ignore", invalid="ignore", divide="ignore")  # numpy warns where a GPU goes on with inf or NaN

    def cast(self, source, target):
        before, after = source.dtype.scalar, target.scalar
        if tl.bfloat16 not in (before, after) or before == after:
            return original_cast(self, source, target)
        if before == tl.bfloat16:
            return original_cast(self, TensorHandle(widen(source.data), tl.float32), target)
        return TensorHandle(round_to_bits(source.data), tl.bfloat16)

    def convert(self, source, target, rounding):
        if tl.bfloat16 in (source.dtype.scalar, target.scalar):
            return cast(self, source, target)
        return original_convert(self, source, target, rounding)

    def dot(self, a, b, *rest):
        a, b = (TensorHandle(widen(h.data), tl.float32) if h.dtype.scalar == tl.bfloat16 else h for h in (a, b))
        return original_dot(self, a, b, *rest)

    # Of a number and NaN a GPU takes the number, unless asked otherwise; 3.6 takes NaN.
    InterpreterBuilder.create_minnumf = lambda self, a, b: self.binary_op(a, b, np.fmin)
    InterpreterBuilder.create_maxnumf = lambda self, a, b: self.binary_op(a, b, np.fmax)
    InterpreterBuilder.cast_impl = cast
    InterpreterBuilder.create_fp_to_fp = convert
    InterpreterBuilder.create_dot = dot
    for name in CASTS:
        setattr(InterpreterBuilder, f"create_{name}", lambda self, source, target: self.cast_impl(source, target))
