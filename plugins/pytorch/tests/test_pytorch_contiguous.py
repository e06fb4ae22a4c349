"""Two transposed views of one storage are two constants in TFLite: LiteRT Torch alone mixes them up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hub.spec import ConvertOptions
from hub_pytorch.export import export_eager
from hub_pytorch.reference import ModelReference
from hub_pytorch.rewrite import lay_out_constants

# torchao, torch and litert_torch compile with invalid escapes and use old parts of torch
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("SyntaxWarning", "DeprecationWarning", "FutureWarning")
]


@pytest.fixture
def views() -> object:
    import torch

    class Views(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(32.0).reshape(4, 8) / 32
            self.register_buffer("left", whole[:, :4].t())
            self.register_buffer("right", whole[:, 4:].t())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.left - (x @ self.right) ** 2

    return Views().eval()


def test_views_are_laid_out(views: object) -> None:
    import torch

    graph = torch.export.export(views, (torch.ones(1, 4),)).module()
    assert tuple(remark.text for remark in lay_out_constants(graph)) == ("laid out 2 constants contiguously",)
    assert lay_out_constants(graph) == ()


# torch.export.save warns of exactly what is planted here: tensors that share one storage
@pytest.mark.filterwarnings("ignore:No complete tensor found in the group")
def test_views_come_out_right_in_tflite(views: object, tmp_path: Path) -> None:
    import torch
    from ai_edge_litert.interpreter import Interpreter

    from hub_pytorch.to_tflite import convert_to_tflite
    from hub_torchprogram import exported_program, save_exported

    x = np.linspace(-1, 1, 4, dtype=np.float32)[None]
    save_exported(*export_eager(views, (torch.ones(1, 4),), ModelReference()), tmp_path / "views.pt2")
    program = exported_program(tmp_path / "views.pt2")
    convert_to_tflite(program, ConvertOptions(), tmp_path / "views.tflite")
    runner = Interpreter(str(tmp_path / "views.tflite")).get_signature_runner()
    (made,) = runner(**{program.signature.inputs[0].name: x}).values()
    with torch.no_grad():
        np.testing.assert_allclose(made, views(torch.from_numpy(x)).numpy(), rtol=1e-5)  # type: ignore[operator]
