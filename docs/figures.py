"""Figures of the code's structure, a row per package: `python3.11 dev.py figures`. The structure tests bound them.

* functions: every `def`, nested ones too; lines: of its body, the docstring not counted;
* Any: functions with `Any` in their signature;
* once: private functions that are used once, in their own file (used nowhere else by what private means);
* comments: comments that speak to a reader (not `noqa` and the like) in 100 lines that are not empty;
* circles: groups of modules of which each imports each, by whatever way, also inside functions;
* twice: class names that are defined more than once in all packages, counted where they stand.
"""

import ast
import json
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef
_FOR_TOOLS = re.compile(r"#\s*(noqa|type:|fmt:|pragma|!)")
_ANY = re.compile(r"\bAny\b")


@cache
def tree(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(), str(path))


@cache
def packages() -> dict[str, tuple[Path, ...]]:
    """The files of the core (`hub`) and of every folder of plugins/, by name."""
    found = {"hub": tuple(sorted((ROOT / "hub").rglob("*.py")))}
    for folder in sorted((ROOT / "plugins").glob("*/src")):
        found[folder.parent.name] = tuple(sorted(folder.rglob("*.py")))
    return found


def functions(path: Path) -> Iterator[Function]:
    """Every function of a file."""
    return (node for node in ast.walk(tree(path)) if isinstance(node, Function))


def length(node: Function) -> int:
    """Lines of a function's body, the docstring not counted."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    body = node.body[1:] if documented else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def names_any(node: Function) -> bool:
    """Whether `Any` stands in a function's signature."""
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    parts = [*(item.annotation for item in every if item), node.returns]
    return any(_ANY.search(ast.unparse(part)) for part in parts if part)


def used_once(path: Path) -> list[str]:
    """Private functions of a file that the file uses once."""
    read = (
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load)
    )
    uses = Counter(read)
    private = (node.name for node in functions(path) if node.name.startswith("_") and not node.name.endswith("__"))
    return [name for name in private if uses[name] == 1]


def comments(path: Path) -> int:
    """Comments that speak to a reader."""
    with tokenize.open(path) as file:
        tokens = [t.string for t in tokenize.generate_tokens(file.readline) if t.type == tokenize.COMMENT]
    return sum(not _FOR_TOOLS.match(text) for text in tokens)


def lines(path: Path) -> int:
    """Lines that are not empty."""
    return sum(bool(line.strip()) for line in path.read_text().splitlines())


def module_of(path: Path) -> str:
    """A file's dotted name."""
    inside = path.relative_to(ROOT)
    parts = inside.parts[3:] if inside.parts[0] == "plugins" else inside.parts
    return ".".join(parts).removesuffix(".py").removesuffix(".__init__")


def circles(files: tuple[Path, ...]) -> list[list[str]]:
    """Groups of modules of which each reaches each by imports."""
    modules = {module_of(path): path for path in files}
    graph = {name: set(_imports(name, path, modules)) for name, path in modules.items()}
    reach = {name: _reached(graph, name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted(sorted(group) for group in groups if group)


def _imports(importer: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Modules that a file imports anywhere, and the packages around them that it is not in itself."""
    for named in _named(path):
        name = named if named in modules else named.rpartition(".")[0]
        parts = name.split(".")
        around = (".".join(parts[: count + 1]) for count in range(len(parts)))
        for outer in around:
            inside = importer == outer or (outer != name and importer.startswith(f"{outer}."))
            if outer in modules and not inside:
                yield outer


def _named(path: Path) -> Iterator[str]:
    """Names that a file imports from or as modules, for a type checker alone too: a circle of ideas is one."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += graph[name]
    return seen


def classes(path: Path) -> list[str]:
    """Names of a file's classes."""
    return [node.name for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]


def defined_twice() -> dict[str, list[str]]:
    """Class names that are defined more than once -> the modules that do."""
    where: dict[str, list[str]] = {}
    for files in packages().values():
        for path in files:
            for name in classes(path):
                where.setdefault(name, []).append(module_of(path))
    return {name: places for name, places in sorted(where.items()) if len(places) > 1}


def edges() -> int:
    """Edges that the installed plugins offer."""
    done = subprocess.run([sys.executable, "-m", "hub", "plugins", "--json"], capture_output=True, check=True)
    return len(json.loads(done.stdout)["edges"])


class Figures(NamedTuple):
    """A package's row."""

    files: int
    lines: int
    functions: int
    median: int
    p90: int
    longest: int
    any_share: float
    once_share: float
    comments: float
    circles: int


def figures(files: tuple[Path, ...]) -> Figures:
    """Measure a package."""
    found = [node for path in files for node in functions(path)]
    ordered = sorted(length(node) for node in found) or [0]
    total = sum(lines(path) for path in files)
    return Figures(
        files=len(files),
        lines=total,
        functions=len(found),
        median=ordered[len(ordered) // 2],
        p90=ordered[len(ordered) * 9 // 10],
        longest=ordered[-1],
        any_share=100 * sum(names_any(node) for node in found) / max(len(found), 1),
        once_share=100 * sum(len(used_once(path)) for path in files) / max(len(found), 1),
        comments=100 * sum(comments(path) for path in files) / max(total, 1),
        circles=len(circles(files)),
    )


def main() -> None:
    """Print the table; below it the edges, and what is in a circle and what is defined twice."""
    print(f"{'package':12} files  lines functions  median/p90/max  Any %  once %  comments  circles  twice")
    twice = defined_twice()
    everything = tuple(path for files in packages().values() for path in files)
    for name, files in [*packages().items(), ("all", everything)]:
        row = figures(files)
        held = {module_of(path) for path in files}
        doubled = sum(place in held for places in twice.values() for place in places)
        lengths = f"{row.median}/{row.p90}/{row.longest}"
        print(
            f"{name:12} {row.files:5} {row.lines:6} {row.functions:9}  {lengths:>14} {row.any_share:6.1f} "
            f"{row.once_share:7.1f} {row.comments:9.1f} {row.circles:8} {doubled:6}"
        )
    print(f"\nedges: {edges()}")
    print("circles:", *(" ".join(group) for group in circles(everything)), sep="\n  ")
    print(f"class names defined twice ({len(twice)}):")
    print(*(f"  {name}: {', '.join(places)}" for name, places in twice.items()), sep="\n")


if __name__ == "__main__":
    main()
