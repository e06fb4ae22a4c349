"""The row rule, for any shape: what goes in as rows comes out as samples, in order and complete."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hub._calibration.rows import Chunk, cuts_of
from hub.spec import Dim, DType, TensorSpec

SIZES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@dataclass(frozen=True)
class Case:
    """A model input `[batch, *inner]` and numbered rows for it."""

    batch: int | None
    rows: int
    inner: tuple[int, ...]
    symbolic: bool

    @property
    def tensor(self) -> TensorSpec:
        inner = [Dim.of(f"s{axis}") if self.symbolic else Dim.of(size) for axis, size in enumerate(self.inner)]
        return TensorSpec(name="x", dtype=DType.FLOAT32, shape=(Dim.of(self.batch or "n"), *inner))

    @property
    def array(self) -> "np.ndarray[Any, np.dtype[Any]]":
        shape = (self.rows, *self.inner)
        return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


CASES = st.builds(
    Case, batch=st.none() | st.integers(1, 4), rows=st.integers(0, 9), inner=SIZES, symbolic=st.booleans()
)


def samples(case: Case, array: "np.ndarray[Any, Any]") -> tuple[list["np.ndarray[Any, Any]"], int]:
    cut = cuts_of(Chunk("data", {"x": array}), [case.tensor])["x"]
    return [cut.sample(array, index) for index in range(cut.count)], cut.dropped


@given(CASES)
def test_rows_are_grouped_in_order_and_only_the_rest_is_dropped(case: Case) -> None:
    found, dropped = samples(case, case.array)
    size = case.batch or 1
    assert {each.shape for each in found} <= {(size, *case.inner)}
    assert dropped == case.rows % size
    assert np.array_equal(np.concatenate([case.array[:0], *found]), case.array[: case.rows - dropped])


@given(CASES)
def test_one_more_dimension_means_one_sample_each(case: Case) -> None:
    size = case.batch or 2
    array = (
        np.stack([case.array[:1].repeat(size, 0)] * 3) if case.rows else np.zeros((3, size, *case.inner), np.float32)
    )
    found, dropped = samples(case, array)
    assert (len(found), dropped) == (3, 0)
    assert all(np.array_equal(each, array[index]) for index, each in enumerate(found))


@given(CASES, st.integers(1, 5))
def test_inputs_of_one_model_are_cut_alike(case: Case, state: int) -> None:
    count = case.rows // (case.batch or 1)
    other = TensorSpec(name="state", dtype=DType.FLOAT32, shape=(Dim.of(state), Dim.of(2)))
    feeds: dict[str, np.ndarray[Any, Any]] = {"x": case.array, "state": np.zeros((count, state, 2), np.float32)}
    cuts = cuts_of(Chunk("data", feeds), [case.tensor, other])
    assert {cut.count for cut in cuts.values()} == {count}
    assert cuts["state"].shape == (state, 2)
