"""The fast CPU path: C++ kernels that are built on demand, and their autograd functions."""
