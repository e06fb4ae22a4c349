"""A result whose device is not here is built and not run, and nothing else gets past the gate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hub as python_interface
from hub._shapes import fix_shapes
from hub.spec import ConvertOptions, DeviceMissing, Dim, DimRange, DType, Signature, TensorSpec, UsageError

Hub = Callable[..., Any]
Offer = Callable[..., None]


@pytest.fixture
def offer(install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Install the plugin with some of its edges; `device` is what its runtime finds."""
    installed: list[Path] = []

    def offered(*edges: str, device: str = "") -> None:
        if not installed:
            installed.append(install("absent", "hub_absent"))
        monkeypatch.setenv("HUB_FAULTS", " ".join(edges))
        monkeypatch.setenv("HUB_TEST_DEVICE", device)

    return offered


def convert(hub: Hub, model: Path, target: str, *words: str | Path) -> Any:
    return hub("convert", model, "--to", target, "-o", model.with_name(f"out.{target}"), "--json", "--force", *words)


def test_without_its_device_a_result_is_built_and_never_called_verified(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("build")
    ran = convert(hub, toy, "absent")
    assert ran.status == 0, ran.err
    receipt = ran.json
    assert receipt["level"] == "aot-built"
    assert "parity" not in receipt
    assert "parity" not in receipt["steps"][-1]
    assert "accuracy" not in receipt
    assert "speed" not in receipt
    built = receipt["not_run"]
    assert built["reason"] == "no abacus is plugged in"
    assert built["proved"]["state"]["format"] == "toybin"
    assert built["parity"]["passed"]
    assert built["parity"] == receipt["steps"][0]["parity"]


def test_the_terminal_says_that_it_was_not_run_and_what_was_proved(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("build")
    ran = hub("convert", toy, "--to", "absent", "-o", toy.with_name("out.absent"), "-v")
    assert ran.status == 0
    assert ran.out.startswith("• built, not run ")
    assert "built here and NOT run" in ran.out
    assert "no abacus is plugged in" in ran.out
    assert "toybin/fp32 in numpy, passed the gate: SQNR" in ran.out
    last = next(line for line in ran.out.splitlines() if line.startswith("absent.build"))
    assert last.rstrip().endswith("not run")
    assert "verified" not in ran.out + ran.err
    assert "built and not run" in ran.err


def test_with_its_device_it_is_run_and_held_to_the_gate(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("build", device="here")
    ran = convert(hub, toy, "absent")
    assert ran.json["level"] == "device-run"
    assert ran.json["parity"]["passed"]
    assert "not_run" not in ran.json
    offer("zeros", device="here")
    wrong = convert(hub, toy, "absent")
    assert wrong.error["code"] == "parity"


def test_a_result_of_a_format_that_runs_here_stays_under_the_gate(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("build")
    ran = convert(hub, toy, "toybin")
    assert ran.json.get("level", "run") == "run"
    assert ran.json["parity"]["passed"]


@pytest.mark.parametrize(
    ("edge", "code", "words"),
    [
        ("lossy", "device-missing", "nothing else proves it: absent.lossy itself changes what is computed"),
        ("secretly-lossy", "plugin-broken", "'absent.secretly-lossy': it makes fp16 of fp32 and is not lossy"),
    ],
)
def test_a_step_that_changes_what_is_computed_cannot_skip_the_gate(
    hub: Hub, offer: Offer, toy: Path, edge: str, code: str, words: str
) -> None:
    offer(edge)
    ran = convert(hub, toy, "absent", "--fp16")
    assert ran.error["code"] == code
    assert words in ran.error["message"]
    assert not toy.with_name("out.absent").exists()


def test_the_precision_is_proved_where_a_step_before_it_runs_here(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("build")
    ran = convert(hub, toy, "absent", "--fp16")
    assert ran.json["not_run"]["proved"]["state"]["numerics"] == "fp16"
    assert ran.json["not_run"]["parity"]["policy"]["numerics"] == "fp16"


def test_a_step_that_failed_the_gate_proves_nothing(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("build")
    ran = convert(hub, toy, "absent", "--fp16", "--min-sqnr", "200")
    assert ran.error["code"] == "parity"


@pytest.mark.parametrize("asked", [("--constant", "right=7"), ()])
def test_a_step_that_is_not_run_freezes_and_moves_nothing(
    hub: Hub, offer: Offer, twin: Path, asked: tuple[str, ...]
) -> None:
    offer("freezes" if asked else "moves")
    assert convert(hub, twin, "toybin").status == 0
    ran = convert(hub, twin.with_name("out.toybin"), "absent", *asked)
    assert ran.error["code"] == "device-missing", ran.out
    assert " changes inputs or outputs" in ran.error["message"]
    assert not twin.with_name("out.absent").exists()


def test_the_gate_is_not_skipped_because_a_runtime_is_named_that_is_not_here(
    hub: Hub, offer: Offer, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer("build", "binary-zeros")
    monkeypatch.setenv("HUB_TEST_FORMATS", "absent toybin")
    named = ("--runtime", "abacus")
    ran = convert(hub, toy, "toybin", *named)
    assert ran.error["code"] == "device-missing"
    assert ran.error["message"] == "abacus cannot run models here: no abacus is plugged in"
    assert not toy.with_name("out.toybin").exists()
    assert convert(hub, toy, "absent", *named).error["code"] == "device-missing"
    assert convert(hub, toy, "toybin").json["route"]["edges"] == ["toy.bin"]
    assert hub("verify", toy, toy.with_name("out.toybin"), *named, "--json").error["code"] == "device-missing"
    monkeypatch.setenv("HUB_TEST_DEVICE", "by-model")
    ran = convert(hub, toy, "toybin", *named)
    assert ran.error["code"] == "device-missing"
    assert not ran.json.get("not_run")


def test_nothing_is_built_upon_what_was_not_run(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("build", "back")
    binary = toy.with_name("out.toybin")
    assert convert(hub, toy, "toybin").status == 0
    assert convert(hub, binary, "absent").json["not_run"]["runtime"] == "numpy"
    assert "parity" not in convert(hub, binary, "absent").json["not_run"]  # the source itself, which ran
    engine = toy.with_name("out.absent")
    ran = hub("convert", engine, "--to", "toybin", "-o", toy.with_name("again.toybin"), "--json")
    assert ran.error["code"] == "device-missing"


@pytest.mark.parametrize(
    ("how", "words"), [("raises", "OSError: no driver"), ("text", "returned str, not hub.spec.Verdict")]
)
def test_a_runtime_that_gives_no_verdict_is_a_broken_plugin(
    hub: Hub, offer: Offer, toy: Path, how: str, words: str
) -> None:
    offer("build", device=how)
    ran = convert(hub, toy, "absent")
    assert ran.error["code"] == "plugin-broken"
    assert words in ran.error["message"]
    assert not toy.with_name("out.absent").exists()


def test_what_runs_a_model_says_that_its_device_is_missing(hub: Hub, offer: Offer, toy: Path, samples: Path) -> None:
    offer("build")
    assert convert(hub, toy, "absent").status == 0
    engine = toy.with_name("out.absent")
    for words in (
        ("verify", toy, engine),
        ("run", engine, "--data", samples, "-o", toy.with_name("o.npz")),
    ):
        ran = hub(*words, "--json")
        assert ran.status == 4
        assert ran.error["code"] == "device-missing"
        assert ran.error["hint"] == "plug one in"
    with pytest.raises(DeviceMissing):
        python_interface.open_session(str(engine))
    looked = hub("inspect", engine, "--layers", "--json")
    assert looked.status == 0
    assert "no abacus is plugged in" in looked.json["not_executed"]


def test_a_speed_cannot_be_asked_of_what_does_not_run(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("build")
    assert convert(hub, toy, "absent", "--require-speedup", "2").error["code"] == "device-missing"


def test_it_is_not_delivered_again_from_the_cache(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("build")
    assert convert(hub, toy, "absent").json["level"] == "aot-built"
    offer("build", device="here")
    assert convert(hub, toy, "absent").json["level"] == "device-run"


def test_an_edge_that_needs_a_device_runs_where_the_device_is(hub: Hub, offer: Offer, toy: Path) -> None:
    offer("with-device")
    ran = convert(hub, toy, "absent")
    assert ran.error["code"] == "no-route"
    assert "needs a abacus device: no abacus is plugged in" in ran.error["message"]
    offer("with-device", device="here")
    assert convert(hub, toy, "absent").json["level"] == "device-run"


def test_labels_give_no_accuracy_of_what_was_not_run(hub: Hub, offer: Offer, toy: Path, tmp_path: Path) -> None:
    import numpy as np

    offer("build")
    data = tmp_path / "labelled.npz"
    inputs = np.random.default_rng(1).standard_normal((8, 6)).astype(np.float32)
    np.savez(data, x=inputs, label=np.zeros(8, np.int64))
    ran = convert(hub, toy, "absent", "--test", data)
    assert ran.status == 0, ran.err
    assert "accuracy" not in ran.json


def test_ranges_are_proved_at_both_ends_and_refused_where_they_do_not_fit(hub: Hub, toy: Path) -> None:
    ran = convert(hub, toy, "toybin", "--shape", "x=2..3..9x6")
    assert ran.status == 0, ran.err
    sizes = {row["runtime"] for row in ran.json["parity"]["outputs"]}
    assert sizes == {"numpy", "numpy at x=9x6", "numpy at x=2x6"}
    assert convert(hub, toy, "toybin", "--shape", "x=1..4x7").error["code"] == "usage"
    assert convert(hub, toy, "toybin", "--shape", "x=4..1x6").status == 2
    assert convert(hub, toy, "toybin", "--shape", "z=1..4x6").error["code"] == "unknown-name"


def test_data_outside_the_range_is_refused() -> None:
    spec = TensorSpec(name="x", dtype=DType.FLOAT32, shape=(Dim(symbol="length"), Dim(size=6)))
    six = DimRange(low=6, best=6, high=6)
    options = ConvertOptions(ranges={"x": (DimRange(low=1, best=8, high=8), six)})
    signature = Signature(inputs=(spec,), outputs=())
    assert fix_shapes(signature, options, {})[0] == {"x": (8, 6)}
    assert fix_shapes(signature, options, {"x": (5, 6)})[0] == {"x": (5, 6)}
    with pytest.raises(UsageError, match=r"the data has 12x6 for x, outside 1\.\.8x6"):
        fix_shapes(signature, options, {"x": (12, 6)})


def test_doctor_says_what_a_machine_lacks_and_that_nothing_is_broken(hub: Hub, offer: Offer) -> None:
    offer("build")
    ran = hub("doctor", "--json")
    assert {
        "what": "abacus builds for abacus and runs nothing here: no abacus is plugged in",
        "mend": "plug one in",
    } in (ran.json["lacks"])
    assert not [problem for problem in ran.json["problems"] if "abacus" in problem["what"]]
    assert "to have it: plug one in" in hub("doctor").out
    offer("build", device="here")
    assert not [lack for lack in hub("doctor", "--json").json["lacks"] if "abacus" in lack["what"]]
