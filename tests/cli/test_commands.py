"""Every command, in words and in JSON."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Hub = Callable[..., Any]
HUB = Path(sys.executable).with_name("hub")
HEAVY = [
    "numpy",
    "PIL",
    "torch",
    "tensorflow",
    "keras",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
    "litert_torch",
    "h5py",
]


@pytest.fixture
def converted(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> Path:
    """An int8 model with its receipt."""
    output = tmp_path / "out.toybin"
    assert hub("convert", toy, "--to", "toybin", "--int8", "--calibration", samples, "-o", output).status == 0
    return output


def test_convert_says_what_was_done(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.toybin"
    ran = hub("convert", toy, "--to", "toybin", "--int8", "--calibration", samples, "-o", output)
    assert ran.status == 0
    verdict, *rest = ran.out.splitlines()
    figures = r"[\d.]+ dB(?: and top-1 [\d.]+%)? on \d+ held-out samples, .*[\d.]+x smaller.*"
    assert re.fullmatch(f"✓ verified {output}: int8 toybin, {figures}", verdict)
    assert "step  " not in ran.out
    assert "-v, or out.toybin.hub.json" in rest[-1]
    assert "✓ binary → toybin/fp32" in ran.err


def test_what_needs_attention_comes_next_and_the_figures_only_when_asked(
    hub: Hub, toy: Path, samples: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.toybin"
    ran = hub("convert", toy, "--to", "toybin", "--int8", "--calibration", samples, "-o", output, "-v")
    kinds = [line.partition(" ")[0] for line in ran.out.splitlines()[1:]]
    told = [kind for kind in kinds if kind in {"warning", "changed", "note", "inputs"}]
    assert {"note", "inputs"} <= {*told}
    assert told == sorted(told, key=["warning", "changed", "note", "inputs"].index)
    for words in ("static int8", "toybin/int8", "held-out inputs", "peak memory", "32 samples"):
        assert words in ran.out, words


def test_quiet_says_nothing(hub: Hub, toy: Path, tmp_path: Path) -> None:
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "-q")
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_quiet_still_tells_errors(hub: Hub, tmp_path: Path) -> None:
    ran = hub("convert", tmp_path / "no.toy", "--to", "toybin", "-q")
    assert ran.status == 2
    assert "model-not-found" in ran.err


def test_the_default_output_lies_in_the_current_folder(
    hub: Hub, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert hub("convert", toy, "--to", "toybin", "--fp16").status == 0
    assert {path.name for path in Path().iterdir()} == {"model.fp16.toybin", "model.fp16.toybin.hub.json"}


def test_folders_of_the_output_are_made(hub: Hub, toy: Path, tmp_path: Path) -> None:
    assert hub("convert", toy, "--to", "toybin", "-o", tmp_path / "a" / "b" / "out.toybin").status == 0
    assert (tmp_path / "a" / "b" / "out.toybin").exists()


@pytest.mark.parametrize("word", ["plan", "convert"])
def test_a_plan_runs_nothing_and_says_what_was_left_out(
    hub: Hub, faults: Callable[..., None], toy: Path, tmp_path: Path, word: str
) -> None:
    more = ("--dry-run",) if word == "convert" else ()
    output = tmp_path / "out.toybin"
    faults("noise")
    words = (word, toy, "--to", "toybin", "--fp16", "--avoid", "faulty.noise", "-o", output, *more)
    ran = hub(*words, "--json")
    assert ran.json["source"] == "toy/fp32"
    assert ran.json["routes"] == [["toy.bin", "toy.fp16"]]
    assert ran.json["left_out"]["faulty.noise"]["text"] == "avoided on request"  # toy.int8 leads elsewhere
    plain = hub(*words).out
    assert "binary (toybin/fp32) → half precision (toybin/fp16)" in plain
    assert "edges are left out; -v says why" in plain
    assert "left out  faulty.noise: avoided on request" in hub(*words, "-v").out
    assert not output.exists()


def test_inspect(hub: Hub, toy: Path, converted: Path) -> None:
    summary = hub("inspect", toy, "--json").json["summary"]
    assert summary["operators"] == {"affine": 2, "relu": 1, "softmax": 1}
    assert summary["parameters"] == 6 * 16 + 16 + 16 * 3 + 3
    plain = hub("inspect", converted, "--layers").out
    for words in ("toybin/int8", "batchx6", "float32", "int8", "second", "softmax"):
        assert words in plain, words


def test_verify_measures_again(hub: Hub, toy: Path, samples: Path, converted: Path) -> None:
    ran = hub("verify", toy, converted, "--data", samples, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["passed"] is True
    assert ran.json["policy"]["numerics"] == "int8"
    assert ran.json["inputs"] == "given"
    assert ran.json["outputs"][0]["samples"] == 40
    assert "pass" in hub("verify", toy, converted, "--data", samples).out


def test_verify_ends_with_6_when_the_gate_does_not_hold(hub: Hub, toy: Path, samples: Path, converted: Path) -> None:
    words = ("verify", toy, converted, "--data", samples, "--precision", "fp32")
    machine, plain = hub(*words, "--json"), hub(*words)
    assert machine.status == plain.status == 6
    assert machine.json["passed"] is False
    assert "relative error" in plain.out
    assert "error[parity]" in plain.err


def test_verify_refuses_a_file_that_is_not_its_receipts(hub: Hub, toy: Path, samples: Path, converted: Path) -> None:
    other = converted.with_name("other.toybin")
    assert hub("convert", toy, "--to", "toybin", "-o", other).status == 0
    converted.write_bytes(other.read_bytes())
    ran = hub("verify", toy, converted, "--data", samples, "--json")
    assert ran.status == 2
    assert "not the file that its receipt describes" in ran.error["message"]
    Path(f"{converted}.hub.json").write_text("{")
    assert "cannot be read" in hub("verify", toy, converted, "--json").error["message"]


def test_run_saves_outputs(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "outputs.npz"
    ran = hub("run", toy, "--data", samples, "-o", output, "--json")
    assert ran.status == 0, ran.err
    assert ran.json["arrays"] == {"y": {"dtype": "float32", "shape": [40, 1, 3]}}
    with np.load(output) as arrays:
        np.testing.assert_allclose(arrays["y"].sum(axis=-1), 1, atol=1e-6)


def test_run_replaces_nothing_unasked(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    output = tmp_path / "outputs.npz"
    output.write_text("precious")
    assert hub("run", toy, "--data", samples, "-o", output, "--json").error["code"] == "output-exists"
    assert output.read_text() == "precious"
    before = toy.read_bytes()
    assert hub("run", toy, "--data", samples, "-o", toy, "--force", "--json").error["code"] == "usage"
    assert toy.read_bytes() == before
    assert hub("run", toy, "--data", samples, "-o", output, "--force").status == 0


def test_run_with_an_unknown_kernel_set(hub: Hub, toy: Path, samples: Path, tmp_path: Path) -> None:
    ran = hub("run", toy, "--data", samples, "-o", tmp_path / "o.npz", "--kernels", "fast", "--json")
    assert ran.error["code"] == "unknown-name"


def test_plugins_lists_formats_edges_and_runtimes(hub: Hub) -> None:
    found = hub("plugins", "--json").json
    assert {"toy", "toybin"} <= set(found["formats"])
    assert "numpy" in found["runtimes"]
    assert {"toy.bin", "toy.fp16", "toy.int8-dynamic", "toy.int8"} <= {edge["id"] for edge in found["edges"]}
    assert "static int8" in hub("plugins").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(hub: Hub, shell: str) -> None:
    assert "_HUB_COMPLETE" in hub("completion", shell).out


@pytest.mark.parametrize("words", [["--help"], ["convert", "--help"], ["--version"], ["completion", "bash"]])
def test_help_imports_no_plugin(words: list[str]) -> None:
    code = (
        "import sys\nfrom hub.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    imported = done.stderr.split()
    wrong = [name for name in imported if name.startswith(("hub_", "hub.spec", "hub._"))]
    assert not {"numpy", "msgspec", "pluggy", "rich", "psutil", *HEAVY} & set(imported)
    assert not wrong


def test_completion_completes() -> None:
    environment = os.environ | {"_HUB_COMPLETE": "bash_complete", "COMP_WORDS": "hub con", "COMP_CWORD": "1"}
    done = subprocess.run([HUB], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["plain,convert"]


@pytest.mark.parametrize("words", [["--help"], ["plugins"], ["convert", "--help"], ["--version"], ["doctor", "--json"]])
def test_light_commands_import_nothing_heavy(words: list[str], cache: Path) -> None:
    assert cache
    code = (
        "import sys\nfrom hub.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    heavy = set(json.loads(done.stderr.splitlines()[-1].replace("'", '"')))
    assert not heavy - {"numpy"}
    assert done.stdout


def test_the_parent_of_a_conversion_imports_no_framework(toy: Path, tmp_path: Path, cache: Path) -> None:
    assert cache
    code = (
        "import sys\nfrom hub.cli import main\n"
        f"try: main(['convert', {str(toy)!r}, '--to', 'toybin', '-o', {str(tmp_path / 'out.toybin')!r}])\n"
        f"except SystemExit as end: assert not end.code\n"
        f"print(sorted(set(sys.modules) & set({HEAVY!r})), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr.splitlines()[-1] == "['numpy']"


def test_the_python_interface_does_what_the_command_does(toy: Path, samples: Path, tmp_path: Path, cache: Path) -> None:
    import hub

    assert cache
    output = tmp_path / "out.toybin"
    receipt = hub.convert(toy, "toybin", precision="int8", calibration=samples, output=output)
    assert receipt.parity.passed
    assert receipt.result.state.numerics.value == "int8"
    assert hub.identify_file(str(output)) == "toybin"
    assert hub.verify(str(toy), str(output), data=str(samples)).passed
    outputs = hub.run(str(output), str(samples))
    assert len(outputs) == 40
    with pytest.raises(hub.HubError) as caught:
        hub.convert(toy, "toybin", output=output)
    assert caught.value.code == "output-exists"


def test_arrays_are_calibration_data_too(toy: Path, tmp_path: Path, cache: Path) -> None:
    import hub

    assert cache
    data = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    receipt = hub.convert(toy, "toybin", precision="int8", calibration={"x": data}, output=tmp_path / "a.toybin")
    assert receipt.calibration
    assert receipt.calibration.calibration_samples == 16
    with pytest.raises(hub.HubError) as caught:
        hub.convert(object(), "toybin", output=tmp_path / "b.toybin")
    assert caught.value.code == "usage"
    assert "builtins.object" in caught.value.message
