"""Shared by the Keras plugin's tests: where the networks are, and what TensorFlow may do to the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save a network of `keras_networks` once, and give its file."""
    from plugins.keras.tests import keras_networks

    folder = tmp_path_factory.mktemp("networks")

    def saved(name: str, suffix: str = ".keras") -> Path:
        path = folder / f"{name}{suffix}"
        return path if path.exists() else keras_networks.save(name, folder, suffix)

    return saved
