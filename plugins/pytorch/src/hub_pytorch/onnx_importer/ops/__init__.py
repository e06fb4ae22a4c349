"""Operator functions by theme. Each takes and returns torch tensors, real or being traced; see `registry`."""
