"""ONNX files are told by their structure; nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hub.spec import ModelUnreadable
from hub_onnxruntime import plugin
from hub_onnxruntime.identify import Kind, probe
from tests.zoo import fetch

REAL = ["vad_onnx", "vad_op15_onnx", "vad_ifless_onnx", "ocr_cls", "magika_onnx"]


def identify(path: Path) -> object:
    return plugin.hub_identify_format(path, path.read_bytes()[: 1 << 16])


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_recognised_without_their_name(name: str, tmp_path: Path) -> None:
    nameless = tmp_path / "model.bin"
    nameless.write_bytes(fetch.path(name).read_bytes())
    found = identify(nameless)
    assert found is not None
    assert probe(nameless).kind is Kind.ONNX


def test_truncated_files_are_damaged_at_every_length(tmp_path: Path) -> None:
    whole = fetch.path("magika_onnx").read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in np.random.default_rng(0).integers(3, len(whole), 100):
        cut.write_bytes(whole[:length])
        assert probe(cut).kind is Kind.DAMAGED
    with pytest.raises(ModelUnreadable, match=r"damaged ONNX model: the file ends at byte"):
        identify(cut)


def test_random_bytes_are_never_a_model(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    path = tmp_path / "random.onnx"
    for size in (1, 2, 3, 5, 8, 100, 4096) * 100:
        path.write_bytes(generator.bytes(size))
        assert probe(path).kind is not Kind.ONNX
    with pytest.raises(ModelUnreadable, match="no ONNX model"):
        identify(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(60), b"\x80\x04K\x01.", b"<html>no model</html>"])
def test_other_formats_are_left_to_other_plugins(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "thing.bin"
    path.write_bytes(content)
    assert identify(path) is None


def test_a_folder_is_left_to_other_plugins(tmp_path: Path) -> None:
    assert plugin.hub_identify_format(tmp_path, b"") is None
