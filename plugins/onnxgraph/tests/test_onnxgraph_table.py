"""The table of operators: what it refuses, and what a look-up imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from hub_onnxgraph.table import Operator, Table

_MODULE = """
from planted import TABLE
{decorators}
def {name}(x, *rest, axis, keep=1):
    return x
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A package with operators in two modules, of which a third one registers `Second` again, and a fourth unseen."""
    folder = tmp_path / "planted"
    folder.mkdir()
    (folder / "__init__.py").write_text("from hub_onnxgraph.table import Table\nTABLE = Table('planted')\n")
    modules = {
        "first": '@TABLE.op("First", 1, 3)\n@TABLE.op("First", 4)\n@TABLE.op("Second", 1, domain="other")',
        "second": 'KINDS = ("Second", "Third")\n@TABLE.op(KINDS[0], 1, 9)\n@TABLE.op(KINDS[1])',
        "again": '@TABLE.op("Third", 2, 1)',
        "unseen": '@TABLE.op("Fo" + "urth")',
    }
    for name, decorators in modules.items():
        (folder / f"{name}.py").write_text(_MODULE.format(decorators=decorators, name=name))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "planted"]:
        monkeypatch.delitem(sys.modules, name)
    from planted import TABLE  # type: ignore[import-not-found]

    assert isinstance(TABLE, Table)
    return TABLE


def test_a_look_up_imports_the_modules_that_name_the_operator(planted: Table) -> None:
    assert isinstance(planted.find("First", 3), Operator)
    assert {name for name in sys.modules if name.startswith("planted.")} == {"planted.first"}
    assert planted.find("Absent") == "the operator is not implemented"
    assert planted.has("First")
    assert not planted.has("Absent")
    assert planted.find("First", 2) == "version 2 is not implemented, only 1, 3, 4"
    assert {name for name in sys.modules if name.startswith("planted.")} == {"planted.first"}


def test_versions_and_domains_are_told_apart(planted: Table) -> None:
    standard, other = planted.find("Second", 9), planted.find("Second", 1, "other")
    assert isinstance(standard, Operator)
    assert isinstance(other, Operator)
    assert (standard.handler.__name__, other.handler.__name__) == ("second", "first")


def test_a_second_row_for_an_operator_is_refused(planted: Table) -> None:
    with pytest.raises(ValueError, match=r"Third version 1 has two functions: planted\.again\.again and .*second"):
        planted.find("Third")


def test_a_row_that_no_look_up_would_find_is_refused(planted: Table) -> None:
    assert planted.find("Fourth") == "the operator is not implemented"
    with pytest.raises(ValueError, match="registers Fourth, and nowhere says 'Fourth' in double quotes"):
        __import__("planted.unseen")


def test_the_signature_is_the_contract() -> None:
    def full(node: object, x: object, bias: object = None, *rest: object | None, axis: int, keep: int = 1) -> None:
        pass

    row = Operator.of("Full", full)
    assert row.wants_node
    assert row.gaps
    assert row.mismatch([True], ["axis"]) is None
    assert row.mismatch([True, False, False], ["axis", "keep"]) is None
    assert row.mismatch([True], ["keep"]) == "attribute axis is missing"
    assert row.mismatch([True], ["axis", "other"]) == "attribute other is not implemented"
    assert row.mismatch([False, True], ["axis"]) == "input 0 is absent"


@pytest.mark.parametrize(
    ("package", "name", "version"),
    [
        ("hub_keras.onnx_importer", "Conv", 11),
        ("hub_pytorch.onnx_importer", "Conv", 11),
        ("hub_tflite.to_onnx", "CONV_2D", 3),
    ],
)
def test_every_row_of_the_importers_is_found(package: str, name: str, version: int) -> None:
    code = (
        f"import sys; from {package}.registry import TABLE as t; before = set(sys.modules); "
        f"t.find({name!r}, {version}); "
        f"print(*[m for m in set(sys.modules) - before if m.startswith('{package}.ops.')]); "
        "rows = {(d, n, v) for (d, n), rows in t.rows.items() for v in rows}; assert len(rows) > 390; "
        "assert not [row for row in rows if isinstance(t.find(row[1], row[2], row[0]), str)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    loaded = done.stdout.split()
    assert f"{package}.ops.conv" in loaded
    assert len(loaded) <= 2  # its own module, and what that one imports
