"""Plugins that are broken in every way: kept, shown, and no harm to the others."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub._plugins import Plugin, Registry

Hub = Callable[..., Any]
Install = Callable[..., Path]
HEAD = "from hub.spec import hookimpl\n\n\n@hookimpl\ndef "
BROKEN = {
    "raises-at-import": ("raise ImportError('libfoo.so.7: cannot open shared object file')\n", "libfoo.so.7"),
    "lacks-a-module": ("import nothing_of_this_name\n", "nothing_of_this_name"),
    "exits-at-import": ("raise SystemExit(3)\n", "SystemExit"),
    "is-no-python": ("def (:\n", "SyntaxError"),
    "misspelt-hook": (f"{HEAD}hub_register_edgs():\n    return []\n", "hub_register_edgs"),
    "wrong-argument": (f"{HEAD}hub_identify_format(file):\n    return None\n", "file"),
    "raises-in-hook": (
        f"{HEAD}hub_register_formats():\n    raise LookupError('no formats today')\n",
        "no formats today",
    ),
    "second-of-an-edge": (
        f"from hub_toy.edges import EDGES\n{HEAD}hub_register_edges():\n    return list(EDGES)\n",
        "is offered more than once, by ",
    ),
    "second-of-a-format": (
        f"from hub_toy.formats import ToyFormat\n{HEAD}hub_register_formats():\n    return [ToyFormat()]\n",
        "toy is offered more than once, by ",
    ),
}


@pytest.fixture(params=sorted(BROKEN))
def broken(request: pytest.FixtureRequest, install: Install) -> tuple[str, str]:
    """A broken plugin, and words of its traceback."""
    source, words = BROKEN[request.param]
    install(f"z-{request.param}", f"broken_{request.param.replace('-', '_')}", source)
    return f"z-{request.param}", words


def test_a_broken_plugin_is_listed_with_its_traceback(hub: Hub, broken: tuple[str, str]) -> None:
    name, words = broken
    ran = hub("plugins", "--json")
    assert ran.status == 0
    by_name = {plugin["name"]: plugin for plugin in ran.json["plugins"]}
    assert by_name[name]["mend"].startswith(f"pip install -U {name}, or pip uninstall {name}")
    assert words in by_name[name]["error"]
    assert by_name[name]["distribution"] == name
    assert not by_name["toy"].get("error")
    assert "toy.bin" in {edge["id"] for edge in ran.json["edges"]}


def test_a_broken_plugin_stops_neither_help_nor_doctor(hub: Hub, broken: tuple[str, str]) -> None:
    name, words = broken
    assert "convert" in hub("--help").out
    ran = hub("doctor")
    assert ran.status == 4
    assert f"{name} does not load" in ran.out
    assert words.split(":")[0] in hub("plugins", "-v").out


def test_a_broken_plugin_stops_no_conversion_that_does_not_need_it(
    hub: Hub, install: Install, toy: Path, tmp_path: Path
) -> None:
    for name, (source, _) in BROKEN.items():
        install(f"z-{name}", f"broken_{name.replace('-', '_')}", source)
    ran = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json")
    assert ran.status == 0, ran.out


def test_broken_is_told_from_not_installed(hub: Hub, install: Install, toy: Path, tmp_path: Path) -> None:
    words = ("convert", toy, "--to", "nowhere", "-o", tmp_path / "out", "--json")
    assert hub(*words).error["code"] == "unknown-name"
    install("nowhere", "broken_nowhere", BROKEN["raises-at-import"][0])
    error = hub(*words).error
    assert (error["code"], error["exit_status"]) == ("plugin-broken", 4)
    assert "nowhere: ImportError: libfoo.so.7" in error["message"]
    assert "hub plugins -v" in error["hint"]


def test_a_file_that_a_broken_plugin_might_read_is_not_called_unreadable(
    hub: Hub, install: Install, tmp_path: Path
) -> None:
    file = tmp_path / "model.foo"
    file.write_text("foo model")
    assert hub("inspect", file, "--json").error["code"] == "model-unreadable"
    install("foo", "broken_foo", BROKEN["raises-at-import"][0])
    assert hub("inspect", file, "--json").error["code"] == "plugin-broken"


def test_a_format_that_nobody_runs_is_a_missing_dependency(
    hub: Hub, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hub_toy.runtime

    monkeypatch.setattr(hub_toy.runtime.ToyRuntime, "formats", ("toybin",))
    error = hub("convert", toy, "--to", "toybin", "-o", tmp_path / "out.toybin", "--json").error
    assert (error["code"], error["exit_status"]) == ("dependency-missing", 4)
    assert "toy" in error["message"]


def test_an_edge_whose_library_is_missing_is_left_out_with_the_command_that_mends_it(
    hub: Hub, toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec

    import hub_toy.edges

    first, *rest = hub_toy.edges.EDGES
    costly = msgspec.structs.replace(first, requires=("no-such-library>=2",))
    monkeypatch.setattr(hub_toy.edges, "EDGES", (costly, *rest))
    error = hub("plan", toy, "--to", "toybin", "--json").error
    assert (error["code"], error["exit_status"]) == ("no-route", 3)
    assert "not installed: no-such-library>=2" in error["message"]
    assert error["hint"] == "pip install 'no-such-library>=2'"
    assert "pip install 'no-such-library>=2'" in hub("doctor").out


def test_a_hook_of_two_plugins_may_not_claim_one_file(hub: Hub, install: Install, toy: Path) -> None:
    source = f"{HEAD}hub_identify_format(header):\n    return Identification(format='other')\n"
    install("greedy", "broken_greedy", source.replace("import hookimpl", "import Identification, hookimpl"))
    error = hub("inspect", toy, "--json").error
    assert error["code"] == "model-unreadable"
    assert "claimed as other, toy" in error["message"]


def test_a_hook_that_raises_while_identifying_names_its_plugin(hub: Hub, install: Install, toy: Path) -> None:
    install("nervous", "broken_nervous", f"{HEAD}hub_identify_format(header):\n    raise LookupError('no idea')\n")
    error = hub("inspect", toy, "--json").error
    assert (error["code"], error["exit_status"]) == ("plugin-broken", 4)
    assert "LookupError: no idea" in error["message"]
    assert "nervous" in error["message"]


def test_a_plugin_command_is_part_of_the_command_line(hub: Hub, install: Install) -> None:
    source = 'import click\n\n\n@click.command("greet")\ndef greet():\n    """Say hello."""\n    click.echo("hello")\n'
    info = install("greeter", "plugin_greeter", source)
    (info / "entry_points.txt").write_text("[hub.commands.v1]\ngreet = plugin_greeter:greet\n")
    shown = hub("--help").out
    assert re.search(r"greet\s+From greeter\.", shown)
    assert "plugin_greeter" not in sys.modules
    assert "Say hello." in hub("greet", "--help").out
    assert hub("greet").out == "hello\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [("raise LookupError('no voice')\n", "LookupError: no voice"), ("greet = 1\n", "no click command")],
)
def test_a_command_that_does_not_load_names_its_plugin(hub: Hub, install: Install, source: str, words: str) -> None:
    module = f"plugin_greeter_{len(words)}"
    info = install("greeter", module, source)
    (info / "entry_points.txt").write_text(f"[hub.commands.v1]\ngreet = {module}:greet\n")
    assert hub("--help").status == 0
    error = hub("greet", "--json").error
    assert (error["code"], error["exit_status"]) == ("plugin-broken", 4)
    assert words in error["message"]


def test_a_plugin_is_told_of_every_finished_step(hub: Hub, install: Install, toy: Path, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    body = f"    with open({str(book)!r}, 'a') as file:\n        file.write(record.edge + ' ')\n"
    install("scribe", "plugin_scribe", f"{HEAD}hub_step_finished(record):\n{body}")
    assert hub("convert", toy, "--to", "toybin", "--fp16", "-o", tmp_path / "out.toybin").status == 0
    assert book.read_text() == "toy.bin toy.fp16 "


ALONE = """
import importlib, sys
allowed = {"hub", "msgspec", "numpy", "pluggy", *sys.stdlib_module_names}

class Nothing:
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package not in allowed and not package.startswith(("hub_", "_")):
            raise ModuleNotFoundError(f"{name} is a framework")

sys.meta_path.insert(0, Nothing())
plugin = importlib.import_module(sys.argv[1])
print(len(plugin.hub_register_edges()))
"""


@pytest.mark.parametrize("plugin", [item for item in Registry().plugins if not item.error], ids=lambda item: item.name)
def test_a_worker_finds_every_edge_without_a_framework(plugin: Plugin) -> None:
    """As it must in a toolchain's environment, which holds one tool and what hub's worker needs."""
    done = subprocess.run([sys.executable, "-c", ALONE, plugin.module], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 4


@pytest.mark.parametrize(
    ("group", "needs", "says", "hint"),
    [
        ("hub.v0", "", "written for the contract hub.v0", "pip install -U other"),
        ("hub.v2", "", "written for the contract hub.v2", "pip install -U hub-convert"),
        ("hub.v1", "Requires-Dist: hub-convert>=99\n", "other 1.0 needs hub-convert>=99", "pip install"),
    ],
)
def test_a_plugin_for_another_contract_is_not_imported_and_says_why(
    hub: Hub, install: Install, group: str, needs: str, says: str, hint: str
) -> None:
    install("other", "other_plugin", "raise SystemExit('imported')\n", group=group, needs=needs)
    (plugin,) = [item for item in Registry().plugins if item.name == "other"]
    assert says in plugin.error
    assert "SystemExit" not in plugin.error
    shown = hub("plugins", "-v")
    assert shown.status == 0
    assert hint in " ".join((shown.out + shown.err).split())


def test_a_plugin_for_two_contracts_is_taken_by_this_one(install: Install) -> None:
    source = "import hub_toy\n"
    info = install("other", "other_plugin", source, needs="Requires-Dist: hub-convert>=0.1\n")
    points = info / "entry_points.txt"
    points.write_text(points.read_text() + "\n[hub.v2]\nother = no_such_module\n")
    (plugin,) = [item for item in Registry().plugins if item.name == "other"]
    assert not plugin.error
