"""Triton kernels of kansformer, as a Hub kernel that stands alone: it imports torch and triton, never kansformer."""

__version__ = "0.1.0"
__all__: list[str] = []
