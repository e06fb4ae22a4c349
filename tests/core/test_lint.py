"""`hub plugins --check`: what an author got wrong that loads all the same, each planted once; ours have none of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub._lint import lint
from hub._plugins import Registry

Hub = Callable[..., Any]
Install = Callable[..., Path]
HEAD = """
from hub.spec import *
import hub_toy.formats, hub_toy.runtime


class F(hub_toy.formats.ToyFormat):
    name, suffixes, process = "other", (".other",), "other"


class R(hub_toy.runtime.ToyRuntime):
    name, formats, targets, requires = "others", ("other",), {}, ()


FORMATS, RUNTIMES = [F()], [R()]
FROM, TO = (Accepts(format="toybin"),), Gives(format="other")


def edge(**fields):
    return Edge(**{"id": "other.x", "accepts": FROM, "gives": TO, "convert": print} | fields)


EDGES = [edge()]


@hookimpl
def hub_register_formats():
    return FORMATS


@hookimpl
def hub_register_edges():
    return EDGES


@hookimpl
def hub_register_runtimes():
    return RUNTIMES


@hookimpl
def hub_identify_format(path, header):
    return None


"""
NEEDS = "Requires-Dist: hub-convert\nRequires-Dist: numpy\nRequires-Dist: Pygments\n"
FAULTS = {
    "unmarked": (
        "def hub_step_finished(record):\n    pass\n",
        "unmarked-hook",
        "hub_step_finished is not marked",
        "put @hub.spec.hookimpl above it",
    ),
    "unmarked-misspelt": (
        "def register_edge():\n    return []\n",
        "unmarked-hook",
        "register_edge is not marked",
        "name it hub_register_edges and",
    ),
    "accepts-misspelt": (
        "EDGES[:] = [edge(accepts=(Accepts(format='toybim'),))]\n",
        "unknown-format",
        "accepts toybim, which no installed plugin reads",
        "did you mean toybin",
    ),
    "gives-misspelt": (
        "EDGES[:] = [edge(gives=Gives(format='ohter'))]\n",
        "unknown-format",
        "gives ohter",
        "did you mean other",
    ),
    "form-misspelt": (
        """
EDGES += [edge(id="other.prepare", gives=Gives(format="other", form="prepared")), *(
    edge(id=f"other.{form}", accepts=(Accepts(format="other", form=form),), gives=Gives(format="toybin"))
    for form in ("prepared", "perpared")
)]
""",
        "unknown-form",
        "accepts other+perpared: no other edge gives it",
        "did you mean prepared",
    ),
    "form-that-leads-nowhere": (
        "EDGES[:] = [edge(gives=Gives(format='other', form='packed'))]\n",
        "unknown-form",
        "gives other+packed: no edge starts from it and no target means it",
        "known: ",
    ),
    "numerics-that-no-reader-tells": (
        "EDGES[:] = [edge(gives=Gives(format='other', numerics=Numerics.INT8), lossy=True)]\n",
        "unknown-numerics",
        "gives other in int8, which its reader never tells",
        "add it to its numerics",
    ),
    "source-that-no-reader-tells": (
        "EDGES[:] = [edge(accepts=(Accepts(format='toy', numerics=(Numerics.FP16,)),), lossy=True)]\n",
        "unknown-numerics",
        "accepts toy in fp16",
        "the reader tells fp32",
    ),
    "from-a-state-to-itself": (
        "EDGES[:] = [edge(accepts=(Accepts(format='other'),))]\n",
        "no-step",
        "other.x leads nowhere",
        "give another format, form or numerics",
    ),
    "former-of-today": (
        "EDGES[:] = [edge(formerly=('toy.bin',))]\n",
        "former-is-there",
        "other.x was formerly toy.bin, which is an edge of today",
        "take toy.bin out of formerly",
    ),
    "check-that-raises": (
        "EDGES[:] = [edge(check=lambda summary, options: summary.signature.inputs[0] and YES)]\n",
        "check",
        "asked about a model with no inputs, failed with IndexError",
        "it answers every model",
    ),
    "check-without-a-reason": (
        "EDGES[:] = [edge(check=lambda summary, options: Verdict(support=Support.NEVER))]\n",
        "check",
        "asked about a model with no inputs, refuses it without a reason",
        "a Verdict with a reason",
    ),
    "undeclared": (
        "EDGES[:] = [edge(requires=('onnx>=1.17',))]\n",
        "undeclared",
        "other.x requires onnx>=1.17, which other does not declare",
        "add onnx>=1.17 to its dependencies",
    ),
    "toolchain": (
        "EDGES[:] = [edge(toolchain=Toolchain(name='old', requires=('old==1', 'numpy==2.0.0')))]\n",
        "toolchain",
        "the toolchain of other.x lacks msgspec, pluggy",
        "Toolchain.requires",
    ),
    "no-runtime": ("RUNTIMES.clear()\n", "no-runtime", "nobody runs other", "offer a Runtime with 'other'"),
    "runtime-misspelt": (
        "R.formats = ('other', 'toyben')\n",
        "unknown-format",
        "the runtime others opens toyben",
        "did you mean toybin",
    ),
    "target-that-nobody-writes": (
        "R.targets = {'.other': ('other', 'lite')}\n",
        "unwritten-target",
        "--to others with .other means other+lite",
        "offer an edge that gives it",
    ),
    "suffix-of-another": ("F.suffixes = ('.toy',)\n", "shared-suffix", "other and toy both end in .toy", "of its own"),
    "not-identified": (
        "del hub_identify_format\n",
        "not-identified",
        "nobody recognises files in other",
        "first bytes",
    ),
    "framework-that-nobody-requires": (
        # stands in for a framework, and only where hub looks what is loaded
        "import sys, types\nif 'pytest' not in sys.modules:\n    sys.modules['cv2'] = types.ModuleType('cv2')\n",
        "heavy-import",
        "loads cv2 (",
        "inside",
    ),
    "private": (
        "def late():\n    from hub import _plugins\n",
        "private-import",
        "imports hub._plugins",
        "import hub.spec and nothing else",
    ),
    "bounds": (
        "EDGES[:] = [edge(requires=('numpy>=2.0',))]\n",
        "loose-bounds",
        "other.x requires numpy>=2.0; other also declares itself content with numpy 0",
        "declare numpy>=2.0",
    ),
    "suffix": ("F.suffixes = ('other',)\n", "suffix-without-dot", "other has the suffix 'other'", "write '.other'"),
    "greedy-by-name": (
        (
            "@hookimpl\ndef hub_identify_format(path, header):\n"
            "    return Identification(format='other') if path.suffix == '.other' else None\n"
        ),
        "identify",
        "takes random bytes, named probe.other, for other",
        "never at the name alone",
    ),
    "greedy-by-bytes": (
        (
            "@hookimpl\ndef hub_identify_format(header):\n"
            "    return Identification(format='other') if header[4:8] == b'TFL3' else None\n"
        ),
        "identify",
        "takes a TFLite model, named probe.other, for other",
        "look at the bytes",
    ),
    "identify-raises": (
        "@hookimpl\ndef hub_identify_format(header):\n    header.decode()\n",
        "identify",
        "shown random bytes, failed with UnicodeDecodeError",
        "return None",
    ),
    "heavy": (
        "import pygments\nEDGES[:] = [edge(requires=('pygments',))]\n",
        "heavy-import",
        "loads pygments",
        "inside",
    ),
}
EXPECTED = {
    "dead-edge": ('edge = "other.y"', "dead-expectation", "for other.y, which is no edge", "did you mean other.x"),
    "dead-numerics": ('edge = "other.x"\nnumerics = ["int8"]', "dead-expectation", "never starts from", "the source's"),
    "dead-version": (
        'edge = "other.x"\nversions = "no-such<2"',
        "dead-expectation",
        "does not require",
        "requires nothing",
    ),
    "expired": ('edge = "other.x"\nexpires = "2020-01-01"', "expired", "expired on 2020-01-01", "measure it again"),
}


def told(hub: Hub) -> tuple[int, list[dict[str, str]]]:
    ran = hub("plugins", "--check", "other", "--json")
    return ran.status, ran.json["findings"]


def test_a_plugin_with_nothing_wrong_is_told_so(hub: Hub, install: Install) -> None:
    install("other", "other_sound", HEAD, needs=NEEDS)
    assert told(hub) == (0, [])
    assert "nothing to mend" in hub("plugins", "--check", "other").out


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_a_fault_is_told_with_one_thing_to_do(hub: Hub, install: Install, name: str) -> None:
    body, code, message, hint = FAULTS[name]
    install("other", f"other_{name.replace('-', '_')}", HEAD + body, needs=NEEDS)
    status, findings = told(hub)
    assert status == 4
    (found,) = [item for item in findings if item["code"] == code]
    assert message in found["text"]
    assert hint in found["hint"]
    if code != "no-runtime":  # without a runtime, nothing that needs one is right either
        assert {item["code"] for item in findings} == {code}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_expectation_that_never_applies_is_told(hub: Hub, install: Install, tmp_path: Path, name: str) -> None:
    fields, code, message, hint = EXPECTED[name]
    package = tmp_path / "site" / f"other_{name.replace('-', '_')}"
    package.mkdir()
    (package / "__init__.py").write_text(HEAD)
    (package / "expectations.toml").write_text(f'[[expectation]]\n{fields}\nkind = "never"\nreason = "measured"\n')
    install("other", package.name, needs=NEEDS)
    status, (found,) = told(hub)
    assert (status, found["code"]) == (4, code)
    assert message in found["text"]
    assert hint in found["hint"]


def test_a_plugin_that_does_not_load_or_is_not_there_is_told(hub: Hub, install: Install) -> None:
    install("other", "other_broken", "raise ImportError('libfoo.so.7')\n", needs=NEEDS)
    status, (found,) = told(hub)
    assert (status, found["code"]) == (4, "broken")
    assert "ImportError: libfoo.so.7" in found["text"]
    assert hub("plugins", "--check", "ohter", "--json").error["hint"] == "did you mean other?"


def test_a_hook_that_is_misspelt_is_told_with_the_one_that_was_meant(hub: Hub, install: Install) -> None:
    body = HEAD.replace("hub_register_runtimes", "hub_register_runtime")
    install("other", "other_misspelt", body, needs=NEEDS)
    status, (found,) = told(hub)
    assert (status, found["code"]) == (4, "broken")
    assert "there is no hook hub_register_runtime" in found["text"]
    assert "did you mean hub_register_runtimes" in found["hint"]


def test_a_plugin_without_hooks_or_a_hub_is_told(hub: Hub, install: Install) -> None:
    install("other", "other_empty", "# nothing\n")
    assert {item["code"] for item in told(hub)[1]} == {"no-hook", "no-hub"}


@pytest.mark.parametrize("plugin", [item.name for item in Registry().plugins])
def test_ours_have_nothing_to_mend(plugin: str) -> None:
    assert lint(Registry(), plugin) == []
