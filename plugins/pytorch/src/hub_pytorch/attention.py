"""Attention of the transformers library: which implementation its models use, and the one that every exporter takes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

EAGER = "eager"


def attention_of(module: torch.nn.Module) -> str:
    """The attention implementation that a transformers model runs; empty for any other module."""
    config = getattr(module, "config", None)
    found = getattr(config, "_attn_implementation", None)
    return found if isinstance(found, str) else ""


@contextlib.contextmanager
def eager_attention(module: torch.nn.Module) -> Iterator[str]:
    """Switches every transformers model inside a module to eager attention, plain matrix products, for a while.

    Yields:
        A note; empty when nothing was switched.
    """
    before: list[tuple[Any, str]] = [
        (child, attention_of(child)) for child in module.modules() if attention_of(child) not in ("", EAGER)
    ]
    names = ", ".join(sorted({name for _, name in before}))
    try:
        for child, _ in before:
            child.config._attn_implementation = EAGER  # noqa: SLF001 - the library's own word for it
        yield f"switched attention from {names} to {EAGER}" if before else ""
    finally:
        for child, name in before:
            child.config._attn_implementation = name  # noqa: SLF001 - as above
