"""Operators that every importer translates alike: the base of their tables."""
