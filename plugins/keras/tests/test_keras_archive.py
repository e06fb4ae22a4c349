from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest

from hub.spec import ModelRefused, ModelUnreadable, UnsupportedModel
from hub_keras.archive import code_layers, custom_objects, read_archive, refuse_code
from hub_keras.plugin import hub_identify_format

DENSE = {
    "module": "keras.layers",
    "class_name": "Dense",
    "config": {"name": "dense", "units": 2, "kernel_initializer": {"module": "keras.initializers",
               "class_name": "Zeros", "config": {}, "registered_name": None}},
    "registered_name": None,
}  # fmt: skip
LAMBDA = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {"name": "half", "function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}},
    "registered_name": None,
}
CUSTOM = {"module": "shop.layers", "class_name": "Wavelet", "config": {"name": "w"}, "registered_name": "shop>Wavelet"}


def _sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "s", "layers": list(layers)},
        "registered_name": None,
    }


def _zip(path: Path, config: Any) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1", "date_saved": "x"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", b"")
    return path


def _hdf5(path: Path, config: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.0.5"
    return path


def _identify(path: Path) -> Any:
    return hub_identify_format(path=path, header=path.read_bytes()[:65536] if path.is_file() else b"")


@pytest.mark.parametrize("write", [_zip, _hdf5])
def test_lambda_is_refused_before_keras_sees_the_file(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "model.keras", _sequential(DENSE, LAMBDA))
    with pytest.raises(ModelRefused, match=r"Lambda \(half\)") as caught:
        refuse_code(read_archive(path), path, allow_pickle=False)
    assert "--allow-pickle" in caught.value.hint
    refuse_code(read_archive(path), path, allow_pickle=True)


def test_lambda_is_found_inside_wrappers_and_nested_models() -> None:
    wrapped = {"module": "keras.layers", "class_name": "TimeDistributed", "config": {"name": "t", "layer": LAMBDA}}
    assert code_layers(_sequential(_sequential(wrapped)))[0] == "Lambda (half)"


def test_custom_class_is_named(tmp_path: Path) -> None:
    path = _zip(tmp_path / "model.keras", _sequential(DENSE, CUSTOM))
    with pytest.raises(UnsupportedModel, match="shop>Wavelet") as caught:
        refuse_code(read_archive(path), path, allow_pickle=False)
    assert "export" in caught.value.hint


def test_custom_function_is_named() -> None:
    function = {"module": "builtins", "class_name": "function", "config": "my_relu", "registered_name": "function"}
    layer = {**DENSE, "config": {"name": "dense", "activation": function}}
    assert custom_objects(_sequential(layer)) == ("my_relu",)


def test_built_in_layers_are_no_custom_objects() -> None:
    assert not custom_objects(_sequential(DENSE))
    assert not code_layers(_sequential(DENSE))


def test_identifies_by_bytes_and_not_by_name(tmp_path: Path) -> None:
    assert _identify(_zip(tmp_path / "a.bin", _sequential(DENSE))).format == "keras"
    assert _identify(_hdf5(tmp_path / "b.bin", _sequential(DENSE))).detail == "HDF5"
    other = tmp_path / "c.keras"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("data.pkl", b"")
    assert _identify(other) is None


def test_identifies_a_savedmodel_folder(tmp_path: Path) -> None:
    assert _identify(tmp_path) is None
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    assert _identify(tmp_path).form == "savedmodel"


@pytest.mark.parametrize("content", [b"PK\x03\x04rest", b"\x89HDF\r\n\x1a\ncut", b"noise" * 100])
def test_broken_files_are_unreadable(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable):
        read_archive(path)


def test_truncated_files_are_unreadable(tmp_path: Path) -> None:
    for write, name in ((_zip, "a.keras"), (_hdf5, "b.h5")):
        path = write(tmp_path / name, _sequential(DENSE))
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(ModelUnreadable):
            read_archive(path)


def test_weights_without_architecture(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["kernel"] = [1.0]
    with pytest.raises(ModelUnreadable, match="without an architecture"):
        read_archive(tmp_path / "w.h5")


def test_configuration_of_the_wrong_kind(tmp_path: Path) -> None:
    with pytest.raises(ModelUnreadable, match="names no model class"):
        read_archive(_zip(tmp_path / "a.keras", ["no", "mapping"]))


def test_plugin_imports_no_framework() -> None:
    code = "import hub_keras.plugin, sys; print(sorted({'tensorflow', 'keras', 'torch', 'h5py'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
