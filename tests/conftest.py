"""What the core's tests share: a cache of their own, the command in this process, toy models, and planted faults."""

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FAULTY = Path(__file__).parent / "faulty"


@dataclass(frozen=True)
class Ran:
    """One run of the command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be exactly one JSON document."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error in it."""
        return self.json["error"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that this test has for itself."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HUB_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def hub(cache: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command in this process; the workers are real processes."""
    from hub.cli import main

    assert cache

    def run(*words: str | Path) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return run


def affine(name: str, source: str, output: str, shape: tuple[int, int], seed: int) -> dict[str, Any]:
    """A layer with well-scaled weights."""
    import numpy as np

    generator = np.random.default_rng(seed)
    weights = generator.standard_normal(shape) / np.sqrt(shape[0])
    bias = generator.standard_normal(shape[1]) / 4
    return {
        "op": "affine",
        "name": name,
        "inputs": [source],
        "output": output,
        "w": weights.tolist(),
        "b": bias.tolist(),
    }


def classifier(batch: int | str = "batch") -> dict[str, Any]:
    """Six features to three classes, with a hidden layer."""
    return {
        "toy": 1,
        "inputs": [{"name": "x", "dtype": "float32", "shape": [batch, 6]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [batch, 3]}],
        "layers": [
            affine("first", "x", "h", (6, 16), 1),
            {"op": "relu", "name": "bend", "inputs": ["h"], "output": "r"},
            affine("second", "r", "z", (16, 3), 2),
            {"op": "softmax", "name": "last", "inputs": ["z"], "output": "y"},
        ],
    }


def twins() -> dict[str, Any]:
    """Two inputs, and two outputs of one shape."""
    return {
        "toy": 1,
        "inputs": [
            {"name": "left", "dtype": "float32", "shape": [2, 4]},
            {"name": "right", "dtype": "float32", "shape": [2, 4]},
        ],
        "outputs": [
            {"name": "sum", "dtype": "float32", "shape": [2, 3]},
            {"name": "bent", "dtype": "float32", "shape": [2, 3]},
        ],
        "layers": [
            affine("a", "left", "la", (4, 3), 3),
            affine("b", "right", "rb", (4, 3), 4),
            {"op": "add", "name": "both", "inputs": ["la", "rb"], "output": "sum"},
            {"op": "relu", "name": "bend", "inputs": ["rb"], "output": "bent"},
        ],
    }


def write_toy(path: Path, content: dict[str, Any]) -> Path:
    """Write a toy model."""
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A toy classifier with a symbolic batch."""
    return write_toy(tmp_path / "model.toy", classifier())


@pytest.fixture
def twin(tmp_path: Path) -> Path:
    """A toy model with two inputs and two outputs."""
    return write_toy(tmp_path / "twin.toy", twins())


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Forty samples for the classifier."""
    import numpy as np

    path = tmp_path / "samples.npz"
    np.savez(path, x=np.random.default_rng(5).standard_normal((40, 6)).astype(np.float32))
    return path


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a plugin for this test alone: metadata with an entry point, found by this process and its children."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(FAULTY))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", f"{site}:{FAULTY}")

    def add(name: str, module: str, source: str = "", *, group: str = "hub.v1", needs: str = "") -> Path:
        if source:
            (site / f"{module}.py").write_text(source)
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
        importlib.invalidate_caches()
        return info

    yield add
    importlib.invalidate_caches()


@pytest.fixture
def faults(install: Install, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Offer planted faults; `alone` takes the sound edge away."""

    def offer(*names: str, alone: bool = False) -> None:
        import hub_toy.edges

        install("faulty", "hub_faulty")
        monkeypatch.setenv("HUB_FAULTS", " ".join(names))
        if alone:
            edges = tuple(edge for edge in hub_toy.edges.EDGES if edge.id != "toy.bin")
            monkeypatch.setattr(hub_toy.edges, "EDGES", edges)

    return offer
