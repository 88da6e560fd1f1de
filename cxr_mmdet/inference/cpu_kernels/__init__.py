"""Kernels that make exported graphs fast on a CPU; see README.md beside this file."""
