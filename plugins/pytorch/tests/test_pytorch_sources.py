# torch is untyped here, so its classes cannot be subclassed in strict mode.
# mypy: disable-error-code="misc"
from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hub.spec import (
    ConvertJob,
    ConvertOptions,
    DescribeJob,
    DType,
    Identification,
    ModelArtifact,
    ModelNotFound,
    ModelRefused,
    ModelSummary,
    ModelUnreadable,
    Numerics,
    RuntimeOptions,
    ShapeNeeded,
    State,
    UnsupportedModel,
    parse_expectations,
)
from hub_pytorch import PyTorchFormat, hub_identify_format, hub_save_live_model
from hub_pytorch.edges import EDGES
from hub_pytorch.runtime import PyTorchRuntime

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch.jit is deprecated; its files are in the field
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # torch.export uses old parts of torch
    pytest.mark.filterwarnings("ignore::UserWarning"),  # the same
]

TRAP = Path("pickle-was-run")


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (TRAP,)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(x.sum(0))
        return x + self.seen


class CountingScript(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.total = nn.Linear(3, 2), torch.zeros(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total = self.total + self.inner(x).sum(0)
        return self.total


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if bool(x.sum() > 0) else x - 1


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, factor: int) -> torch.Tensor:
        return x * factor


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not TRAP.exists()
    torch.use_deterministic_algorithms(mode=False)


def identified(path: str) -> Identification | None:
    return hub_identify_format(Path(path), Path(path).read_bytes()[:65536])


def described(path: str, **asked: Any) -> ModelSummary:
    return PyTorchFormat().describe(DescribeJob(path=path, **asked))


def scripted(module: nn.Module, path: str = "model.jit") -> str:
    torch.jit.script(module.eval()).save(path)
    return path


def opened(path: str, summary: ModelSummary) -> Any:
    artifact = ModelArtifact(path=path, state=summary.state, signature=summary.signature, sha256="", size_bytes=1)
    return PyTorchRuntime().open(artifact, RuntimeOptions())


def exported(path: str, summary: ModelSummary, edge: str, options: ConvertOptions | None = None) -> str:
    artifact = ModelArtifact(path=path, state=summary.state, signature=summary.signature, sha256="", size_bytes=1)
    options = options or ConvertOptions()
    program = State(format="pytorch")
    job = ConvertJob(target=program, source=artifact, output="result.pt2", scratch=".", options=options)
    next(item for item in EDGES if item.id == edge).convert(job)
    return "result.pt2"


def builder_file(builder: str, weights: str = "", **fields: Any) -> str:
    content = {"builder": builder, "weights": weights, "search_path": str(Path.cwd()), **fields, "nonce": "1"}
    Path("model.builder.json").write_text(json.dumps(content, separators=(",", ":")))
    return "model.builder.json"


@pytest.fixture
def module_file() -> None:
    Path("nets_for_hub.py").write_text(
        "import torch\n"
        "def build():\n    return torch.nn.Linear(3, 2)\n"
        "def with_example():\n    return torch.nn.Linear(3, 2), {'input': torch.zeros(4, 3)}\n"
        "def tokens():\n    return torch.nn.Embedding(7, 2)\n"
        "number = 3\n"
    )


def test_each_form_is_told_from_its_bytes() -> None:
    module = nn.Linear(3, 2).eval()
    hub_save_live_model(module, Path(), (torch.zeros(1, 3),))
    torch.save(module.state_dict(), "state.pth")
    torch.save(module.state_dict(), "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(module, "whole.pt")
    torch.save(module, "legacy_whole.pt", _use_new_zipfile_serialization=False)
    save_file(module.state_dict(), "weights.safetensors")
    Path("plain.pkl").write_bytes(pickle.dumps(Trap()))
    forms = {
        "model.pt2": "",
        scripted(module): "torchscript",
        builder_file("a.b:c"): "builder",
        "state.pth": "weights",
        "legacy.pth": "weights",
        "weights.safetensors": "weights",
        "whole.pt": "pickle",
        "legacy_whole.pt": "pickle",
        "plain.pkl": "pickle",
    }
    assert {path: found.form for path in forms if (found := identified(path))} == forms


def test_other_files_are_left_to_others() -> None:
    np.savez("arrays.npz", a=np.zeros(3))
    Path("text.pt").write_text("hello")
    assert identified("arrays.npz") is None
    assert identified("text.pt") is None


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickled_object_is_refused_by_name_without_running_it(legacy: bool) -> None:
    torch.save({"net": Trap()}, "model.pt", _use_new_zipfile_serialization=not legacy)
    found = identified("model.pt")
    assert found is not None
    assert "pathlib.Path.touch" in found.detail or "getattr" in found.detail
    with pytest.raises(ModelRefused, match="pickled object that needs") as caught:
        described("model.pt")
    assert "--allow-pickle" in caught.value.hint


def test_a_pickled_module_converts_when_that_is_allowed() -> None:
    module = nn.Linear(3, 2).eval()
    torch.save(module, "model.pt")
    summary = described("model.pt", allow_pickle=True, shapes={"input": (1, 3)})
    edge = next(edge for edge in EDGES if edge.takes(summary.state))
    assert not edge.check(summary, ConvertOptions())
    options = ConvertOptions(shapes={"input": (1, 3)}, allow_pickle=True)
    assert edge.check(summary, options)
    assert identified(exported("model.pt", summary, edge.id, options)) == Identification(
        format="pytorch", detail="exported program"
    )


@pytest.mark.parametrize("path", ["model.pt2", "model.jit"])
def test_a_truncated_file_is_unreadable(path: str) -> None:
    if path == "model.pt2":
        hub_save_live_model(nn.Linear(3, 2).eval(), Path(), (torch.zeros(1, 3),))
    else:
        scripted(nn.Linear(3, 2))
    whole = Path(path).read_bytes()
    for size in (40, len(whole) // 2, len(whole) - 30):
        Path(path).write_bytes(whole[:size])
        assert identified(path) is not None
        with pytest.raises(ModelUnreadable):
            described(path)


def test_a_damaged_member_is_unreadable() -> None:
    hub_save_live_model(nn.Linear(3, 2).eval(), Path(), (torch.zeros(1, 3),))
    whole = Path("model.pt2").read_bytes()
    place = whole.index(b'"graph_module"')
    Path("model.pt2").write_bytes(whole[:place] + b"\x00" * 14 + whole[place + 14 :])
    with pytest.raises(ModelUnreadable):
        described("model.pt2")


def test_weights_alone_ask_for_their_builder() -> None:
    torch.save(nn.Linear(3, 2).state_dict(), "state.pth")
    with pytest.raises(ModelUnreadable, match="weights without a network") as caught:
        described("state.pth")
    assert "--weights state.pth" in caught.value.hint


@pytest.mark.usefixtures("module_file")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_builder_with_weights_converts(suffix: str) -> None:
    module = nn.Linear(3, 2).eval()
    path = f"weights{suffix}"
    save_file(module.state_dict(), path) if suffix == ".safetensors" else torch.save(module.state_dict(), path)
    reference = builder_file("nets_for_hub:build", path, shapes={"input": [4, 3]})
    summary = described(reference)
    assert [str(spec) for spec in summary.signature.inputs] == ["input: float32[4x3]"]
    assert [Path(file).name for file in summary.files] == ["model.builder.json", path]
    feeds = {"input": np.ones((4, 3), np.float32)}
    wanted = module(torch.ones(4, 3)).detach().numpy()
    assert np.array_equal(opened(reference, summary).run(feeds)["output"], wanted)
    result = exported(reference, summary, "pytorch.export-builder")
    assert np.array_equal(opened(result, described(result)).run(feeds)["output"], wanted)


@pytest.mark.usefixtures("module_file")
def test_example_inputs_of_a_builder_give_its_shapes() -> None:
    summary = described(builder_file("nets_for_hub:with_example"))
    assert [str(spec) for spec in summary.signature.inputs] == ["input: float32[4x3]"]
    assert [str(spec) for spec in summary.signature.outputs] == ["output: float32[4x2]"]


@pytest.mark.usefixtures("module_file")
def test_rows_of_an_embedding_bound_the_tokens() -> None:
    asked: dict[str, Any] = {"shapes": {"input": (1, 5)}, "dtypes": {"input": DType.INT64}}
    summary = described(builder_file("nets_for_hub:tokens"), **asked)
    assert summary.signature.inputs[0].value_range == (0, 6)


@pytest.mark.usefixtures("module_file")
def test_a_builder_without_shapes_asks_for_them() -> None:
    with pytest.raises(ShapeNeeded) as caught:
        described(builder_file("nets_for_hub:build"))
    assert "--shape input=" in caught.value.hint


@pytest.mark.usefixtures("module_file")
@pytest.mark.parametrize("name", ["no_such_module:build", "nets_for_hub:nothing", "nets_for_hub:number"])
def test_a_builder_that_is_none_is_not_found(name: str) -> None:
    with pytest.raises(ModelNotFound):
        described(builder_file(name))


@pytest.mark.usefixtures("module_file")
def test_weights_of_another_network_do_not_fit() -> None:
    torch.save(nn.Linear(5, 2).state_dict(), "other.pth")
    with pytest.raises(ModelUnreadable, match="does not fit"):
        described(builder_file("nets_for_hub:with_example", "other.pth"))


@pytest.mark.usefixtures("module_file")
def test_weights_that_are_a_pickle_are_refused() -> None:
    torch.save({"weight": Trap()}, "bad.pth")
    with pytest.raises(ModelRefused, match="more than tensors"):
        described(builder_file("nets_for_hub:with_example", "bad.pth"))


def test_buffers_that_change_block_the_conversion_and_are_reset_between_runs() -> None:
    program = torch.export.export(Counter().eval(), (torch.zeros(2, 3),))
    torch.export.save(program, "model.pt2")
    summary = described("model.pt2")
    assert [(item.code, item.kind == "blocker") for item in summary.findings] == [("hidden-state", True)]
    assert not EDGES[0].check(summary, ConvertOptions())
    session = opened("model.pt2", summary)
    feeds = {"x": np.ones((2, 3), np.float32)}
    for _ in range(2):
        assert np.array_equal(session.run(feeds)["output"], np.full((2, 3), 3, np.float32))


def test_training_mode_blocks_the_conversion() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3),)), "model.pt2")
    assert [item.code for item in described("model.pt2").findings] == ["training-mode"]


def test_numerics_are_what_the_file_holds() -> None:
    program = torch.export.export(nn.Linear(3, 2).half().eval(), (torch.zeros(1, 3).half(),))
    torch.export.save(program, "model.pt2")
    assert described("model.pt2").state.numerics == Numerics.FP16


def test_a_script_with_hidden_state_points_to_a_part_without() -> None:
    summary = described(scripted(CountingScript()))
    (finding,) = [item for item in summary.findings if item.kind == "blocker"]
    assert "total" in finding.text
    assert "--submodule inner" in finding.hint
    inner = described("model.jit", submodule="inner", shapes={"input": (1, 3)})
    assert not inner.findings
    assert inner.state == State(format="pytorch", form="torchscript")


def test_a_script_without_such_a_submodule_lists_what_it_has() -> None:
    with pytest.raises(ModelNotFound) as caught:
        described(scripted(CountingScript()), submodule="outer")
    assert "inner" in caught.value.hint


def test_a_branch_on_values_in_a_script_is_refused_instead_of_baked_in() -> None:
    path = scripted(Branch())
    options = ConvertOptions(shapes={"x": (2, 3)})
    with pytest.raises(UnsupportedModel, match="depends on the values"):
        exported(path, described(path, shapes=options.shapes), "pytorch.export-torchscript", options)


def test_a_number_among_the_inputs_must_be_frozen() -> None:
    path = scripted(Scaled())
    summary = described(path, shapes={"x": (2, 3)})
    assert [str(spec) for spec in summary.signature.inputs] == ["x: float32[2x3]", "factor: int64[]"]
    feeds = {"x": np.ones((2, 3), np.float32), "factor": np.array(3)}
    assert opened(path, summary).run(feeds)["output"].max() == 3
    with pytest.raises(UnsupportedModel) as caught:
        exported(path, summary, "pytorch.export-torchscript", ConvertOptions(shapes={"x": (2, 3)}))
    assert "--constant factor=" in caught.value.hint
    options = ConvertOptions(shapes={"x": (2, 3)}, constants={"factor": 3})
    result = exported(path, summary, "pytorch.export-torchscript", options)
    assert opened(result, described(result)).run({"x": feeds["x"]})["output"].max() == 3


def test_a_live_module_keeps_its_mode() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train()
    path = hub_save_live_model(module, Path(), (torch.zeros(1, 3),))
    assert path is not None
    assert module.training
    assert not described(str(path)).findings
    assert hub_save_live_model(object(), Path(), None) is None


def test_expectations_name_edges_that_exist() -> None:
    import hub_pytorch

    text = (Path(hub_pytorch.__file__).parent / "expectations.toml").read_text()
    declared = parse_expectations(text)
    assert declared
    assert {item.edge for item in declared} <= {edge.id for edge in EDGES}


def test_nothing_warns_about_torchscript_on_loading() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script
        path = scripted(nn.Linear(3, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert described(path, shapes={"input": (1, 3)}).parameters == 8


def rewritten(path: str, change: dict[str, bytes]) -> str:
    """A copy of a zip file with members replaced or added, by the end of their name."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile("changed.pt2", "w") as new:
        for info in old.infolist():
            found = [content for name, content in change.items() if info.filename.endswith(name)]
            new.writestr(info.filename, found[0] if found else old.read(info))
        root = old.namelist()[0].partition("/")[0]
        for name, content in change.items():
            if not any(item.endswith(name) for item in old.namelist()):
                new.writestr(f"{root}/{name}", content)
    return "changed.pt2"


def saved_trap() -> bytes:
    buffer = io.BytesIO()
    torch.save(Trap(), buffer)
    return buffer.getvalue()


def with_config(kind: str, name: str, entry: dict[str, Any]) -> dict[str, bytes]:
    return {f"data/{kind}/model_{kind}_config.json": json.dumps({"config": {name: entry}}).encode()}


@pytest.mark.parametrize("place", ["sample inputs", "weights", "opaque", "graph", "native"])
def test_code_in_an_exported_program_is_refused_and_not_run(place: str) -> None:
    hub_save_live_model(nn.Linear(3, 2).eval(), Path(), (torch.zeros(1, 3),))
    graph = zipfile.ZipFile("model.pt2").read("model/models/model.json")
    change = {
        "sample inputs": {"sample_inputs/model.pt": saved_trap()},
        "weights": {"data/weights/weight_0": saved_trap()}
        | with_config("weights", "weight", {"path_name": "weight_0", "is_param": True, "use_pickle": True}),
        "opaque": {"data/constants/opaque_obj_0": pickle.dumps(Trap())}
        | with_config("constants", "c", {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}),
        "graph": {"models/model.json": graph.replace(b"torch.ops.aten.linear.default", b"torch.hub.load")},
        "native": {"data/aotinductor/model/model.so": b"\x7fELF"},
    }[place]
    with pytest.raises(ModelRefused, match="would execute what it holds"):
        described(rewritten("model.pt2", change))


def test_a_plain_exported_program_holds_no_code() -> None:
    hub_save_live_model(Counter().eval(), Path(), (torch.zeros(1, 3),))
    assert described("model.pt2").parameters == 3
