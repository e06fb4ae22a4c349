"""Quantization of float32 IRs with NNCF."""
