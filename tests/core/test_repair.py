"""`hub repair`: what is right is left alone, what is wrong is made again and proved, what is not known is asked for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hub as python_interface
from hub_toy.files import ToyModel, read, write_binary

Hub = Callable[..., Any]


@pytest.fixture
def converted(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> Path:
    """An int8 model with its receipt."""
    output = tmp_path / "out.int8.toybin"
    assert hub("convert", toy, "--to", "toybin", "--int8", "--calibration", samples, "-o", output).status == 0
    return output


def spoil(path: Path) -> bytes:
    """Leave a layer's weights at zero; returns what the file holds then."""
    model = read(path)
    arrays = model.arrays | {"second.w": np.zeros_like(model.arrays["second.w"])}
    write_binary(path, ToyModel(graph=model.graph, arrays=arrays))
    return path.read_bytes()


def test_what_is_right_is_left_alone(hub: Hub, converted: Path) -> None:
    before = {path.name for path in converted.parent.iterdir()}
    ran = hub("repair", converted, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["parity"]["passed"] is True
    assert "receipt" not in ran.json
    assert {path.name for path in converted.parent.iterdir()} == before
    assert "nothing to repair" in hub("repair", converted).out


def test_what_is_wrong_is_made_again_beside_it(hub: Hub, samples: Path, converted: Path) -> None:
    sound = converted.read_bytes()
    wrong = spoil(converted)
    ran = hub("repair", converted, "--json")
    assert ran.status == 0, ran.err
    made = converted.with_name("out.int8.repaired.toybin")
    assert made.read_bytes() == sound
    assert converted.read_bytes() == wrong
    assert ran.json["parity"]["passed"] is False
    assert ran.json["receipt"]["parity"]["passed"] is True
    receipt = json.loads(made.with_name(f"{made.name}.hub.json").read_text())
    told = {remark["code"]: remark["text"] for remark in receipt["remarks"]}
    assert f"made in place of {converted}, of which y on numpy: " in told["made-in-place"]
    assert "not the file that its receipt describes" in told["made-in-place"]
    assert receipt["calibration"]["spec"] == str(samples)
    plain = hub("repair", converted, "--force").out
    for words in ("before", "after", "guilty layers", "layers in float", str(made)):
        assert words in plain, words


def test_what_cannot_be_read_any_more_is_made_again_too(hub: Hub, converted: Path) -> None:
    sound = converted.read_bytes()
    converted.write_bytes(sound[: len(sound) // 2])
    ran = hub("repair", converted, "-o", converted, "--force", "--json")
    assert ran.status == 0, ran.err
    assert converted.read_bytes() == sound
    assert "parity" not in ran.json
    assert ran.json["broken"]
    converted.write_bytes(b"")
    converted.with_name(f"{converted.name}.hub.json").unlink()
    assert hub("repair", converted, "--json").error["code"] == "model-unreadable"


def test_in_place_only_with_force_and_never_over_the_source(hub: Hub, toy: Path, converted: Path) -> None:
    sound, wrong, source = converted.read_bytes(), spoil(converted), toy.read_bytes()
    assert hub("repair", converted, "-o", converted, "--json").error["code"] == "output-exists"
    assert converted.read_bytes() == wrong
    renamed = toy.rename(toy.with_suffix(".toybin.toy"))
    assert hub("repair", converted, "--source", renamed, "-o", renamed, "--force", "--json").error["code"] == "usage"
    assert renamed.read_bytes() == source
    ran = hub("repair", converted, "--source", renamed, "-o", converted, "--force")
    assert ran.status == 0, ran.err
    assert converted.read_bytes() == sound


def test_a_source_that_is_gone_or_another_is_asked_for(hub: Hub, toy: Path, converted: Path) -> None:
    spoil(converted)
    content = toy.read_text()
    toy.write_text(content + " ")
    other = hub("repair", converted, "--json").error
    assert other["code"] == "usage"
    assert "is not the source" in other["message"]
    toy.rename(toy.with_name("moved.toy"))
    gone = hub("repair", converted, "--json").error
    assert gone["code"] == "model-not-found"
    assert "--source MODEL" in gone["hint"]
    converted.with_name(f"{converted.name}.hub.json").unlink()
    unknown = hub("repair", converted, "--json").error
    assert unknown["code"] == "usage"
    assert "has no receipt beside it that names its source" in unknown["message"]


def test_without_a_receipt_the_user_names_source_and_data(
    hub: Hub, toy: Path, samples: Path, converted: Path, tmp_path: Path
) -> None:
    converted.with_name(f"{converted.name}.hub.json").unlink()
    spoil(converted)
    unknown = hub("repair", converted, "--source", toy, "--test", samples, "--json").error
    assert "--calibration DATA" in unknown["hint"]
    output = tmp_path / "mended.toybin"
    ran = hub("repair", converted, "--source", toy, "--calibration", samples, "-o", output, "--strict", "--json")
    assert ran.status == 0, ran.err
    assert ran.json["receipt"]["result"]["state"]["numerics"] == "int8"


def test_a_receipt_that_was_edited_is_told(hub: Hub, toy: Path, converted: Path) -> None:
    receipt = converted.with_name(f"{converted.name}.hub.json")
    assert "remarks" not in hub("verify", toy, converted, "--json").json
    said = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(said))  # laid out otherwise it says the same
    assert "remarks" not in hub("verify", toy, converted, "--json").json
    receipt.write_text(json.dumps(said | {"options": said.get("options", {}) | {"seed": 7}}))
    told = hub("verify", toy, converted, "--json").json["remarks"]
    assert [remark["code"] for remark in told] == ["receipt-edited"]
    assert hub("repair", converted, "--json").json["parity"]["remarks"][0]["code"] == "receipt-edited"


def test_a_builder_that_a_receipt_names_is_not_run_unasked(hub: Hub, converted: Path) -> None:
    spoil(converted)
    receipt = converted.with_name(f"{converted.name}.hub.json")
    said = json.loads(receipt.read_text())
    receipt.write_text(json.dumps(said | {"source": said["source"] | {"path": "os.path:getcwd"}}))
    error = hub("repair", converted, "--json").error
    assert error["code"] == "usage"
    assert f"hub repair {converted} --source os.path:getcwd" in error["hint"]


def test_data_that_is_gone_is_asked_for(hub: Hub, samples: Path, converted: Path) -> None:
    spoil(converted)
    moved = samples.rename(samples.with_name("moved.npz"))
    gone = hub("repair", converted, "--json").error
    assert gone["code"] == "usage"
    assert f"not there: {samples}" in gone["message"]
    assert f"hub repair {converted} --test DATA" in gone["hint"]
    assert hub("repair", converted, "--calibration", moved).status == 0


def test_test_data_that_is_gone_is_not_silently_replaced(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    output, test = tmp_path / "tested.toybin", samples.with_name("test.npz")
    test.write_bytes(samples.read_bytes())
    words = ("--int8", "--calibration", samples, "--test", test, "-o", output)
    assert hub("convert", toy, "--to", "toybin", *words).status == 0
    test.unlink()
    assert f"not there: {test}" in hub("repair", output, "--json").error["message"]
    assert hub("repair", output, "--test", samples).status == 0


def test_options_of_the_conversion_are_kept(hub: Hub, toy: Path, tmp_path: Path, samples: Path) -> None:
    output = tmp_path / "fixed.toybin"
    words = ("--int8", "--calibration", samples, "--test", samples, "--shape", "x=1x6", "-o", output)
    assert hub("convert", toy, "--to", "toybin", *words).status == 0
    sound = output.read_bytes()
    spoil(output)
    report = python_interface.repair(output, force=True)
    assert report.receipt is not None
    assert report.receipt.calibration is not None
    assert report.receipt.calibration.test == str(samples)
    assert report.receipt.options.shapes == {"x": (1, 6)}
    assert output.with_name("fixed.repaired.toybin").read_bytes() == sound


def test_a_repair_is_of_the_model_that_the_result_was_made_of(hub: Hub, toy: Path, converted: Path) -> None:
    spoil(converted)
    itself = hub("repair", converted, "--source", converted, "--json").error
    assert itself["code"] == "usage"
    assert "is the result itself" in itself["message"]
    other = toy.with_name("other.toy")
    other.write_text(toy.read_text() + " ")
    another = hub("repair", converted, "--source", other, "--json").error
    assert another["code"] == "usage"
    assert "is not the source" in another["message"]


def test_the_gate_of_the_conversion_is_kept(hub: Hub, toy: Path, tmp_path: Path, samples: Path) -> None:
    output = tmp_path / "loose.toybin"
    made = hub("convert", toy, "--to", "toybin", "--int8", "--calibration", samples, "-o", output, "--min-sqnr", "15")
    assert made.status == 0
    spoil(output)
    ran = hub("repair", output, "--json")
    assert ran.status == 0, ran.err
    again = ran.json["receipt"]
    assert again["steps"][-1]["parity"]["policy"]["sqnr_min_db"] == 15
    assert hub("verify", toy, again["result"]["path"], "--data", samples, "--min-sqnr", "200").status == 6
