"""The library as an author of another plugin uses it: a `.pt2` in, names and open dimensions kept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from hub.spec import ConvertJob, ConvertOptions, Dim, DType, ModelArtifact, ModelRefused, Signature, State, TensorSpec
from hub_torchprogram import (
    adapt,
    export_module,
    exported_program,
    fixed_spec,
    load_exported,
    sample,
    save_exported,
    stored_names,
)
from hub_torchprogram.program import output_names


class Scaled(torch.nn.Module):
    """Two outputs, one of them a mean over the open axis."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Twice the image, and its mean."""
        return image * 2, image.mean(0)


IMAGE = TensorSpec(name="image", dtype=DType.FLOAT32, shape=(Dim(symbol="batch"), Dim(size=3)))
NAMED = Signature(
    inputs=(TensorSpec(name="input/image:0", dtype=DType.FLOAT32, shape=(Dim(symbol="batch", low=1), Dim(size=3))),),
    outputs=(
        TensorSpec(name="twice", dtype=DType.FLOAT32, shape=(Dim(symbol="batch"), Dim(size=3))),
        TensorSpec(name="the mean", dtype=DType.FLOAT32, shape=(Dim(size=3),)),
    ),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A `.pt2` with names that are no identifiers and an open batch."""
    exported, _ = export_module(Scaled().eval(), (IMAGE,), sizes={"batch": 4})
    save_exported(exported, NAMED, tmp_path / "scaled.pt2")
    return tmp_path / "scaled.pt2"


def test_names_and_open_dimensions_come_back_from_the_file(file: Path) -> None:
    program = exported_program(file)
    assert [str(spec) for spec in program.signature.inputs] == ["input/image:0: float32[batchx3]"]
    assert program.signature.inputs[0].shape[0].low == 1
    assert [spec.name for spec in program.signature.outputs] == ["twice", "the mean"]
    for batch in (1, 2, 7):
        image = torch.arange(batch * 3, dtype=torch.float32).reshape(batch, 3)
        twice, mean = program.call(image)
        assert torch.equal(twice, image * 2)
        assert torch.allclose(mean, image.mean(0))


def test_a_file_of_another_writer_has_no_names_of_hub(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(Scaled().eval(), (torch.zeros(2, 3),)), tmp_path / "other.pt2")
    assert stored_names(tmp_path / "other.pt2") == {}
    assert [spec.name for spec in exported_program(tmp_path / "other.pt2").signature.outputs] == [
        "output_0",
        "output_1",
    ]


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (1, ("output",)),
        ((1,), ("output",)),
        ((1, (2, 3)), ("output_0", "output_1", "output_2")),
        ({"logits": 1, "cache": (2, 3)}, ("logits", "cache_0", "cache_1")),
        ((1, {"state": 2}), ("output_0", "state")),
        ({"a": [1], "a_0": 2}, ("output_0", "output_1")),  # two would be called a_0
    ],
)
def test_outputs_are_named_by_their_keys(returned: object, names: tuple[str, ...]) -> None:
    paths = [path for path, _ in pytree.tree_flatten_with_path(returned)[0]]
    assert output_names(paths) == names


def test_the_border_that_was_asked_for(file: Path) -> None:
    adapted = adapt(exported_program(file), ConvertOptions(shapes={"input/image:0": (5, 3)}))
    assert adapted.words == ("input_image_0",)
    assert adapted.inputs == (fixed_spec("input/image:0", DType.FLOAT32, (5, 3)),)
    results = adapted.module(input_image_0=torch.ones(5, 3))
    assert set(results) == {"twice", "the_mean"}


def test_a_file_that_would_run_code_is_refused_unloaded(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "code.pt2"
    torch.export.save(torch.export.export(Scaled().eval(), (torch.zeros(2, 3),)), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("code/data/constants/custom_obj_0", b"anything")
    with pytest.raises(ModelRefused, match="custom_obj_0"):
        load_exported(path, allow_pickle=False)


def test_importing_the_library_imports_no_torch() -> None:
    code = "import sys, hub_torchprogram; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_the_strangers_step_of_the_readme_runs_as_it_stands(file: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    exec(compile(code[1], "README.md", "exec"), names)  # noqa: S102 - our own text, which must work as it stands
    source = ModelArtifact(
        path=str(file),
        state=State(format="pytorch"),
        signature=exported_program(file).signature,
        sha256="",
        size_bytes=file.stat().st_size,
    )
    job = ConvertJob(
        target=State(format="mine"),
        source=source,
        output=str(tmp_path / "mine.pt2"),
        scratch=str(tmp_path),
        options=ConvertOptions(shapes={"input/image:0": (2, 3)}),
    )
    names["to_mine"](job)
    made = torch.export.load(tmp_path / "mine.pt2").module()
    given = sample(fixed_spec("x", DType.FLOAT32, (2, 3)))
    assert torch.equal(made(input_image_0=given)["twice"], given * 2)
