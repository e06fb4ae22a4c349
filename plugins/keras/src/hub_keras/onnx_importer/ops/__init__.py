"""Operator functions, one module per theme."""
