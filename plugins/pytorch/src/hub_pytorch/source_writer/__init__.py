"""Writes a torch.fx graph as PyTorch source and weights: a module of named layers that a person can go on with."""

from hub_pytorch.source_writer.writer import Source, write_source

__all__ = ["Source", "write_source"]
