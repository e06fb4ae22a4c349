"""The receipt: what it says, that it says it for every precision, and that its schema holds."""

import datetime as dt
import importlib.util
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import msgspec
import pytest

from hub._files import sha256_file
from hub._judgement import as_made
from hub._opening import Opened
from hub._receipt import UNNAMED, decode_receipt, grown_words, kernels_words, read_receipt
from hub._request import Request, Source
from hub.spec import (
    HubError,
    ModelArtifact,
    ModelSummary,
    Numerics,
    OutputParity,
    ParityPolicy,
    ParityReport,
    Signature,
    State,
    StepRecord,
    UsageError,
)

Hub = Callable[..., Any]
ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "reference" / "receipt.schema.json"


class Case(NamedTuple):
    """A precision, the route to it, and the element type of its weights."""

    precision: str
    route: list[str]
    recipe: str = ""


CASES = (
    Case("fp32", ["toy.bin"]),
    Case("fp16", ["toy.bin", "toy.fp16"], "toy-fp16"),
    Case("int8-dynamic", ["toy.bin", "toy.int8-dynamic"], "toy-int8-dynamic"),
    Case("int8", ["toy.bin", "toy.int8"], "toy-int8"),
)


def validate(receipt: Any) -> None:
    """Check a receipt against the published schema, with a validator that is not the code that wrote it."""
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(receipt)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.precision)
def test_every_precision_arrives_with_its_receipt(
    hub: Hub, toy: Path, samples: Path, tmp_path: Path, case: Case
) -> None:
    output = tmp_path / "out.toybin"
    words = ("--precision", case.precision, "--calibration", samples, "-o", output, "--json")
    ran = hub("convert", toy, "--to", "toybin", *words)
    assert ran.status == 0, ran.err
    receipt = json.loads(Path(f"{output}.hub.json").read_text())
    assert receipt == ran.json
    validate(receipt)
    assert receipt["route"]["edges"] == case.route
    assert receipt["result"]["state"] == {"format": "toybin", "numerics": case.precision, "form": ""}
    assert receipt["result"]["sha256"] == sha256_file(output)
    assert receipt["source"]["sha256"] == sha256_file(toy)
    assert receipt["result"]["size_bytes"] == output.stat().st_size
    assert receipt["parity"]["passed"] is True
    assert receipt["parity"]["inputs"] == "held-out"
    assert receipt["steps"][-1].get("recipe", {}).get("name", "") == case.recipe


def test_the_int8_receipt_says_what_data_was_used(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.toybin"
    receipt = hub("convert", toy, "--to", "toybin", "--int8", "--calibration", samples, "-o", output, "--json").json
    assert receipt["calibration"]["spec"] == str(samples)
    assert receipt["calibration"]["calibration_samples"] == 32
    assert receipt["calibration"]["held_out_samples"] == 8
    assert len(receipt["calibration"]["fingerprint"]) == 64
    assert receipt["steps"][-1]["recipe"]["samples"] == 32
    assert any("32 samples" in remark["text"] for remark in receipt["remarks"] if remark["kind"] == "note")


def test_without_data_int8_means_dynamic_and_says_so(hub: Hub, toy: Path, tmp_path: Path) -> None:
    ran = hub("convert", toy, "--to", "toybin", "--int8", "-o", tmp_path / "out.toybin", "--json")
    assert ran.json["requested"] == "int8-dynamic"
    assert ran.json["result"]["state"]["numerics"] == "int8-dynamic"
    assert ran.json["parity"]["inputs"] == "random"


def test_the_receipt_says_when_and_with_what(hub: Hub, toy: Path, tmp_path: Path) -> None:
    receipt = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json").json
    created = dt.datetime.fromisoformat(receipt["created"])
    assert abs(dt.datetime.now(dt.UTC) - created) < dt.timedelta(minutes=10)
    assert receipt["receipt_version"] == 2
    assert receipt["environment"]["python"].count(".") == 2


def test_dynamic_dimensions_survive_where_every_edge_keeps_them(hub: Hub, toy: Path, tmp_path: Path) -> None:
    receipt = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json").json
    assert receipt["result"]["signature"]["inputs"][0]["shape"][0] == {"symbol": "batch"}


def test_the_schema_refuses_a_receipt_without_a_measurement(hub: Hub, toy: Path, tmp_path: Path) -> None:
    receipt = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json").json
    validate(receipt)
    for lacking in ({"parity": None}, {}):
        with pytest.raises(jsonschema.ValidationError, match="not valid under any of the given schemas"):
            validate({name: value for name, value in receipt.items() if name != "parity"} | lacking)


def test_the_published_schema_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for name, page in generate.PAGES.items():
        assert page() == (SCHEMA.parent / name).read_text(), f"{name} is stale: python docs/generate.py"


def test_a_receipt_of_version_1_is_read() -> None:
    """Its sentences had no codes but for the findings."""
    receipt = decode_receipt((Path(__file__).parent / "receipt-v1.json").read_bytes())
    assert receipt.parity.passed
    assert receipt.remarks[0].code == "dynamic-dims"
    assert [(remark.kind, remark.code) for remark in receipt.remarks[1:]] == [("note", UNNAMED), ("warning", UNNAMED)]
    assert receipt.remarks[2].text == "int8 is slower here: 0.50x"
    assert receipt.steps[-1].notes == receipt.remarks[1:2]
    assert receipt.route.left_out["openvino.int8-mixed"].text == "never: avoided on request"
    assert receipt.execution is not None
    assert [remark.kind for remark in receipt.execution.remarks] == ["obstacle", "deviation"]


def test_a_receipt_is_read_as_it_was_written_and_a_newer_one_refused(hub: Hub, toy: Path, tmp_path: Path) -> None:
    text = json.dumps(hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json").json).encode()
    receipt = decode_receipt(text)
    assert decode_receipt(msgspec.json.encode(receipt)) == receipt
    with pytest.raises(UsageError, match=r"the receipt has version 3, hub .* reads versions up to 2"):
        decode_receipt(text.replace(b'"receipt_version": 2', b'"receipt_version": 3'))


def test_every_remark_in_the_json_has_kind_and_code(hub: Hub, toy: Path, tmp_path: Path) -> None:
    receipt = hub("convert", toy, "--to", "toybin", "--int8", "-o", tmp_path / "out.toybin", "--json").json
    assert {"precision-chosen", "compared-on-random"} <= {remark["code"] for remark in receipt["remarks"]}
    assert {remark["kind"] for remark in receipt["remarks"]} <= {"finding", "note", "warning"}


@pytest.mark.parametrize(
    "foreign", ['{"receipt_version": "2"}', '{"receipt_version": 1}', '{"receipt_version": null}', "[]"]
)
def test_a_receipt_that_is_none_is_told(hub: Hub, toy: Path, tmp_path: Path, foreign: str) -> None:
    written = tmp_path / "out.toybin"
    assert hub("convert", toy, "--to", "toybin", "-o", written, "--json").status == 0
    written.with_name("out.toybin.hub.json").write_text(foreign)
    ran = hub("verify", toy, written, "--json")
    assert (ran.status, ran.json["error"]["code"]) == (2, "usage")
    assert "cannot be read" in ran.json["error"]["message"]


WRONG = (None, -1, 1 << 40, 10**30, 0.5, "x", [], [-1], {}, [{}])
"""What no field takes, or few."""


def spoiled(value: Any, replace: Callable[[Any], Any]) -> Iterator[Any]:
    """A receipt once for each value in it, at any depth, with that one dropped, and put in place for each wrong one."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield replace({name: other for name, other in value.items() if name != key})
            yield from spoiled(inner, lambda new, key=key: replace(value | {key: new}))
    elif isinstance(value, list):
        for index, inner in enumerate(value[:1]):
            yield replace([*value[:index], *value[index + 1 :]])
            yield from spoiled(inner, lambda new, index=index: replace([*value[:index], new, *value[index + 1 :]]))
    yield from (replace(wrong) for wrong in WRONG)


@pytest.mark.parametrize("version", [1, 2])
def test_no_damage_to_a_receipt_ends_as_a_defect_in_hub(hub: Hub, toy: Path, tmp_path: Path, version: int) -> None:
    """Read, and used to build what `hub verify` runs: either that goes well, or it is told what is wrong."""
    written = tmp_path / "out.toybin"
    words = ("--to", "toybin", "--shape", "x=1..8x6", "-o", written, "--json")
    sound = hub("convert", toy, *words).json
    if version == 1:
        sound = json.loads((Path(__file__).parent / "receipt-v1.json").read_text())
    moved = {"direction": "input", "source": "x", "target": "x", "permutation": [1, 0]}
    sound["steps"][0]["bindings"] = [*sound["steps"][0].get("bindings", []), moved]
    signature = msgspec.convert(sound["source"]["signature"], Signature)
    state = State(format="toy", numerics=Numerics.FP32)
    summary = ModelSummary(state=state, signature=signature)
    opened = Opened(artifact=msgspec.convert(sound["source"], ModelArtifact), summary=summary)
    result = msgspec.convert(sound["result"], ModelArtifact)
    request = Request(source=Source(path=str(toy)), target="", numerics=Numerics.FP32, output="")
    file = written.with_name("out.toybin.hub.json")
    codes, told = Counter[str](), set[str]()
    for receipt in spoiled(sound, lambda new: new):
        file.write_bytes(msgspec.json.encode(receipt))
        try:
            read = read_receipt(written, result)
            assert read
            as_made(request, opened, read)
            codes["sound"] += 1
        except HubError as error:
            codes[error.code if error.hint else "no hint"] += 1
            told.add(error.message)
    assert codes.keys() <= {"sound", "usage", "unknown-name", "step-effect"}
    assert min(codes["sound"], codes["usage"]) > 100
    assert any("it has no steps" in text for text in told)


@pytest.mark.parametrize("foreign", ["[" * 100_000, '{"receipt_version": -1}', "\ud800", "", "NaN"])
def test_a_receipt_that_is_no_json_is_told(tmp_path: Path, foreign: str) -> None:
    (tmp_path / "out.bin.hub.json").write_text(foreign, errors="surrogatepass")
    artifact = decode_receipt((Path(__file__).parent / "receipt-v1.json").read_bytes()).result
    with pytest.raises(UsageError, match=r"the receipt .* cannot be read: .") as caught:
        read_receipt(tmp_path / "out.bin", artifact)
    assert "rm " in caught.value.hint


@pytest.mark.parametrize(
    ("others", "told"),
    [({"reference": 39.2}, True), ({"reference": 20.0}, False), ({"optimized at x=2x3": 39.2}, False), ({}, False)],
)
def test_kernels_of_one_runtime_that_disagree_are_told(others: dict[str, float], told: bool) -> None:
    outputs = tuple(
        OutputParity(
            output="mask",
            runtime=runtime,
            samples=9,
            elements=9,
            max_abs=0,
            mean_abs=0,
            relative=0,
            cosine=1,
            sqnr_db=db,
        )
        for runtime, db in ({"xnnpack": 17.2} | others).items()
    )
    report = ParityReport(
        policy=ParityPolicy(numerics=Numerics.INT8), inputs="given", reference_runtime="r", outputs=outputs, passed=True
    )
    found = list(kernels_words(report))
    assert [item.code for item in found] == ["kernels-disagree"] * told
    assert not told or "mask has 39.2 dB with reference and 17.2 dB with xnnpack" in found[0].text


def test_no_receipt_replaces_a_source_or_what_is_no_receipt(hub: Hub, toy: Path, tmp_path: Path) -> None:
    written = tmp_path / "out.toybin"
    place = Path(f"{written}.hub.json")
    place.write_bytes(toy.read_bytes())
    words = ("--to", "toybin", "-o", written, "--json")
    assert hub("convert", toy, *words).error["code"] == "output-exists"
    for force in ((), ("--force",)):
        error = hub("convert", place, *words, *force).json["error"]
        assert error["code"] in {"usage", "output-exists"}
        assert place.read_bytes() == toy.read_bytes()
        assert not written.exists()
    assert f"the receipt of {written}, {place} is the input {place}" in error["message"]
    place.unlink()
    assert hub("convert", toy, *words).status == 0
    written.unlink()
    assert hub("convert", toy, *words).status == 0, "an earlier receipt is in nobody's way"


def test_a_source_with_other_inputs_cannot_be_what_a_result_was_made_of(
    hub: Hub, toy: Path, twin: Path, tmp_path: Path
) -> None:
    written = tmp_path / "out.toybin"
    assert hub("convert", toy, "--to", "toybin", "-o", written).status == 0
    error = hub("verify", twin, written, "--json").json["error"]
    assert (error["code"], error["exit_status"]) == ("usage", 2)
    assert "was made of a model that takes x;" in error["message"]
    assert error["hint"].endswith(f": {toy}")
    Path(f"{written}.hub.json").unlink()
    error = hub("verify", twin, written, "--json").json["error"]
    assert (error["code"], error["exit_status"]) == ("usage", 2)


def test_another_source_than_the_receipts_is_told(hub: Hub, toy: Path, tmp_path: Path) -> None:
    """It is a question one may ask; but sizes and bindings are those of the model that the result was made of."""
    written, other = tmp_path / "out.toybin", tmp_path / "other.toy"
    assert hub("convert", toy, "--to", "toybin", "-o", written).status == 0
    assert "remarks" not in hub("verify", toy, written, "--json").json
    other.write_text(toy.read_text().replace('"first"', '"premier"'))
    ran = hub("verify", other, written, "--json")
    (told,) = ran.json["remarks"]
    assert (ran.status, told["kind"], told["code"]) == (0, "warning", "other-source")
    assert sha256_file(other)[:12] in told["text"]
    assert sha256_file(toy)[:12] in told["text"]
    assert "is not the source that the result's receipt names" in hub("verify", other, written).out
    written.write_bytes(written.read_bytes() + b" ")
    changed = hub("verify", toy, written, "--json").json["error"]
    assert changed["code"] == "usage"
    assert "is not the file that its receipt describes: sha256 " in changed["message"]


def _step(edge: str, size: int) -> StepRecord:
    artifact = ModelArtifact(
        path="m", state=State(format="toy"), signature=Signature(inputs=(), outputs=()), sha256="", size_bytes=size
    )
    return StepRecord(edge=edge, title=edge.title(), artifact=artifact, seconds=0.0, peak_memory_bytes=0, cached=False)


@pytest.mark.parametrize(
    ("before", "parameters", "sizes", "told"),
    [
        (7_000, 1_700, [7_100, 11_500_000], "1643 times as large"),
        (7_000, 1_400_000, [7_100, 11_500_000], ""),  # code, whose weights are elsewhere
        (7_000, 1_700, [500_000, 600_000], ""),  # not much in bytes
        (9_000_000, 1_700, [18_000_000, 36_000_000], ""),  # from integers to float32
    ],
)
def test_a_result_that_grew_is_told_with_the_step(before: int, parameters: int, sizes: list[int], told: str) -> None:
    steps = [_step(edge, size) for edge, size in zip(["one.first", "two.second"], sizes, strict=True)]
    remarks = list(grown_words(before, parameters, steps))
    assert [told in remark.text for remark in remarks] == [True] * bool(told)
    assert all("--avoid two.second" in remark.hint for remark in remarks)
