"""Where neither library is installed: plans, inspection and precision ONNX work, an engine is refused with the line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub import _requirements
from plugins.tensorrt.tests.tensorrt_models import convolution

Hub = Callable[..., Any]


@pytest.fixture(autouse=True)
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play an environment without the libraries."""
    real = _requirements.version_of
    monkeypatch.setattr(_requirements, "version_of", lambda name: "" if name.startswith("tensorrt") else real(name))


def test_an_engine_is_refused_with_the_exact_line_and_nothing_is_published(hub: Hub, tmp_path: Path) -> None:
    model = convolution(tmp_path / "m.onnx")
    for words in ([], ["--fp16"]):
        ran = hub("convert", model, "--to", "tensorrt", "-o", tmp_path / "out.engine", "--json", *words)
        assert ran.error["code"] == "no-route"
        assert ran.error["hint"] == "pip install 'tensorrt-rtx-cu13>=1.7.1'"
    assert not list(tmp_path.glob("out.*"))


def test_doctor_has_lines_that_a_shell_takes_and_nothing_is_broken(hub: Hub) -> None:
    told = hub("doctor", "--json").json
    mends = {item["mend"] for item in told["lacks"] if "tensorrt" in item["what"]}
    assert "pip install 'tensorrt-rtx-cu13>=1.7.1'" in mends
    assert not [item for item in told["problems"] if "tensorrt" in item["what"]]
