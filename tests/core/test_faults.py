"""Planted faults: each is caught, named with its values, and leaves nothing at the output path."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hub._disk import full_disk_told
from hub._goals import RouteFailed, all_failed
from hub._reference import beyond
from hub.cli.executed import shortened
from hub.spec import Numerics, ShapeNeeded, StepError, StoreError, UnsupportedModel, VerificationError, write_sample

Hub = Callable[..., Any]
Faults = Callable[..., None]
Install = Callable[..., Path]


class Case(NamedTuple):
    """A planted fault and what the error must say."""

    fault: str
    code: str
    status: int
    words: str
    more: tuple[str, ...] = ()


DIED = (
    Case("segfault", "step-crashed", 5, "the process of the edge faulty.segfault died with signal 11 (SIGSEGV)"),
    Case("exit", "step-crashed", 5, "exit status 0"),
    Case("sys-exit", "step-crashed", 5, "exit status 3"),
    Case("hang", "step-timeout", 5, "longer than 5 s and was stopped in _hang (", ("--step-timeout", "5")),
    Case("hang-with-the-lock", "step-timeout", 5, "was stopped in _hang_with_the_lock (", ("--step-timeout", "5")),
    Case("memory", "step-memory", 5, "over the limit of 200 MiB", ("--max-memory", "200")),
    Case("refuse", "unsupported-model", 3, "frobnicate has no counterpart"),
    Case("raise", "step-failed", 5, "LookupError: tensor 17 has no producer"),
)
LIED = (
    Case("nothing", "step-effect", 5, "wrote no file"),
    Case("text", "step-effect", 5, "was to write toybin; the bytes are toy"),
    Case("garbage", "step-failed", 5, "wrote a file that nobody can read"),
    Case("half", "step-effect", 5, "was to write fp32; the file holds fp16"),
    Case(
        "rename",
        "step-effect",
        5,
        "was to keep the outputs y: float32[batchx3]; the result has renamed: float32[batchx3]",
    ),
    Case("dtype", "step-effect", 5, "the result has y: float64"),
    Case("fix-dim", "step-effect", 5, "was to keep the inputs x: float32[batchx6]; the result has x: float32[1x6]"),
    Case("slightly-wrong", "parity", 6, "relative error"),
    Case("nan", "parity", 6, "NaN or infinity"),
    Case("reverse", "parity", 6, "> 0.0001"),
)


def refused(hub: Hub, model: Path, output: Path, *more: str) -> dict[str, Any]:
    """Convert, expect an error, and expect that nothing lies at the output path or beside it."""
    beside = set(output.parent.iterdir())
    ran = hub("convert", model, "--to", "toybin", "-o", output, "--json", *more)
    error: dict[str, Any] = ran.error
    assert ran.status == error["exit_status"]
    assert error["hint"]
    assert {path for path in output.parent.iterdir() if path.name != "cache"} == beside - {output.parent / "cache"}
    return error


@pytest.mark.parametrize("case", DIED, ids=lambda case: case.fault)
def test_a_step_that_dies_is_a_coded_error_with_a_log(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path, case: Case
) -> None:
    faults(case.fault, alone=True)
    error = refused(hub, toy, tmp_path / "out.toybin", *case.more)
    assert (error["code"], error["exit_status"]) == (case.code, case.status)
    assert case.words in error["message"]
    assert f"planted fault: {case.fault}" in error["message"]
    assert [attempt["edge"] for attempt in error["attempts"]] == [f"faulty.{case.fault}"]
    assert {"job.json", "log.txt", "reproduce.py"} <= {path.name for path in Path(error["log"]).iterdir()}
    if case.fault in {"segfault", "hang", "hang-with-the-lock"}:
        assert "(most recent call first)" in Path(error["log"], "log.txt").read_text()


def test_a_full_disk_is_told_as_such_and_no_other_route_is_tried(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("full-disk", "raise", alone=True)
    error = refused(hub, toy, tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("store", 7)
    assert "no room is left on the disk" in error["message"]
    assert "HUB_CACHE_DIR" in error["hint"]
    assert "attempts" not in error


def test_a_full_disk_in_hubs_own_process_is_no_defect_of_hub(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no room is left on the disk"), full_disk_told():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), full_disk_told():
        (tmp_path / "absent").read_bytes()


def test_every_lie_is_found_out_and_the_sound_route_is_taken(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults(*(case.fault for case in LIED))
    output = tmp_path / "out.toybin"
    ran = hub("convert", toy, "--to", "toybin", "-o", output, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["route"]["edges"] == ["toy.bin"]
    assert json.loads(Path(f"{output}.hub.json").read_text()) == ran.json
    attempts = {attempt["edge"]: attempt for attempt in ran.json["failed_attempts"]}
    assert list(attempts) == sorted(f"faulty.{case.fault}" for case in LIED)
    for case in LIED:
        attempt = attempts[f"faulty.{case.fault}"]
        assert (case.fault, attempt["code"]) == (case.fault, case.code)
        assert case.words in attempt["message"]
        assert shortened(attempt["message"]) in ran.err


@pytest.mark.parametrize("case", [case for case in LIED if case.fault in {"garbage", "half", "nan"}], ids=str)
def test_a_lie_without_another_route_ends_the_run(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path, case: Case
) -> None:
    faults(case.fault, alone=True)
    error = refused(hub, toy, tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == (case.code, case.status)
    assert case.words in error["message"]
    if case.fault == "nan":
        assert [output["sqnr_db"] for output in error["attempts"][0]["parity"]["outputs"]] == [-300.0, -300.0]


@pytest.mark.parametrize(
    ("fault", "hint", "more"),
    [("hang", "--step-timeout 10", ("--step-timeout", "5")), ("memory", "--max-memory ", ("--max-memory", "150"))],
)
def test_the_hint_names_the_flag_that_allows_more(  # noqa: PLR0913, PLR0917 fixtures
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path, fault: str, hint: str, more: tuple[str, ...]
) -> None:
    faults(fault, alone=True)
    assert hint in refused(hub, toy, tmp_path / "out.toybin", *more)["hint"]


def test_swapped_outputs_of_one_shape_fail_the_gate(hub: Hub, faults: Faults, twin: Path, tmp_path: Path) -> None:
    faults("swap", alone=True)
    error = refused(hub, twin, tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("parity", 6)
    assert "sum" in error["message"]
    assert "bent" in error["message"]
    assert "is no rounding: compare the order of inputs and outputs" in error["hint"]


def test_a_result_without_its_receipt_is_paired_and_that_is_said(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("rename-declared", alone=True)
    output = tmp_path / "out.toybin"
    assert hub("convert", toy, "--to", "toybin", "-o", output).status == 0
    assert hub("verify", toy, output).status == 0
    Path(f"{output}.hub.json").unlink()
    told = hub("verify", toy, output, "--json")
    assert (told.status, told.json["passed"]) == (0, True)
    (said,) = told.json["remarks"]
    assert (said["code"], said["kind"]) == ("paired-without-receipt", "note")
    assert "renamed (alone has its sizes)" in said["text"]


OTHER = """
from hub.spec import *
import hub_toy.formats, hub_toy.runtime

class F(hub_toy.formats.ToyFormat):
    name, suffixes, requires, side_suffixes = "other", (".other",), {reader}, (".bin",)

class R(hub_toy.runtime.ToyRuntime):
    name, formats, targets, requires = "others", ("other",), {{}}, {runtime}

@hookimpl
def hub_register_formats():
    return [F()]

@hookimpl
def hub_register_runtimes():
    return [R()]

@hookimpl
def hub_register_edges():
    return [Edge(id="other.x", accepts=(Accepts(format="toy"),), gives=Gives(format="other"), convert=print)]
"""


@pytest.mark.parametrize(
    ("reader", "runtime", "status"),
    [('("nosuch>=2",)', "()", 3), ("()", '("nosuch>=2",)', 4)],
    ids=["reader", "runtime"],
)
def test_what_is_not_installed_is_told_before_the_first_step(
    hub: Hub, install: Install, toy: Path, reader: str, runtime: str, status: int
) -> None:
    install("other", f"other_{status}", OTHER.format(reader=reader, runtime=runtime))
    ran = hub("plan", toy, "--to", "other", "--json")
    assert ran.status == status
    assert ran.error["hint"] == "pip install 'nosuch>=2'"


def test_a_side_file_in_the_way_is_told_before_the_first_step(
    hub: Hub, install: Install, toy: Path, tmp_path: Path
) -> None:
    install("other", "other_side", OTHER.format(reader="()", runtime="()"))
    (tmp_path / "out.bin").write_text("mine")
    words = ("convert", toy, "--to", "other", "-o", tmp_path / "out.other", "--json")
    error = hub(*words).error
    assert (error["code"], "attempts" in error) == ("output-exists", False)
    assert "out.bin exists, and goes with out.other" in error["message"]
    assert "attempts" in hub(*words, "--force").error


def test_a_step_that_overwrites_its_input_cannot_reach_the_users_model(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    before = toy.read_bytes()
    faults("eat-input", alone=True)
    error = refused(hub, toy, tmp_path / "out.toybin")
    assert error["code"] == "step-effect"
    assert "changed its input" in error["message"]
    assert toy.read_bytes() == before


def test_after_a_death_the_next_route_is_taken_and_told(hub: Hub, faults: Faults, toy: Path, tmp_path: Path) -> None:
    faults("exit", "raise", "refuse", "segfault")
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.err
    codes = [(attempt["edge"], attempt["code"]) for attempt in ran.json["failed_attempts"]]
    assert codes == [
        ("faulty.exit", "step-crashed"),
        ("faulty.raise", "step-failed"),
        ("faulty.refuse", "unsupported-model"),
        ("faulty.segfault", "step-crashed"),
    ]
    for attempt in ran.json["failed_attempts"]:
        assert attempt["route"] == [attempt["edge"]]
        assert shortened(attempt["message"]) in ran.err
        assert Path(attempt["reproduce"].split()[1]).exists()


def test_where_any_result_was_wrong_the_error_is_verification(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("nan", "raise", alone=True)
    error = refused(hub, toy, tmp_path / "out.toybin")
    assert (error["code"], error["exit_status"]) == ("parity", 6)
    assert "(1 more ways failed: -v)" in error["message"]
    assert "faulty.raise" in [attempt["edge"] for attempt in error["attempts"]]


def test_the_cause_that_is_named_is_of_a_way_that_ran() -> None:
    """Where a side way starts at all was never the user's question."""
    ran = RouteFailed(("a.prepare", "a.fp8"), StepError("NaN on every sample"))
    side = RouteFailed(("a.prepare-dynamic",), UnsupportedModel("no dimension is dynamic"), refused=True)
    attempts = [item.attempt(item.prefix, item.prefix[-1]) for item in (ran, side)]
    error = all_failed([ran, side], attempts, Numerics.FP8, set(), "")
    assert error.code == "step-failed"
    assert "a.fp8: NaN on every sample (1 more ways failed: -v)" in error.message


def test_the_cause_that_is_named_came_nearest_to_a_result() -> None:
    """A long way round that broke early, and later, hides no backend's own reason."""
    last = RouteFailed(("a.prepare", "a.int4"), UnsupportedModel("no weight is in groups of 128"))
    round_about = RouteFailed(("b.export",), StepError("a name has a dot"))
    routes = (last.prefix, (*round_about.prefix, "b.load", "a.int4"))
    attempts = [item.attempt(route, route[-1]) for item, route in zip((last, round_about), routes, strict=True)]
    error = all_failed([last, round_about], attempts, Numerics.INT4_WEIGHTS, set(), "")
    assert error.code == "unsupported-model"
    assert "no weight is in groups of 128" in error.message


@pytest.mark.parametrize("own", ["give --shape x=2x3", ""])
def test_the_hint_is_of_the_cause_that_is_named(own: str) -> None:
    """Where that has one; else of what breaks first."""
    near = RouteFailed(("a.prepare", "a.build"), ShapeNeeded("x is open", hint=own))
    early = RouteFailed(("b.export",), UnsupportedModel("no FFT", hint="leave out the FFT"))
    routes = (near.prefix, (*early.prefix, "b.load", "a.build"))
    attempts = [item.attempt(route, route[-1]) for item, route in zip((near, early), routes, strict=True)]
    error = all_failed([near, early], attempts, Numerics.FP32, set(), "")
    assert "x is open" in error.message
    assert error.hint == (own or "leave out the FFT")


def test_what_the_calibration_data_lacks_is_the_hint(tmp_path: Path) -> None:
    """Ranges from samples in which the alarm never goes off cut it off in the result."""
    rare, common = np.array([0.001, 0.9], np.float32), np.array([0.002, 0.001], np.float32)
    for folder, arrays in (("checked", (common, rare)), ("calibrated", (common, common))):
        for place, array in enumerate(arrays):
            write_sample(tmp_path / folder, place, {"alarm": array, "ids": np.array([place * 9])})
    cause = beyond("output", tmp_path / "checked", tmp_path / "calibrated")
    assert cause.startswith("calibrate on data like the test data: output alarm goes to 0.9 there, and to 0.002 in")
    assert not beyond("output", tmp_path / "calibrated", tmp_path / "checked")
    failed = RouteFailed(("a.int8",), VerificationError("p: SQNR 6.6 dB < 13 dB"))
    attempts = [failed.attempt(failed.prefix, "int8")]
    assert all_failed([failed], attempts, Numerics.INT8, {Numerics.INT16X8}, "", cause).hint == cause
    assert "int16x8" in all_failed([failed], attempts, Numerics.INT8, {Numerics.INT16X8}, "").hint


def test_a_declared_change_is_no_fault(hub: Hub, faults: Faults, toy: Path, tmp_path: Path) -> None:
    faults("rename-declared", alone=True)
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.err
    assert [spec["name"] for spec in ran.json["result"]["signature"]["outputs"]] == ["renamed"]
    assert ran.json["steps"][0]["bindings"][0]["source"] == "y"
    assert ran.json["parity"]["outputs"][0]["output"] == "y"


def test_routes_that_had_no_room_in_the_plan_are_tried_where_all_of_it_failed(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub._routing.MAX_ROUTES", 1)
    faults("raise")
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.error
    assert [attempt["edge"] for attempt in ran.json["failed_attempts"]] == ["faulty.raise"]
    assert ran.json["route"]["edges"] == ["toy.bin"]


def test_a_later_route_that_needs_fixed_shapes_gets_them_and_says_so(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("raise", "fixed-only", alone=True)
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.out
    assert ran.json["result"]["signature"]["inputs"][0]["shape"] == [{"size": 1}, {"size": 6}]
    (note,) = (remark["text"] for remark in ran.json["remarks"] if remark["kind"] == "note")
    assert "fixed the batch of x to 1: 1x6" in note
    assert note in ran.err


def test_noise_of_a_step_stays_out_of_the_json(hub: Hub, faults: Faults, toy: Path, tmp_path: Path) -> None:
    faults("noise", alone=True)
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0
    assert ran.json["route"]["edges"] == ["faulty.noise"]
    assert "noise" not in ran.err.replace("planted fault: noise", "")


def test_the_log_has_what_the_step_said(hub: Hub, faults: Faults, toy: Path, tmp_path: Path) -> None:
    faults("raise", alone=True)
    error = refused(hub, toy, tmp_path / "out.toybin")
    log = Path(error["log"], "log.txt").read_text()
    assert "Traceback" in log
    assert "tensor 17 has no producer" in log


@pytest.mark.parametrize(("fault", "status"), [("segfault", -11), ("exit", 0), ("raise", 1)])
def test_reproduce_runs_the_failed_step_again(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path, fault: str, status: int
) -> None:
    faults(fault, alone=True)
    error = refused(hub, toy, tmp_path / "out.toybin")
    script = Path(error["log"], "reproduce.py")
    again = subprocess.run(
        [sys.executable, script], check=False, env=os.environ, capture_output=True, text=True, timeout=60
    )
    assert again.returncode in (status, 128 - status, status % 256)
    assert "FileNotFoundError" not in again.stderr
    if fault == "raise":
        assert "LookupError: tensor 17 has no producer" in again.stderr


def test_reproduce_has_its_input_and_its_calibration_data(
    hub: Hub, faults: Faults, toy: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults("calibrated")
    words = ("--int8", "--calibration", samples, "--no-cache", "--json", "-o", tmp_path / "out.toybin")
    ran = hub("convert", toy, "--to", "toybin", *words)
    assert ran.status == 0, ran.err
    (attempt,) = ran.json["failed_attempts"]
    toy.unlink()
    monkeypatch.delenv("HUB_CACHE_DIR")
    script = attempt["reproduce"].split()
    again = subprocess.run(
        [sys.executable, *script[1:]], check=False, env=os.environ, capture_output=True, text=True, timeout=60
    )
    assert again.returncode == 1
    assert "LookupError: 32 samples, and tensor 17" in again.stderr


def test_failures_are_never_cached(hub: Hub, faults: Faults, toy: Path, tmp_path: Path) -> None:
    faults("raise", alone=True)
    first = refused(hub, toy, tmp_path / "out.toybin")
    second = refused(hub, toy, tmp_path / "out.toybin")
    assert first["log"] != second["log"]


def test_a_check_that_raises_leaves_its_edge_out_with_the_reason(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults("noise")
    monkeypatch.setenv("HUB_FAULTS_CHECK", "1")
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.out
    assert "RuntimeError: check has a defect" in ran.json["route"]["left_out"]["faulty.noise"]["text"]
