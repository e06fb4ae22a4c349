"""The rules of the code that a linter does not know."""

import ast
import re
import statistics
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from docs import figures
from docs.remarks import said_remarks
from hub.spec import RemarkKind
from hub.spec.errors import HubError, error_classes

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {
    "torch", "tensorflow", "keras", "tf_keras", "onnx", "onnxruntime", "onnxslim", "ai_edge_litert", "litert_torch",
    "ai_edge_quantizer", "openvino", "nncf", "tensorrt", "tensorrt_rtx", "tf2onnx", "onnx2tf", "onnxscript", "h5py",
    "flatbuffers", "sklearn",
}  # fmt: skip
CORE = sorted((ROOT / "hub").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("*/src/**/*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(), str(path))


def imported(node: ast.AST) -> Iterator[str]:
    """Names of the modules that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        yield node.module or ""
        if node.module == "hub":
            yield from (f"hub.{alias.name}" for alias in node.names)


def imports_of(path: Path, *, top: bool = False) -> set[str]:
    """Modules that a file imports, anywhere or outside its functions."""
    nodes = list(_outside_functions(tree(path))) if top else list(ast.walk(tree(path)))
    return {name for node in nodes for name in imported(node)}


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not isinstance(child, Function) and not typing_only:
            yield child
            yield from _outside_functions(child)


def ids(path: Path) -> str:
    """A file's name in the repository."""
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    assert len(CORE) > 20
    assert len(PLUGINS) > 5


def test_plugins_import_the_contract_and_nothing_else_of_hub() -> None:
    wrong = {
        f"{ids(path)}: {name}"
        for path in PLUGINS
        for name in imports_of(path)
        if name.split(".")[0] == "hub" and name not in {"hub", "hub.spec"} and not name.startswith("hub.spec.")
    }
    assert not wrong


def test_plugins_import_no_plugin_only_libraries_that_they_declare() -> None:
    """A library is a distribution below plugins/ that registers nothing with hub."""
    files = (ROOT / "plugins").glob("*/pyproject.toml")
    projects = {path.parent.name: tomllib.loads(path.read_text())["project"] for path in files}
    libraries = {f"hub_{name}" for name, project in projects.items() if "hub.v1" not in project.get("entry-points", {})}
    assert {"hub_onnxgraph", "hub_onnxquant", "hub_quanttrials", "hub_torchprogram"} <= libraries
    wrong = set()
    for path in PLUGINS:
        own = path.relative_to(ROOT / "plugins").parts[0]
        extras = projects[own].get("optional-dependencies", {}).values()
        declared = {*projects[own]["dependencies"], *(word for extra in extras for word in extra)}
        allowed = {f"hub_{own}"} | {name for name in libraries if name.replace("_", "-") in declared}
        others = {name.split(".")[0] for name in imports_of(path)}
        wrong |= {f"{ids(path)}: {name}" for name in others if name.startswith("hub_") and name not in allowed}
    assert not wrong


def test_the_contract_imports_nothing_else_of_hub() -> None:
    wrong = {
        f"{ids(path)}: {name}"
        for path in (ROOT / "hub" / "spec").rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] == "hub" and not name.startswith("hub.spec")
    }
    assert not wrong


def test_the_core_imports_no_framework_anywhere() -> None:
    wrong = {f"{ids(path)}: {name}" for path in CORE for name in imports_of(path) if name.split(".")[0] in FRAMEWORKS}
    assert not wrong


def test_what_a_plugins_entry_point_imports_holds_no_framework() -> None:
    import importlib.metadata
    import subprocess
    import sys

    modules = [entry.module for entry in importlib.metadata.entry_points(group="hub.v1")]
    assert "hub_toy" in modules
    code = (
        f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted(set(sys.modules) & {FRAMEWORKS!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_functions_are_short() -> None:
    paths = (*CORE, *PLUGINS)
    lengths = {f"{ids(path)}:{node.name}": figures.length(node) for path in paths for node in figures.functions(path)}
    ordered = sorted(lengths.values())
    longest = sorted(lengths, key=lambda name: -lengths[name])[:5]
    assert statistics.median(ordered) <= 6
    assert ordered[len(ordered) * 9 // 10] <= 32
    assert ordered[-1] <= 60, longest


PACKAGES = figures.packages()
# Percent of a package's functions that may have `Any` in their signature: a type names what it holds.
CORE_ANY, PLUGIN_ANY = 5, 20


@pytest.mark.parametrize("package", PACKAGES)
def test_types_name_what_they_hold(package: str) -> None:
    most = CORE_ANY if package == "hub" else PLUGIN_ANY
    assert figures.figures(PACKAGES[package]).any_share <= most


# Modules of which each imports each, also inside functions and for types; with what is to end it. It only shrinks.
CIRCLES: dict[tuple[str, ...], str] = {}


def test_no_other_modules_import_each_other() -> None:
    everything = tuple(path for files in PACKAGES.values() for path in files)
    assert {tuple(circle) for circle in figures.circles(everything)} == CIRCLES.keys()


def test_a_class_name_means_one_thing() -> None:
    assert not figures.defined_twice()


def test_broad_excepts_are_few_and_say_why() -> None:
    found = [
        (ids(path), node.lineno, path.read_text().splitlines()[node.lineno - 1])
        for path in CORE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and node.type and "Exception" in ast.unparse(node.type).split(", ")
    ]
    assert len(found) <= 6, found


def _texts() -> str:
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "plugins").glob("*/tests/**/*.py")]
    return "\n".join(path.read_text() for path in files if path != Path(__file__))


KINDS = sorted(set(error_classes()) - {HubError}, key=lambda kind: kind.code)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_every_error_has_a_test(kind: type[HubError]) -> None:
    text = _texts()
    assert re.search(rf'"{re.escape(kind.code)}"|\b{kind.__name__}\b', text), f"no test names {kind.code}"


def test_error_codes_are_unique_and_every_kind_has_its_exit_status() -> None:
    kinds = [kind for kind in set(error_classes()) if kind.__module__ == "hub.spec.errors"]
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert {kind.exit_status for kind in kinds} == {2, 3, 4, 5, 6, 7, 8, 70}


def test_no_path_of_a_machine_is_in_the_tree() -> None:
    files = [*CORE, *PLUGINS, *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    wrong = [ids(path) for path in files if re.search(r"/home/\w|/Users/\w", path.read_text())]
    assert not wrong


def test_a_remarks_code_means_one_cause() -> None:
    """A code is said by one module of a package, always of one kind; a finding may be one that blocks."""
    said = said_remarks()
    assert len(said) > 100
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", item.code) for item in said)
    assert all(item.kind in get_args(RemarkKind) for item in said)
    modules: dict[tuple[str, str], set[str]] = {}
    kinds: dict[str, set[str]] = {}
    for item in said:
        modules.setdefault((item.package, item.code), set()).add(item.place.partition(":")[0])
        kinds.setdefault(item.code, set()).add(item.kind.replace("blocker", "finding"))
    assert not {key: places for key, places in modules.items() if len(places) > 1}
    assert not {code: found for code, found in kinds.items() if len(found) > 1}


def test_every_remark_has_a_code_that_is_written_where_it_is_made() -> None:
    """Others only hand on the code of a remark or a verdict."""
    listed = {item.place for item in said_remarks()}
    made = [
        (f"{ids(path)}:{node.lineno}", node.args[1:2])
        for path in (*CORE, *PLUGINS)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Remark"
    ]
    unlisted = {place for place, code in made if not (code and ast.unparse(code[0]).endswith(".code"))} - listed
    assert {place.partition(":")[0] for place in unlisted} == {"hub/_receipt.py"}  # what old receipts say


def test_no_hint_promises_another_route() -> None:
    """What stands at the end stands where none is left, and `hub inspect` has none at all."""
    assert not [ids(path) for path in (*CORE, *PLUGINS) if "hub tries the next" in path.read_text()]
