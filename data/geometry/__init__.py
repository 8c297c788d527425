"""Algorithms on the points of one scan: numpy and numba, no files, no torch. Compiled kernels release the GIL."""
