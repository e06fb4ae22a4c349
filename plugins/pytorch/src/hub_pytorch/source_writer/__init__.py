"""Writes a torch.fx graph as PyTorch source and weights: a module of named layers that a person can go on with."""

from hub_pytorch.source_writer.writer import WrittenSource, write_source

__all__ = ["WrittenSource", "write_source"]
