"""Every attribute that the plugin uses exists, in TensorRT-RTX and in the bindings of TensorRT 10 and 11."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_tensorrt import build, logger, session
from hub_tensorrt.libraries import RTX
from tests.zoo.fetch import Package, pip_download

CLASSES = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
    "optimization": "IOptimizationProfile", "tensor": "ITensor", "error": "ParserError", "runtime": "Runtime",
    "_engine": "ICudaEngine", "_context": "IExecutionContext", "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig", "timing_cache": "ITimingCache", "kernels": "IRuntimeCache",
    "_kernels": "IRuntimeCache",
}  # fmt: skip
"""Names that the plugin's code gives the library's objects -> their classes."""

RTX_ALONE = {
    "ComputeCapability", "EngineValidity", "EngineInvalidityDiagnostics", "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability", "Runtime.get_engine_validity", "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.set_runtime_cache", "IRuntimeCache.deserialize", "IRuntimeCache.serialize",
    "IRuntimeConfig", "IRuntimeCache",
}  # fmt: skip
"""What is asked for only where it is there, or where a compute capability is told."""

WHEELS = (
    Package(
        name="tensorrt-cu12-bindings",
        version="10.16.1.11",
        wheel="tensorrt_cu12_bindings-10.16.1.11-cp311-none-manylinux_2_28_x86_64.whl",
        sha256="150ef2b672487e29a8ea916353467c3e199994fb33589167e3641a928e243aa7",
        files={},
        pip=("--platform=manylinux_2_28_x86_64", "--python-version=3.11"),
    ),
    Package(
        name="tensorrt-cu13-bindings",
        version="11.4.0.106",
        wheel="tensorrt_cu13_bindings-11.4.0.106-cp311-none-manylinux_2_28_x86_64.whl",
        sha256="d072ac2a095e2be749fefc847adfb25d5ebe70303401df62ede8fe67a59f27fc",
        files={},
        pip=("--platform=manylinux_2_28_x86_64", "--python-version=3.11"),
    ),
)
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip


def surface() -> set[str]:
    """Every attribute of the library that the plugin's code names."""
    return {name for module in (build, logger, session) for name in _used(Path(str(module.__file__)))}


def _used(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
        if owner in {"module", "_module"}:
            yield node.attr
        elif owner in CLASSES:
            yield f"{CLASSES[owner]}.{node.attr}"


PROBE = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
def there(name):
    item = module
    for part in name.split("."):
        if not hasattr(item, part):
            return False
        item = getattr(item, part)
    return True
print(json.dumps([name for name in json.load(sys.stdin) if not there(name)]))
"""


def missing(module: str, environment: dict[str, str] | None = None) -> set[str]:
    """Names of the surface that a module does not have, asked in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module],
        input=json.dumps(sorted(surface())),
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert not done.returncode, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_surface_is_read_off_the_code() -> None:
    assert {"Builder.build_serialized_network", "OnnxParser.parse_from_file", "BuilderFlag"} <= surface()
    assert {"IExecutionContext.execute_async_v3", "ICudaEngine.get_tensor_mode", "TensorIOMode"} <= surface()


@pytest.mark.skipif(not RTX.is_here, reason="the ahead-of-time builder is not installed")
def test_tensorrt_rtx_has_every_attribute() -> None:
    assert missing("tensorrt_rtx") == set()


@pytest.mark.skipif(not RTX.is_here, reason="the ahead-of-time builder is not installed")
def test_its_compute_capabilities_are_those_that_the_planner_knows() -> None:
    import tensorrt_rtx

    there = {int(name[2:]) for name in tensorrt_rtx.ComputeCapability.__members__ if name.startswith("SM")}
    assert there == set(RTX.capabilities)
    assert set(RTX.usual) <= there


@pytest.mark.scheduled
@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.version)
def test_the_bindings_of_tensorrt_have_every_attribute_but_those_of_rtx(wheel: Package, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if not compiler or sys.version_info[:2] != (3, 11):
        pytest.skip("the stand-ins for the library need a C compiler, and the wheels Python 3.11")
    pip_download(wheel, tmp_path)
    shutil.unpack_archive(tmp_path / wheel.wheel, tmp_path / "site", "zip")
    major = wheel.version.partition(".")[0]
    source = tmp_path / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = tmp_path / f"lib{name}.so.{major}"
        words = ["-shared", "-fPIC", "-o", str(library), f"-Wl,-soname,{library.name}"]
        subprocess.run([compiler, *words, str(source)], check=True)
    environment = {"PYTHONPATH": str(tmp_path / "site"), "LD_LIBRARY_PATH": str(tmp_path)}
    assert missing("tensorrt_bindings", environment) <= RTX_ALONE
