"""Open models in the caller's process: runs, batches, intermediates, executions."""

from pathlib import Path

import numpy as np
import pytest

import hub
from hub.spec import DeviceMissing, ModelNotFound, UnknownName, UnsupportedModel, UsageError

pytestmark = pytest.mark.usefixtures("cache")


class Bare:
    """A session that can run, and nothing else."""

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return feeds

    def close(self) -> None:
        """Nothing to release."""


@pytest.fixture
def rows() -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(3)
    return [{"x": generator.standard_normal((1, 6)).astype(np.float32)} for _ in range(5)]


def test_runs_batches_and_futures_agree(toy: Path, rows: list[dict[str, np.ndarray]]) -> None:
    with hub.open_session(str(toy)) as model:
        assert [spec.name for spec in model.signature.inputs] == ["x"]
        single = [model.run(row)["y"] for row in rows]
        batch = [outputs["y"] for outputs in model.run_batch(rows)]
        futures = [model.run_async(row) for row in rows]
        np.testing.assert_allclose(batch, single, rtol=1e-6)
        np.testing.assert_array_equal([future.result()["y"] for future in futures], single)


def test_a_batch_is_one_run_where_the_model_leaves_its_batch_open(
    toy: Path, rows: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub.open_session(str(toy)) as model:
        sizes: list[int] = []
        run = model._session.run
        monkeypatch.setattr(model._session, "run", lambda feeds: sizes.append(len(feeds["x"])) or run(feeds))
        model.run_batch(rows)
        assert sizes == [5]
        model.run_batch(rows[:1])
        assert sizes == [5, 1]


def test_samples_that_do_not_stack_run_one_by_one(twin: Path) -> None:
    feeds = [{"left": np.full((2, 4), k, np.float32), "right": np.ones((2, 4), np.float32)} for k in range(3)]
    with hub.open_session(str(twin)) as model:  # its batch is fixed to two
        several = model.run_batch(feeds)
        assert len(several) == 3
        np.testing.assert_array_equal(several[2]["sum"], model.run(feeds[2])["sum"])


def test_values_inside_can_be_seen(toy: Path, rows: list[dict[str, np.ndarray]]) -> None:
    with hub.open_session(str(toy)) as model:
        inside = model.intermediate(["h", "r"]).run(rows[0])
        np.testing.assert_array_equal(inside["r"], np.maximum(inside["h"], 0))
        with pytest.raises(UnknownName, match="nothing"):
            model.intermediate(["nothing"])


def test_the_execution_is_told(toy: Path, rows: list[dict[str, np.ndarray]]) -> None:
    with hub.open_session(str(toy)) as model:
        assert model.execution(rows[0]).report.executed == {"affine": 2, "relu": 1, "softmax": 1}


def test_what_a_runtime_lacks_is_refused(
    toy: Path, rows: list[dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hub_toy.runtime import ToyRuntime

    monkeypatch.setattr(ToyRuntime, "open", lambda *_: Bare())
    with hub.open_session(str(toy)) as model:
        with pytest.raises(UnsupportedModel, match="numpy cannot say how"):
            model.execution(rows[0])
        with pytest.raises(UnsupportedModel, match="numpy cannot show"):
            model.intermediate(["h"])
        assert model.run_async(rows[0]).result() is rows[0]


def test_what_cannot_be_opened_is_a_coded_error(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        hub.open_session(str(tmp_path / "none.toy"))
    with pytest.raises(DeviceMissing):
        hub.open_session(str(toy), how=hub.RuntimeOptions(device="abacus"))
    with pytest.raises(UnknownName, match="kernel set"):
        hub.open_session(str(toy), how=hub.RuntimeOptions(variant="other"))
    with hub.open_session(str(toy)) as model, pytest.raises(UsageError, match="fed nothing, not x"):
        model.run({})
