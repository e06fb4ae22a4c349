"""A plugin that is wrong is found out: each test plants one that was once believed."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import hub as python_interface
from hub._effects import check_bindings, check_layers
from hub._tasks import RunTask
from hub._worker import _run_one
from hub.spec import (
    ConvertOptions,
    Dim,
    EffectError,
    IoBinding,
    Layer,
    ModelArtifact,
    ModelSummary,
    Numerics,
    RuntimeOptions,
    Signature,
    State,
    StepError,
    UsageError,
)
from hub_toy.edges import EDGES

Hub = Callable[..., Any]
Faults = Callable[..., None]
Install = Callable[..., Path]
HEAD = "from hub.spec import *\nfrom hub.spec import hookimpl\nimport hub_toy.runtime, hub_toy.formats\n\n\n"


def convert(hub: Hub, model: Path, target: str, *words: str | Path) -> Any:
    output = model.with_name(f"out.{target}")
    return hub("convert", model, "--to", target, "-o", output, "--json", "--force", *words)


def test_a_runtime_runs_the_formats_of_its_own_plugin_and_others_only_by_name(
    hub: Hub, faults: Faults, toy: Path
) -> None:
    faults("reverse")
    ran = convert(hub, toy, "toybin")
    assert ran.status == 0, ran.err
    assert ran.json["parity"]["reference_runtime"] == "numpy"
    assert {row["runtime"] for row in ran.json["parity"]["outputs"]} == {"numpy", "numpy at x=2x6"}
    assert [attempt["edge"] for attempt in ran.json["failed_attempts"]] == ["faulty.reverse"]
    named = convert(hub, toy, "toybin", "--runtime", "aaa")
    assert named.error["code"] == "parity"
    assert hub("verify", toy, toy.with_name("out.toybin"), "--runtime", "aaa", "--json").status == 6
    assert hub("verify", toy, toy.with_name("out.toybin"), "--json").status == 0


def test_a_runtime_can_be_named_for_a_run(hub: Hub, faults: Faults, toy: Path, samples: Path, tmp_path: Path) -> None:
    faults()
    for runtime in ("aaa", "numpy"):
        words = ("--data", samples, "-o", tmp_path / f"{runtime}.npz", "--runtime", runtime)
        assert hub("run", toy, *words).status == 0
    assert (np.load(tmp_path / "aaa.npz")["y"] == 1).all()
    assert np.load(tmp_path / "numpy.npz")["y"].sum() == pytest.approx(40, rel=1e-5)  # softmax of 40 rows


@pytest.mark.parametrize("runtime", ["nmupy", "liars"])
def test_a_runtime_that_is_not_there_or_does_not_open_the_format_is_refused(
    hub: Hub, faults: Faults, toy: Path, runtime: str
) -> None:
    faults()
    assert convert(hub, toy, "toybin", "--runtime", runtime).status == 2
    assert hub("inspect", toy, "--layers", "--runtime", runtime, "--json").status == 2


def test_a_runtime_that_computes_in_half_is_no_float32_runtime(hub: Hub, faults: Faults, toy: Path) -> None:
    faults()
    ran = convert(hub, toy, "toybin", "--runtime", "halves", "--max-relative", "0.01")
    assert ran.error["code"] == "parity"
    assert "halves gives the same outputs, bit for bit, for inputs 2^-12 apart" in ran.error["message"]
    assert not toy.with_name("out.toybin").exists()
    assert convert(hub, toy, "toybin").status == 0
    looser = ("--precision", "fp16", "--json")
    verified = hub("verify", toy, toy.with_name("out.toybin"), "--runtime", "halves", *looser)
    assert verified.error["code"] == "parity"
    assert "bit for bit" in verified.error["message"]
    assert hub("verify", toy, toy.with_name("out.toybin"), *looser).status == 0


def test_a_runtime_that_cannot_explain_is_compared_as_deployed_too(hub: Hub, faults: Faults, toy: Path) -> None:
    faults()
    ran = convert(hub, toy, "toybin", "--runtime", "mute")
    assert ran.status == 0, ran.err
    assert not ran.json["deployed"]["passed"]
    (warning,) = [item["text"] for item in ran.json["remarks"] if item["code"] == "deployed-outside-gate"]
    assert warning.startswith("mute by itself computes it otherwise")
    assert warning.endswith("it does not say how")


def test_a_fixed_size_that_a_reader_calls_open_is_refused(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("fixed-claims-open")
    ran = convert(hub, toy, "liar")
    assert ran.error["code"] == "step-effect"
    assert "keep the inputs x: float32[1x6]; the result has x: float32[s40x6]" in ran.error["message"]


def test_fewer_sizes_than_before_are_a_declared_change(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("narrow")
    ran = convert(hub, toy, "liar")
    assert ran.error["code"] == "step-effect"
    assert "the result has x: float32[batch<=15x6]" in ran.error["message"]


def test_fewer_sizes_that_are_declared_are_in_the_receipt(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("narrow-declared")
    ran = convert(hub, toy, "liar")
    assert ran.status == 0, ran.err
    assert ran.json["contract"][0]["changes"] == ["at most 15 at once"]


def test_the_end_of_a_range_is_run(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("secret-limit")
    from hub_faulty.liar import Claim, write_liar

    from hub_toy.files import read

    source = toy.with_name("bounded.liar")
    write_liar(source, read(toy), Claim(batch=Dim(symbol="batch", high=1024)))
    ran = convert(hub, source, "oath")
    assert ran.error["code"] == "parity", ran.out
    assert "at x=1024x6" in ran.error["message"]


def test_a_layout_that_nobody_changed_is_looked_for_in_the_result(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("forgetful")
    image = toy.read_text().replace('["batch", 6]', '["batch", 3, 4, 6]').replace('["batch", 3]', '["batch", 3, 4, 3]')
    (tmp_path / "image.toy").write_text(image)
    ran = convert(hub, tmp_path / "image.toy", "toybin", "--io-layout", "nhwc")
    assert ran.error["code"] == "step-effect"
    assert "x should be NHWC; the result of faulty.forgetful has it in NCHW" in ran.error["message"]
    assert convert(hub, tmp_path / "image.toy", "toybin", "--io-layout", "nchw").status == 0
    assert convert(hub, toy, "toybin", "--io-layout", "nhwc").status == 0  # none of its inputs is an image


def test_a_layout_is_looked_for_where_the_batch_axis_is_gone_too(
    hub: Hub, faults: Faults, toy: Path, tmp_path: Path
) -> None:
    faults("batchless", alone=True)
    image = toy.read_text().replace('["batch", 6]', "[1, 3, 4, 6]").replace('["batch", 3]', "[1, 3, 4, 3]")
    (tmp_path / "image.toy").write_text(image)
    ran = convert(hub, tmp_path / "image.toy", "toybin", "--io-layout", "nhwc")
    assert "x should be HWC; the result of faulty.batchless has it in CHW" in ran.error["message"]
    assert convert(hub, tmp_path / "image.toy", "toybin", "--io-layout", "nchw").status == 0


def test_a_device_that_it_was_not_built_for_is_looked_for_in_the_result(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("forgetful", alone=True)
    ran = convert(hub, toy, "toybin", "--build-for", "npu7")
    assert ran.error["code"] == "step-effect"
    assert "should be built for npu7; what faulty.forgetful wrote does not say" in ran.error["message"]


@pytest.mark.parametrize(
    ("numerics", "words", "wrong"),
    [
        ("fp16", ("fp32", "fp32"), True),
        ("int8", ("float32",), True),
        ("fp32", ("int8", "int8"), True),
        ("fp16", ("fp32", "fp16"), False),
        ("int8-weights", ("fp32",), False),
        ("fp32", ("fp32", "int8"), False),
        ("fp16", (), False),
    ],
)
def test_a_reader_whose_layers_contradict_its_word_is_refused(
    numerics: str, words: tuple[str, ...], wrong: bool
) -> None:
    layers = tuple(Layer(name="n", operator="affine", precision=word) for word in words)
    state = State(format="toybin", numerics=Numerics(numerics))
    summary = ModelSummary(state=state, signature=Signature(inputs=(), outputs=()), layers=layers)
    edge = next(edge for edge in EDGES if edge.id == "toy.bin")
    with pytest.raises(EffectError, match="lists every layer in") if wrong else contextlib.nullcontext():
        check_layers(edge, summary)


def test_what_is_narrow_by_its_name_alone_is_told(hub: Hub, faults: Faults, toy: Path) -> None:
    faults()
    exact = toy.with_name("exact.toy")
    exact.write_text(re.sub(r"-?\d+\.\d+", lambda number: str(round(float(number[0]) * 8) / 8), toy.read_text()))
    codes = {
        name: {item["code"] for item in convert(hub, name, "toybin", "--fp16").json["remarks"]} for name in (toy, exact)
    }
    assert ["not-narrower" in codes[name] for name in (toy, exact)] == [False, True]


def test_outputs_of_another_type_than_the_readers_are_refused(hub: Hub, faults: Faults, toy: Path) -> None:
    faults()
    ran = convert(hub, toy, "toybin", "--runtime", "wide")
    assert ran.error["code"] == "step-effect"
    assert "wide gives outputs y: float64[" in ran.error["message"]


def test_an_account_that_the_file_contradicts_is_told_and_not_shown(hub: Hub, faults: Faults, toy: Path) -> None:
    faults()
    ran = convert(hub, toy, "toybin", "--runtime", "boasting")
    assert ran.status == 0, ran.err
    (told,) = [item["text"] for item in ran.json["remarks"] if item["code"] == "execution-contradicted"]
    for wrong in (
        "it executes winograd, which the file does not have",
        "it computes in int8 throughout, and the file is fp32",
        "the device cpu was asked for, and it runs on gpu",
    ):
        assert wrong in told
    assert "execution" not in ran.json
    inspected = hub("inspect", toy.with_name("out.toybin"), "--layers", "--runtime", "boasting", "--json").json
    assert inspected["execution"] is None
    assert "cannot be true: it executes winograd" in inspected["not_executed"]


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("--device", "npu"), "the device npu was asked for, and it runs on cpu"),
        (("--inference-precision", "f16"), "the precision f16 was asked for, and it computes in fp32 throughout"),
    ],
)
def test_a_run_that_is_not_the_one_that_was_asked_for_is_refused(
    hub: Hub, faults: Faults, toy: Path, samples: Path, words: tuple[str, str], wrong: str
) -> None:
    faults()
    output = toy.with_name("out.npz")
    asked = ("run", toy, "--data", samples, "-o", output, "--runtime", "deaf", "--json")
    ran = hub(*asked, *words)
    assert (ran.status, ran.error["code"]) == (5, "step-effect")
    assert wrong in ran.error["message"]
    assert not output.exists()
    assert hub(*asked).status == 0


def test_a_submodule_that_the_reader_passes_over_is_refused(hub: Hub, faults: Faults, toy: Path, cache: Path) -> None:
    faults("forgetful")
    ran = convert(hub, toy, "toybin", "--submodule", "encoder")
    assert ran.error["code"] == "plugin-broken"
    assert "the reader of toy describes a submodule that there is not" in ran.error["message"]
    assert not list((cache / "failed").glob("*"))


DROPPING = """
import msgspec
from pathlib import Path
from hub_toy.files import read, write_binary


def step(job):
    model = read(Path(job.source.path))
    graph = msgspec.structs.replace(model.graph, outputs=model.graph.outputs[:1])
    write_binary(Path(job.output), msgspec.structs.replace(model, graph=graph if {cut} else model.graph))
    return StepOutput(bindings=({bindings},))


@hookimpl
def hub_register_edges():
    gives = Gives(format="toybin")
    return [Edge(id="other.x", accepts=(Accepts(format="toy"),), gives=gives, convert=step, cost=0.1, process="x",
                 keeps_dynamic=True, honours=("constants", "states"))]
"""


@pytest.mark.parametrize(
    ("bound", "asked", "words"),
    [
        (
            "IoBinding(direction='output', source='bent', target='')",
            (),
            "other.x declares the output bent dropped; it was to be kept",
        ),
        (
            "IoBinding(direction='input', source='right', target='right')",
            ("--constant", "right=7"),
            "right should have left the inputs; the result of other.x has it",
        ),
    ],
    ids=["dropped", "passed_over"],
)
def test_what_leaves_the_signature_is_what_was_asked_to(
    hub: Hub, install: Install, twin: Path, bound: str, asked: tuple[str, ...], words: str
) -> None:
    install("dropping", f"dropping_{len(asked)}", HEAD + DROPPING.format(bindings=bound, cut=not asked))
    ran = convert(hub, twin, "toybin", *asked)
    assert [attempt["message"] for attempt in ran.json["failed_attempts"]] == [words]
    assert "bent" in {row["output"] for row in ran.json["parity"]["outputs"]}


def gone(side: Literal["input", "output"], name: str, **more: Any) -> IoBinding:
    return IoBinding(direction=side, source=name, target=more.pop("target", ""), **more)


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ((gone("input", "other"),), "e declares the input other dropped; it was to be kept"),
        ((gone("input", "other", constant=7),), "e declares the input other frozen to 7; it was to be kept"),
        ((gone("input", "c", constant=3),), "e declares the input c frozen to 3; it was to be frozen to 7"),
        ((gone("input", "c"),), "e declares the input c dropped; it was to be frozen to 7"),
        ((gone("input", "c", target="c", constant=7),), "e declares the input c frozen to 7; it was to be kept"),
        ((gone("input", "s", state="y"),), "e declares the input s fed from y inside; it was to be fed from t inside"),
        ((gone("output", "t"),), "e declares the output t dropped; it was to be kept"),
        ((gone("input", "s", state="t"), gone("output", "y")), "e declares the output y dropped; it was to be kept"),
    ],
)
def test_a_declared_fate_is_held_against_the_request(bindings: tuple[IoBinding, ...], words: str) -> None:
    options = ConvertOptions(constants={"c": 7}, states={"s": "t"})
    check_bindings("e", (gone("input", "c", constant=7), gone("input", "s", state="t"), gone("output", "t")), options)
    with pytest.raises(EffectError, match=f"^{words}$"):
        check_bindings("e", bindings, options)


def test_a_result_that_is_frozen_to_another_value_is_measured(hub: Hub, twin: Path) -> None:
    assert convert(hub, twin, "toybin", "--constant", "right=7").status == 0
    words = ("verify", twin, twin.with_name("out.toybin"), "--json")
    assert hub(*words).status == 0
    assert hub(*words, "--constant", "right=5").status == 6


def test_a_receipt_that_drops_an_output_proves_nothing(hub: Hub, twin: Path) -> None:
    assert convert(hub, twin, "toybin").status == 0
    receipt = twin.with_name("out.toybin.hub.json")
    written = json.loads(receipt.read_text())
    written["steps"][0]["bindings"] = [{"direction": "output", "source": "bent", "target": ""}]
    receipt.write_text(json.dumps(written))
    ran = hub("verify", twin, twin.with_name("out.toybin"), "--json")
    assert ran.error["code"] == "step-effect"
    assert "output bent dropped; it was to be kept" in ran.error["message"]


def test_a_recipe_for_what_is_not_in_the_file_is_refused(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("false-recipe", alone=True)
    ran = convert(hub, toy, "toybin")
    assert ran.error["code"] == "step-effect"
    assert "the recipe of faulty.false-recipe is for int8; the file holds fp32" in ran.error["message"]


def test_what_is_narrower_than_its_source_is_lossy_whatever_the_edge_says(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("read-as", alone=True)
    ran = convert(hub, toy, "toybin", "--fp16")
    assert [step["lossy"] for step in ran.json["steps"]] == [True]


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_nobody_takes_over_a_name_by_being_installed(hub: Hub, install: Install, toy: Path, name: str) -> None:
    offered = (
        "class F(hub_toy.formats.ToyFormat):\n    pass\n\nclass R(hub_toy.runtime.ToyRuntime):\n    pass\n\n"
        "R.name = 'runs'\n@hookimpl\ndef hub_register_formats():\n    return [F()]\n"
        "@hookimpl\ndef hub_register_runtimes():\n    return [R()]\n"
    )
    install(name, f"{name}_plugin", HEAD + offered)
    broken = {plugin["name"]: plugin["error"] for plugin in hub("plugins", "--json").json["plugins"]}
    assert not broken["toy"]
    assert "toy is offered more than once, by " in broken[name]
    assert "it is toy's" in broken[name]
    assert convert(hub, toy, "toybin").json["parity"]["reference_runtime"] == "numpy"
    install("second", "second_plugin", HEAD + offered.replace("class F", "class G").replace("[F()]", "[]"))
    install("third", "third_plugin", HEAD + offered.replace("[F()]", "[]"))
    broken = {plugin["name"]: plugin["error"] for plugin in hub("plugins", "--json").json["plugins"]}
    assert "runs is offered more than once, by second and third, and is named after neither" in broken["second"]
    assert broken["second"].splitlines()[-1] == broken["third"].splitlines()[-1]


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_nobody_takes_over_a_plugin_by_giving_its_name(hub: Hub, install: Install, toy: Path, name: str) -> None:
    info = install(name, f"{name}_namesake", HEAD)
    (info / "entry_points.txt").write_text(f"[hub.v1]\ntoy = {name}_namesake\n")
    told = {plugin["distribution"]: plugin["error"] for plugin in hub("plugins", "--json").json["plugins"]}
    assert not told["hub-toy"]
    rivals = " and ".join(sorted((name, "hub-toy")))
    assert told[name].strip().endswith(f"{rivals} each bring a plugin named toy, it is hub-toy's")
    assert convert(hub, toy, "toybin").status == 0
    for other in ("b", "c"):
        info = install(other, f"{other}_namesake", HEAD)
        (info / "entry_points.txt").write_text(f"[hub.v1]\nshared = {other}_namesake\n")
    told = {plugin["distribution"]: plugin["error"] for plugin in hub("plugins", "--json").json["plugins"]}
    assert "b and c each bring a plugin named shared, and is named after neither" in told["b"]
    assert told["b"] == told["c"]


@pytest.mark.parametrize("name", ["a.x", "z.x"])
def test_who_is_out_hangs_on_no_order_of_names(hub: Hub, install: Install, name: str) -> None:
    """An edge that is named after nobody is offered by a sound plugin, and by an impostor who offers toy's too."""
    edges = (
        "def E(name):\n    gives = Gives(format='toybin')\n"
        "    return Edge(id=name, accepts=(Accepts(format='toy'),), gives=gives, convert=print)\n\n@hookimpl\n"
        "def hub_register_edges():\n    return [E(name) for name in {names}]\n"
    )
    install("impostor", f"impostor_{name[0]}", HEAD + edges.format(names=(name, "toy.bin")))
    install("sound", f"sound_{name[0]}", HEAD + edges.format(names=(name,)))
    broken = {plugin["name"]: plugin["error"] for plugin in hub("plugins", "--json").json["plugins"]}
    assert "toy.bin is offered more than once, by impostor and toy, it is toy's" in broken["impostor"]
    assert not broken["sound"]
    assert not broken["toy"]


def test_the_author_of_a_broken_plugin_is_sent_to_it_and_its_user_to_the_next_version(
    hub: Hub, install: Install
) -> None:
    info = install("mine", "mine_plugin", "raise ImportError('libfoo.so.7')\n")
    mends = {item["what"]: item["mend"] for item in hub("doctor", "--json").json["problems"]}
    assert "pip install -U mine, or pip uninstall mine" in mends.values()
    (info / "direct_url.json").write_text('{"url": "file:///src/hub-mine", "dir_info": {"editable": true}}')
    mends = {item["what"]: item["mend"] for item in hub("doctor", "--json").json["problems"]}
    assert "mend it in /src/hub-mine: hub plugins -v shows the traceback" in mends.values()


WRONG = {
    "edge-lossy-in-secret": (
        (
            "def E():\n    gives = Gives(format='toybin', numerics=Numerics.INT8)\n"
            "    return Edge(id='other.x', accepts=(Accepts(format='toy'),), gives=gives, convert=print)\n"
        ),
        "edges",
        "E",
        "the edge 'other.x': it makes int8 of fp32 and is not lossy",
    ),
    "edge-with-text-for-states": (
        "def E():\n    return Edge(id='other.x', accepts='toy', gives=Gives(format='toybin'), convert=print)\n",
        "edges",
        "E",
        "the edge 'other.x': accepts is 'toy', not a tuple",
    ),
    "edge-with-text-for-numerics": (
        (
            "def E():\n    gives = Gives(format='toybin', numerics='fp32')\n"
            "    return Edge(id='other.x', accepts=(Accepts(format='toy'),), gives=gives, convert=print)\n"
        ),
        "edges",
        "E",
        "the edge 'other.x': gives.numerics is 'fp32', not a Numerics",
    ),
    "edge-without-a-step": (
        (
            "def E():\n    gives = Gives(format='toybin')\n"
            "    return Edge(id='other.x', accepts=(Accepts(format='toy'),), gives=gives, convert='tool')\n"
        ),
        "edges",
        "E",
        "convert is 'tool', not a function",
    ),
    "format-without-process": (
        "class F(hub_toy.formats.ToyFormat):\n    name = 'other'\n    process = property()\n",
        "formats",
        "F",
        "the format 'other' has no `process`",
    ),
    "suffixes-as-text": (
        "class F(hub_toy.formats.ToyFormat):\n    name = 'other'\n    suffixes = '.other'\n",
        "formats",
        "F",
        "suffixes is '.other', not a tuple",
    ),
    "formats-as-text": (
        "class R(hub_toy.runtime.ToyRuntime):\n    name = 'other'\n    formats = 'toy'\n",
        "runtimes",
        "R",
        "the runtime 'other': formats is 'toy', not a tuple",
    ),
    "runtime-that-is-not-derived": (
        "class R:\n    name, formats, variants, process = 'other', ('toy',), ('',), ''\n    open = print\n",
        "runtimes",
        "R",
        "the runtime 'other' is not derived from hub.spec.Runtime",
    ),
    "runtime-that-does-not-open": (
        "class R(Runtime):\n    name, formats = 'other', ('toy',)\n",
        "runtimes",
        "R",
        "Can't instantiate abstract class R with abstract method open",
    ),
    "class-for-an-instance": (
        "class R(hub_toy.runtime.ToyRuntime):\n    name = 'other'\ndef S():\n    return R\n",
        "runtimes",
        "S",
        "R is offered as a class",
    ),
    "runtime-that-a-worker-cannot-make": (
        (
            "class R(hub_toy.runtime.ToyRuntime):\n    name = 'other'\n    def __init__(self, device='cpu'):\n"
            "        super().__init__()\n\nclass Q(R):\n    def __init__(self, device):\n        super().__init__()\n"
            "def S():\n    return Q('cpu')\n"
        ),
        "runtimes",
        "S",
        "the runtime 'other': a worker cannot make one, Q needs device",
    ),
    "requirement-that-is-none": (
        (
            "def E():\n    gives = Gives(format='toybin')\n"
            "    return Edge(id='other.x', accepts=(Accepts(format='toy'),), gives=gives, convert=print,\n"
            "        requires=('a>>1',))\n"
        ),
        "edges",
        "E",
        "the edge 'other.x': requires has 'a>>1', which is no requirement",
    ),
    "runtime-without-variants": (
        "class R(hub_toy.runtime.ToyRuntime):\n    name = 'other'\n    variants = ()\n",
        "runtimes",
        "R",
        "variants is empty",
    ),
}

UNSETTABLE = {
    "{'A=B': 'x'}": "environment has 'A=B': 'x', which no process can be given",
    r"{'A': 'x\0y'}": r"environment has 'A': 'x\x00y', which no process can be given",
    r"{'A': '\udcff'}": r"environment has 'A': '\udcff', which no process can be given",
    "{'A': 5}": "environment is 5, not a str",
}
for number, (environment, words) in enumerate(UNSETTABLE.items()):
    body = WRONG["requirement-that-is-none"][0].replace("requires=('a>>1',)", f"environment={environment}")
    WRONG[f"environment-{number}"] = body, "edges", "E", words


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_object_breaks_its_plugin_and_nothing_else(hub: Hub, install: Install, toy: Path, name: str) -> None:
    body, kind, offered, words = WRONG[name]
    hook = f"{body}\n\n@hookimpl\ndef hub_register_{kind}():\n    return [{offered}()]\n"
    install(f"wrong-{name}", f"wrong_{name.replace('-', '_')}", HEAD + hook)
    listed = {plugin["name"]: plugin for plugin in hub("plugins", "--json").json["plugins"]}
    assert words in listed[f"wrong-{name}"]["error"]
    assert "broken: " in hub("plugins").out
    assert convert(hub, toy, "toybin").status == 0


def test_everything_wrong_with_a_plugin_is_told_at_once_and_what_to_write(hub: Hub, install: Install) -> None:
    body = (
        "class R(hub_toy.runtime.ToyRuntime):\n    name, formats, variants = 'other', 'toy', ()\n\n\n"
        "@hookimpl\ndef hub_register_runtimes():\n    return [R()]\n\n\n@hookimpl\ndef hub_register_edges():\n"
        "    return [Edge(id='other.x', accepts=(), gives=Gives(format='toybin'), convert='tool')]\n"
    )
    install("wrong", "wrong_throughout", HEAD + body)
    ran = hub("plugins", "--check", "wrong", "--json")
    (finding,) = ran.json["findings"]
    for wrong in (
        "the runtime 'other': formats is 'toy', not a tuple; the runtime 'other': variants is empty; ",
        "the edge 'other.x': accepts is empty; the edge 'other.x': convert is 'tool', not a function",
    ):
        assert wrong in finding["text"]
    assert "write `formats: tuple[str, ...]`: Formats it opens.; " in finding["hint"]
    assert "write `convert: Callable[[ConvertJob], StepOutput]`: The step: reads " in finding["hint"]


@pytest.mark.parametrize(
    ("body", "words"), [("raise OSError('disk full')", "OSError: disk full"), ("raise SystemExit(0)", "SystemExit: 0")]
)
def test_a_plugin_that_watches_and_fails_is_a_warning(
    hub: Hub, install: Install, toy: Path, body: str, words: str
) -> None:
    module = "watcher_os" if "OSError" in words else "watcher_exit"
    install("watcher", module, f"{HEAD}@hookimpl\ndef hub_step_finished(record):\n    {body}\n")
    ran = convert(hub, toy, "toybin")
    assert ran.status == 0, ran.err
    assert f"the plugin watcher was not told of toy.bin: {words}" in [remark["text"] for remark in ran.json["remarks"]]


def test_a_plugin_that_ends_the_process_does_not_end_hub(hub: Hub, install: Install, toy: Path) -> None:
    install("quits", "quits", f"{HEAD}@hookimpl\ndef hub_identify_format(path, header):\n    raise SystemExit(0)\n")
    ran = hub("inspect", str(toy))
    assert ran.status == 4
    assert "SystemExit" in ran.err


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"z": np.zeros((1, 6), np.float32)},
        {"x": np.zeros((1, 5), np.float32)},
        {"x": np.zeros(6, np.float32)},
        {"x": np.zeros((1, 6))},
    ],
    ids=["none", "another", "size", "rank", "type"],
)
def test_what_is_fed_is_checked_before_a_session_sees_it(cache: Path, toy: Path, feeds: Any) -> None:
    assert cache
    with python_interface.open_session(str(toy)) as model:
        assert model.run({"x": np.zeros((3, 6), np.float32)})["y"].shape == (3, 3)
        with pytest.raises(UsageError) as caught:
            model.run(feeds)
        assert "x: float32[batchx6]" in caught.value.hint


def test_what_a_step_returns_is_held_against_the_contract(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("returns-none", alone=True)
    ran = convert(hub, toy, "toybin")
    assert ran.status == 5
    assert "edge faulty.returns-none returned NoneType, not hub.spec.StepOutput" in ran.error["message"]


@pytest.mark.parametrize(
    ("note", "wrong"),
    [
        ("'raised the opset'", "Expected `object`, got `str` - at `notes[0]`"),
        (
            "Remark('note', 'Opset raised', '')",
            "Expected `str` matching regex '^[a-z0-9]+(-[a-z0-9]+)*$' - at `notes[0].code`",
        ),
    ],
)
def test_a_step_whose_remarks_are_none_is_told_so(hub: Hub, install: Install, toy: Path, note: str, wrong: str) -> None:
    body = DROPPING.replace("bindings=({bindings},)", f"notes=({note},)").format(cut=False)
    install("strings", f"gives_strings_{len(note)}", "from hub.spec import Remark\n" + HEAD + body)
    ran = convert(hub, toy, "toybin")
    assert ran.status == 0
    (attempt,) = ran.json["failed_attempts"]
    assert "edge other.x returned a StepOutput whose notes is not as hub.spec has it" in attempt["message"]
    assert attempt["message"].endswith(wrong)


def test_a_check_that_gives_no_verdict_leaves_its_edge_out_and_says_so(hub: Hub, faults: Faults, toy: Path) -> None:
    faults("says-true")
    ran = hub("plan", toy, "--to", "toybin", "--json")
    assert ran.status == 0
    assert "its check returned bool, not hub.spec.Verdict" in ran.json["left_out"]["faulty.says-true"]["text"]
    assert convert(hub, toy, "toybin").status == 0


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ("reason=5", "reason is not as hub.spec has it: Expected `str`, got `int`"),
        ("code='No Code'", "code is not as hub.spec has it: Expected `str` matching regex '^[a-z0-9]+(-[a-z0-9]+)*$'"),
    ],
)
def test_a_verdict_that_is_none_leaves_its_edge_out_and_says_so(
    hub: Hub, install: Install, toy: Path, fields: str, wrong: str
) -> None:
    check = f"check=lambda summary, options: Verdict(support=Support.NEVER, {fields}),\n                 keeps_dynamic"
    body = DROPPING.replace("keeps_dynamic", check).format(bindings="", cut=False).replace("bindings=(,)", "")
    install("wordless", f"wordless_{len(fields)}", HEAD + body)
    ran = hub("plan", toy, "--to", "toybin", "--json")
    assert ran.status == 0
    assert ran.json["left_out"]["other.x"]["text"] == f"its check returned a Verdict whose {wrong}"


@pytest.mark.parametrize("given", ["'toy'", "Identification(format=5)"])
def test_a_plugin_that_recognises_a_file_as_nothing_known_is_named(
    hub: Hub, install: Install, toy: Path, given: str
) -> None:
    body = f"@hookimpl\ndef hub_identify_format(path, header):\n    return {given}\n"
    install("babbles", f"babbles_{len(given)}", HEAD + body)
    ran = hub("inspect", toy, "--json")
    assert ran.error["code"] == "plugin-broken"
    assert "the plugin babbles failed in hub_identify_format: it returned " in ran.error["message"]


@pytest.mark.parametrize("given", [None, [1.0], {0: np.ones(1)}, {"y": 1.0}])
def test_a_session_that_gives_no_arrays_is_named(given: Any) -> None:
    artifact = ModelArtifact(
        path="", state=State(format="toy"), signature=Signature(inputs=(), outputs=()), sha256="", size_bytes=0
    )
    task = RunTask(plugin="", artifact=artifact, options=RuntimeOptions(), samples="", outputs="")
    with pytest.raises(StepError, match="a session of odd returned"):
        _run_one(lambda _: given, task, "odd", 0, {})
