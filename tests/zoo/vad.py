"""The voice-activity detector's TorchScript core."""

from __future__ import annotations

from pathlib import Path


def save_core(path: Path, target: Path) -> Path:
    """Save the 16 kHz core of ``silero_vad.jit``: sound ``x`` [N, 576], ``state`` [2, N, 128] -> probability, state.

    The file itself hides its state in attributes and takes the rate as a Python integer, so no runtime that computes a
    function of tensors can stand in for it; its core is such a function.
    """
    import torch

    torch.jit.save(torch.jit.load(str(path), map_location="cpu")._model, str(target))
    return target
