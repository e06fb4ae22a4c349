"""Results that are read as something else than expected, and options that nobody carries out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Hub = Callable[..., Any]
Faults = Callable[..., None]


def test_a_result_is_what_its_reader_finds(hub: Hub, faults: Faults, toy: Path, tmp_path: Path) -> None:
    faults("read-as", alone=True)
    ran = hub("convert", toy, "--to", "toybin", "--fp16", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.out
    assert ran.json["route"]["edges"] == ["faulty.read-as"]
    assert ran.json["result"]["state"]["numerics"] == "fp16"


def test_a_result_that_is_read_as_what_nobody_asked_for_is_refused(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("read-as")
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.json["route"]["edges"] == ["toy.bin"]
    (failed,) = ran.json["failed_attempts"]
    assert failed["message"] == "faulty.read-as was to write fp32; the file holds fp16"


def test_a_route_ends_where_the_next_edge_does_not_start(
    hub: Hub, faults: Faults, toy: Path, samples: Path, tmp_path: Path
) -> None:
    faults("read-as")
    words = ("--precision", "int8", "--calibration", samples, "-o", tmp_path / "out.toybin", "--json")
    ran = hub("convert", toy, "--to", "toybin", *words)
    assert ran.json["route"]["edges"] == ["toy.bin", "toy.int8"]
    (failed,) = ran.json["failed_attempts"]
    reason = "it does not start from toybin/fp16, which the step before it ended in"
    assert (failed["message"], failed["refused"]) == (reason, True)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--io-dtype", "int8"), "--io-dtype int8"),
        (("--io-layout", "nhwc"), "--io-layout nhwc"),
        (("--submodule", "nonsense"), "--submodule nonsense"),
    ],
)
def test_an_option_is_not_ignored_in_silence(
    hub: Hub, toy: Path, tmp_path: Path, option: tuple[str, ...], words: str
) -> None:
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json", *option)
    assert (ran.status, ran.error["code"]) == (3, "no-route")
    assert ran.error["message"].endswith(f"nothing on the way carries out {words}")
    assert "toy.bin" in ran.error["left_out"]
    assert ran.error["hint"].startswith(f"{option[0]} is carried out by ")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--io-dtype", "int8"), "inputs and outputs should be int8; the result of faulty.forgetful has float32"),
        (("--constant", "left=1"), "left should have left the inputs; the result of faulty.forgetful has it"),
    ],
)
def test_what_is_said_to_be_carried_out_is_looked_for_in_the_result(
    hub: Hub, faults: Faults, twin: Path, tmp_path: Path, option: tuple[str, ...], words: str
) -> None:
    faults("forgetful", alone=True)
    ran = hub("convert", twin, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json", *option)
    assert ran.error["code"] == "step-effect"
    assert words in ran.error["message"]
