"""Bad input: each is a coded error with a hint, an exit status, one JSON document, and nothing at the output path."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hub._request import did_you_mean

Hub = Callable[..., Any]
NO_SUCH_FOLDER = "no/such/folder"


def refused(hub: Hub, model: str | Path, *more: str | Path, to: str = "toybin") -> dict[str, Any]:
    """Convert and expect an error, in words and in JSON, that is the same."""
    words = ("convert", model, "--to", to, *more)
    plain, machine = hub(*words), hub(*words, "--json")
    error: dict[str, Any] = machine.error
    assert plain.status == machine.status == error["exit_status"] != 0
    assert plain.out == ""
    assert f"error[{error['code']}]: {error['message']}" in plain.err
    assert error["hint"] in plain.err
    assert error["message"]
    assert error["hint"]
    assert "Traceback" not in plain.err + machine.err
    return error


def test_a_missing_model(hub: Hub, tmp_path: Path) -> None:
    error = refused(hub, tmp_path / "no.toy", "-o", tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("model-not-found", 2)
    assert str(tmp_path / "no.toy") in error["message"]


def test_a_folder_that_is_no_model(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    error = refused(hub, tmp_path / "folder", "-o", tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("model-unreadable", 2)
    assert "folder" in error["message"]


@pytest.mark.parametrize("suffix", [".toy", ".toybin", ".bin", ""])
def test_an_empty_file(hub: Hub, tmp_path: Path, suffix: str) -> None:
    model = tmp_path / f"model{suffix}"
    model.touch()
    error = refused(hub, model, "-o", tmp_path / "out.toybin")
    assert error["code"] == "model-unreadable"
    assert "empty (0 bytes)" in error["message"]


@pytest.mark.parametrize("suffix", [".toy", ".toybin", ".onnx", ".tflite", ".keras", ".h5", ".pt2", ".pt", ".pth", ""])
def test_random_bytes_under_each_extension(hub: Hub, tmp_path: Path, suffix: str) -> None:
    model = tmp_path / f"model{suffix}"
    model.write_bytes(np.random.default_rng(0).bytes(5000))
    error = refused(hub, model, "-o", tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("model-unreadable", 2)
    assert model.name in error["message"]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_model(hub: Hub, toy: Path, tmp_path: Path, share: float) -> None:
    whole = toy.read_bytes()
    toy.write_bytes(whole[: int(len(whole) * share)])
    error = refused(hub, toy, "-o", tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("model-unreadable", 2)
    assert str(toy) in error["message"]


def test_a_model_that_cannot_be_read(hub: Hub, tmp_path: Path) -> None:
    error = refused(hub, "/proc/self/mem", "-o", tmp_path / "out.toybin")
    assert error["code"] == "model-unreadable"
    assert "Input/output error" in error["message"]


def test_a_path_longer_than_any_file_name(hub: Hub, toy: Path, tmp_path: Path) -> None:
    assert refused(hub, "x" * 5000, "-o", tmp_path / "out.toybin")["code"] == "model-not-found"
    assert refused(hub, toy, "-o", tmp_path / ("x" * 500))["code"] == "output-not-writable"


@pytest.mark.parametrize(
    ("asked", "meant"), [("toybim", "toybin"), ("int8-dynamik", "int8-dynamic"), ("int9", "int8"), ("fp61", "fp16")]
)
def test_a_misspelt_name_gets_the_nearest(hub: Hub, toy: Path, tmp_path: Path, asked: str, meant: str) -> None:
    more: tuple[str, ...] = () if asked == "toybim" else ("--precision", asked)
    error = refused(hub, toy, *more, "-o", tmp_path / "out", to=asked if asked == "toybim" else "toybin")
    assert (error["code"], error["exit_status"]) == ("unknown-name", 2)
    assert repr(asked) in error["message"]
    assert meant in error["hint"]


def test_a_name_that_is_like_nothing_gets_the_list(hub: Hub, toy: Path, tmp_path: Path) -> None:
    assert "toybin" in refused(hub, toy, "-o", tmp_path / "out", to="zzz")["hint"]


def test_an_output_with_a_suffix_that_the_target_does_not_have(hub: Hub, toy: Path, tmp_path: Path) -> None:
    error = refused(hub, toy, "-o", tmp_path / "out.foo")
    assert (error["code"], error["exit_status"]) == ("usage", 2)
    assert "its files end in .toybin" in error["message"]
    assert error["hint"] == f"-o {tmp_path / 'out.toybin'}"


def test_state_that_no_target_keeps(hub: Hub, toy: Path, tmp_path: Path) -> None:
    error = refused(hub, toy, "--state", "x=nothing", "-o", tmp_path / "out.toybin")
    assert error["code"] == "unknown-name"
    assert "y" in error["hint"]
    assert refused(hub, toy, "--state", "x", "-o", tmp_path / "out.toybin")["code"] == "usage"


def test_an_output_that_exists_needs_force(hub: Hub, toy: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.toybin"
    output.write_text("precious")
    error = refused(hub, toy, "-o", output)
    assert (error["code"], error["exit_status"]) == ("output-exists", 2)
    assert "--force" in error["hint"]
    assert output.read_text() == "precious"
    assert hub("convert", toy, "--to", "toybin", "-o", output, "--force").status == 0
    assert output.read_bytes().startswith(b"TOYBIN1")


def test_force_keeps_the_old_result_when_the_new_one_fails(hub: Hub, toy: Path, tmp_path: Path) -> None:
    output, receipt = tmp_path / "out.toybin", tmp_path / "out.toybin.hub.json"
    output.write_text("precious")
    receipt.write_text("old")
    error = refused(hub, toy, "--fp16", "--min-sqnr", "299", "-o", output, "--force")
    assert (error["code"], error["exit_status"]) == ("parity", 6)
    assert (output.read_text(), receipt.read_text()) == ("precious", "old")


def test_an_output_that_is_a_folder(hub: Hub, toy: Path, tmp_path: Path) -> None:
    error = refused(hub, toy, "-o", tmp_path, "--force")
    assert (error["code"], error["exit_status"]) == ("output-not-writable", 2)
    assert str(tmp_path) in error["message"]


@pytest.mark.parametrize("output", ["/proc/out.toybin", "/proc/self/out.toybin", "/dev/null/out.toybin"])
def test_an_output_where_nothing_can_be_written(hub: Hub, toy: Path, output: str) -> None:
    error = refused(hub, toy, "-o", output)
    assert (error["code"], error["exit_status"]) == ("output-not-writable", 2)
    assert "-o" in error["hint"]


def test_an_output_below_a_file(hub: Hub, toy: Path) -> None:
    assert refused(hub, toy, "-o", toy / "out.toybin")["code"] == "output-not-writable"


def test_the_source_is_not_its_own_output(hub: Hub, toy: Path) -> None:
    before = toy.read_bytes()
    error = refused(hub, toy, "-o", toy, "--force")
    assert (error["code"], error["exit_status"]) == ("usage", 2)
    assert toy.read_bytes() == before


def test_a_receipt_that_cannot_be_replaced(hub: Hub, toy: Path, tmp_path: Path) -> None:
    (tmp_path / "out.toybin.hub.json").mkdir()
    error = refused(hub, toy, "-o", tmp_path / "out.toybin")
    assert error["code"] in {"store", "output-not-writable"}
    assert not (tmp_path / "out.toybin").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".hub")]


def test_a_conversion_to_what_the_model_is(hub: Hub, toy: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.toybin"
    assert hub("convert", toy, "--to", "toybin", "-o", output).status == 0
    error = refused(hub, output, "-o", tmp_path / "again.toybin")
    assert error["code"] == "usage"
    assert "already is toybin/fp32" in error["message"]


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("--shape", "z=1x6"), "unknown-name", "no input 'z'"),
        (("--shape", "x=1x7"), "usage", "1x7 does not fit"),
        (("--shape", "x=1x6x1"), "usage", "1x6x1 does not fit"),
        (("--shape", "x=0x6"), "usage", "x=0x6"),
        (("--shape", "x"), "usage", "x"),
        (("--shape", "x=axb"), "usage", "axb"),
        (("--constant", "z=1"), "unknown-name", "no input 'z'"),
        (("--constant", "x=abc"), "usage", "abc"),
        (("--int8", "--fp16"), "usage", "one precision"),
        (("--int8=static",), "no-route", "int8 needs data"),
        (("--precision", "int16x8", "--calibration", "{samples}"), "no-route", "toybin/int16x8"),
        (("--calibration", NO_SUCH_FOLDER), "calibration", NO_SUCH_FOLDER),
        (("--step-timeout", "soon"), "usage", "soon"),
        (("--nonsense",), "usage", "--nonsense"),
        (("--io-layout", "nchv"), "usage", "nchv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_requests_that_do_not_fit(  # noqa: PLR0913, PLR0917 fixtures
    hub: Hub, toy: Path, samples: Path, tmp_path: Path, more: tuple[str, ...], code: str, words: str
) -> None:
    given = (word.format(samples=samples) for word in more)
    error = refused(hub, toy, *given, "-o", tmp_path / "out.toybin")
    assert error["code"] == code
    assert words in error["message"]
    assert not (tmp_path / "out.toybin").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"wrong": np.zeros((8, 6), np.float32)}, "x"),
        ({"x": np.zeros((8, 7), np.float32)}, "7"),
        ({"x": np.array([["a"] * 6] * 8)}, "x"),
        ({"x": np.full((8, 6), np.nan, np.float32)}, "NaN"),
        ({"x": np.zeros((0, 6), np.float32)}, "no samples"),
        ({}, "x"),
    ],
    ids=["name", "shape", "dtype", "nan", "none", "nothing"],
)
def test_calibration_that_does_not_fit(hub: Hub, toy: Path, tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    data = tmp_path / "bad.npz"
    np.savez(data, **arrays)
    error = refused(hub, toy, "--int8", "--calibration", data, "-o", tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("calibration", 2)
    assert words in error["message"] + error["hint"]


def test_a_symbolic_dimension_that_is_no_batch_is_asked_for(
    hub: Hub, faults: Callable[..., None], toy: Path, tmp_path: Path
) -> None:
    faults("fixed-only", alone=True)
    content = json.loads(toy.read_text())
    content["inputs"][0]["shape"] = ["batch", "length", 6]
    content["outputs"][0]["shape"] = ["batch", "length", 3]
    toy.write_text(json.dumps(content))
    error = refused(hub, toy, "-o", tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("shape-needed", 2)
    assert "--shape x=batchxlengthx6" in error["hint"]
    ran = hub("convert", toy, "--to", "toybin", "--shape", "x=2x5x6", "-o", tmp_path / "out.toybin")
    assert ran.status == 0, ran.err


def test_a_model_whose_own_outputs_are_zero_proves_nothing(hub: Hub, toy: Path, tmp_path: Path) -> None:
    content = json.loads(toy.read_text())
    content["layers"] = [
        {"op": "affine", "name": "a", "inputs": ["x"], "output": "y", "w": [[0.0] * 3] * 6, "b": [0.0] * 3}
    ]
    toy.write_text(json.dumps(content))
    error = refused(hub, toy, "-o", tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("nothing-compared", 6)
    assert "zero" in error["message"]


def test_a_defect_in_hub_is_called_one(hub: Hub, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hub import _api

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(_api, "plan_request", fail)
    ran = hub("plan", toy, "--to", "toybin", "--json")
    assert ran.status == 70
    assert ran.error["code"] == "internal"
    assert "ZeroDivisionError: division by zero" in ran.error["message"]
    assert "Traceback" in ran.err


def test_no_command_line_means_help(hub: Hub) -> None:
    ran = hub()
    assert "Usage: hub" in ran.out + ran.err
    assert hub("convret").status == 2


def test_output_into_a_closed_pipe_is_no_defect(toy: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "hub", "plan", str(toy), "--to", "toybin"]
    assert cache
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout
    assert run.stderr
    run.stdout.close()
    assert run.stderr.read() == ""
    run.stderr.close()
    assert run.wait(60) == 1


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("page.toy", b"<!DOCTYPE html><p>404", "is a web page, not a model", "download the file itself"),
        ("lfs.toy", b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS", "git lfs pull"),
        ("model.tgz", b"\x1f\x8b\x08\x00", "is packed with gzip", "tar -xzf"),
        ("model.zip", b"PK\x03\x04....", "is a zip archive and no model", "unpack it"),
        ("calib.npz", b"PK\x03\x04....", "it is data and no model", "--calibration"),
        ("noise.toy", b"noise", "is named like a toy model and is none; it begins with b'noise'", "download it again"),
        ("notes.txt", b"some text", "is no model that an installed plugin reads; they read ", "hub plugins"),
    ],
)
def test_what_comes_in_the_place_of_a_model_is_called_by_its_name(
    hub: Hub, tmp_path: Path, name: str, content: bytes, message: str, hint: str
) -> None:
    (tmp_path / name).write_bytes(content)
    error = hub("inspect", tmp_path / name, "--json").error
    assert error["code"] == "model-unreadable"
    assert message in error["message"]
    assert hint in error["hint"]


def test_a_hint_lists_a_few_known_words_and_says_where_there_is_none() -> None:
    assert did_you_mean("zzz", ["a", "b"]) == "known: a, b"
    assert did_you_mean("zzz", map(str, range(20))).endswith(" and 8 more")
    assert did_you_mean("zzz", []) == "there is none to choose from"


def test_an_interrupt_while_the_command_line_is_imported_is_told_as_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import hub.cli.report
    from hub.__main__ import main

    class Interrupted(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "hub.cli", Interrupted("hub.cli"))
    assert hub.cli.report
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("error[interrupted]: interrupted; nothing was written\n")
