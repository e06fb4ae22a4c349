"""The codes of everything that is told to the user, read from the source: where each is said, and in what words."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hub.spec import Support, Verdict

ROOT = Path(__file__).parents[1]


class SaidRemark(NamedTuple):
    """One place in the source that makes a remark.

    Attributes:
        package: Import package.
        code: The remark's code.
        kind: Its kind.
        text: What it says, with `…` for values.
        place: File and line.
    """

    package: str
    code: str
    kind: str
    text: str
    place: str


def said_remarks() -> list[SaidRemark]:
    """Every remark that hub and the plugins of this repository make, in the order of packages and codes."""
    default = Verdict(support=Support.NEVER).code
    found = [SaidRemark("hub", default, "left-out", "the edge's own reason", "hub/spec/edges.py")]
    folders = [ROOT / "hub", *sorted((ROOT / "plugins").glob("*/src/hub_*"))]
    for folder in folders:
        trees = {path: ast.parse(path.read_text()) for path in sorted(folder.rglob("*.py"))}
        constants = {name: text for tree in trees.values() for name, text in _constants(tree)}
        for path, tree in trees.items():
            for code, kind, text, line in _said(tree, constants):
                found.append(SaidRemark(folder.name, code, kind, text, f"{path.relative_to(ROOT)}:{line}"))
    return sorted(found, key=lambda said: (said.package != "hub", said.package, said.code))


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module-level names for strings."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield from ((target.id, node.value.value) for target in node.targets if isinstance(target, ast.Name))


def _said(tree: ast.Module, constants: Mapping[str, str]) -> Iterator[tuple[str, str, str, int]]:
    """Remarks, and verdicts with a code of their own, whose code is written there: others hand one on."""
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        inside = [scope for scope in scopes if scope.lineno <= call.lineno <= (scope.end_lineno or 0)]
        words = {keyword.arg: keyword.value for keyword in call.keywords}
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        if name == "Remark" and len(call.args) > 2:  # noqa: PLR2004 kind, code and text
            kind, code, text = (_words(item, inside, constants, call.lineno) for item in call.args[:3])
        elif name == "Verdict" and "code" in words:
            kind, code = "left-out", _words(words["code"], inside, constants, call.lineno)
            text = _words(words["reason"], inside, constants, call.lineno)
        else:
            continue
        if "…" not in code + kind:
            yield code, kind, text, call.lineno


def _words(node: ast.expr, scopes: list[ast.FunctionDef], constants: Mapping[str, str], line: int) -> str:
    """What an expression says, with `…` for values."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.Name) and node.id in constants:
        return constants[node.id]
    if isinstance(node, ast.Name) and scopes:
        given = [
            item
            for item in ast.walk(scopes[-1])
            if isinstance(item, ast.Assign)
            and item.lineno < line
            and any(isinstance(target, ast.Name) and target.id == node.id for target in item.targets)
        ]
        last = max(given, key=lambda item: item.lineno, default=None)
        return _words(last.value, scopes, constants, last.lineno) if last else "…"
    return "…"
