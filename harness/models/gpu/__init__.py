"""Kernels for an NVIDIA GPU, in Triton, for what the modules above compute there."""
