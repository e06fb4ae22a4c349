"""Runs written sources in a process that has torch and safetensors and no hub: `python -S source_judge.py SITE FOLDER`.

For each `NAME.py` of the folder with a `NAME.npz` of inputs and wanted outputs (`SIZE/in/INPUT`, `SIZE/out/OUTPUT`), in
the order of the source's tables: does it compute the same, does training lower a loss, does torch.export keep its open
dimensions? Prints one JSON object.
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

Errors = dict[str, Any]


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem.replace(" ", "_"), path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs(path: Path) -> dict[str, tuple[list[Any], list[Any]]]:
    """Size -> inputs and wanted outputs."""
    import numpy as np
    import torch

    found: dict[str, tuple[list[Any], list[Any]]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            size, side, _ = key.split("/", 2)
            found.setdefault(size, ([], []))[side == "out"].append(torch.from_numpy(arrays[key]))
    return found


def outputs(network: Any, inputs: list[Any]) -> tuple[Any, ...]:
    given = network(*inputs)
    return given if isinstance(given, tuple) else (given,)


def error(network: Any, inputs: list[Any], wanted: list[Any]) -> float:
    """The largest error relative to the largest value of an output, or to 0.01 where all are smaller."""
    given = outputs(network, inputs)
    assert [(a.shape, a.dtype) for a in given] == [(b.shape, b.dtype) for b in wanted]
    scales = [max(float(b.double().abs().max()), 0.01) for b in wanted]
    return max(float((a.double() - b.double()).abs().max()) / s for a, b, s in zip(given, wanted, scales, strict=True))


def losses(network: Any, inputs: list[Any], steps: int = 4) -> list[float]:
    """The distance of the outputs from zero, before each of some steps against it in training mode."""
    import torch

    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)  # a saturated network has gradients of 1e-6
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(item.double().square().mean() for item in outputs(network, inputs))
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def exported(module: Any, sizes: dict[str, tuple[list[Any], list[Any]]]) -> float | None:
    """The worst error, at all sizes, of a program that was exported with its open dimensions open.

    None where the program refuses a size by a guard: torch.export takes no size inside of the network to be 1.

    It is exported at the sizes that the file gives: torch.export fixes a dimension whose example has size 1.
    """
    import torch

    known = getattr(module, "SIZES", {})
    inputs = tuple(
        torch.zeros([known.get(size, size) for size in row], dtype=getattr(torch, dtype))
        for _, dtype, row in module.INPUTS
    )
    shapes = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(row) if isinstance(size, str)}
        for _, _, row in module.INPUTS
    )
    program = torch.export.export(module.build(), inputs, dynamic_shapes=shapes).module()
    try:
        return max(error(program, given, wanted) for given, wanted in sizes.values())
    except AssertionError as stopped:
        if "Guard failed" not in str(stopped):
            raise
        return None


def judged(path: Path) -> Errors:
    import torch

    module, sizes = load(path), runs(path.with_suffix(".npz"))
    network = module.build()
    with torch.no_grad():
        errors = {size: error(network, inputs, wanted) for size, (inputs, wanted) in sizes.items()}
        program = exported(module, sizes)
    inputs = next(iter(sizes.values()))[0]
    return {"errors": errors, "exported": program, "losses": losses(network, inputs)}


def main(site: str, folder: str) -> None:
    sys.path.append(site)
    assert importlib.util.find_spec("torch")
    assert importlib.util.find_spec("hub") is None, "hub is on the path: nothing would be shown"
    import torch

    torch.manual_seed(0)
    paths = sorted(path for path in Path(folder).glob("*.py") if path.with_suffix(".npz").exists())
    sys.stdout.write(json.dumps({path.stem: judged(path) for path in paths}))


if __name__ == "__main__":
    main(*sys.argv[1:])
