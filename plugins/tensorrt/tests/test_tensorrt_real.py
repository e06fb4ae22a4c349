"""Real models come to what the page says, cell by cell. The GPU's cells are not run here."""

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="the ahead-of-time builder is not installed: pip install hub-tensorrt[rtx]")

from docs import tensorrt as page
from hub_tensorrt import cuda
from tests.zoo.backends import MODELS

RECORDED = page.load()
CELLS = [(name, precision) for name, cells in RECORDED.items() for precision in cells]


@pytest.mark.scheduled
@pytest.mark.real
@pytest.mark.skipif(bool(cuda.gpus()), reason="the page is of a machine without a GPU")
@pytest.mark.parametrize(("name", "precision"), CELLS)
def test_a_cell_of_the_page(name: str, precision: str, tmp_path: Path) -> None:
    recorded, found = RECORDED[name][precision], page.build(MODELS[name], precision, tmp_path)
    assert found.error.partition(":")[0] == recorded.error.partition(":")[0], found
    assert (found.numerics, found.level) == (recorded.numerics, recorded.level)
    assert found.multiplied_in == recorded.multiplied_in


def test_the_page_is_what_was_measured() -> None:
    assert CELLS
    assert page.render(RECORDED) == page.PAGE.read_text()
    assert all(cell.error or cell.level == "aot-built" for cells in RECORDED.values() for cell in cells.values())
    assert "passed" not in page.PAGE.read_text()
