"""The fast CPU path: C++ kernels that are built on demand, and the operations that call them."""
