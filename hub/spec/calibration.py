"""Calibration samples as files: one .npz per sample, arrays by input name, shaped as the model takes them."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Feeds: TypeAlias = "dict[str, npt.NDArray[np.generic]]"
"""Arrays by the name of the input or output. A word at run time: the contract imports no numpy."""


@runtime_checkable
class CalibrationSource(Protocol):
    """Real inputs: sized, re-iterable, always in the same order, with a fingerprint of their content."""

    @property
    def fingerprint(self) -> str:
        """sha256 over names, dtypes, shapes and bytes of all samples."""

    def __len__(self) -> int: ...

    def __iter__(self) -> "Iterator[Feeds]": ...


class SampleFolder:
    """The samples in a folder, in name order, read one at a time.

    The core has checked names, shapes, dtypes and values against the *source* model before a step sees them.
    """

    def __init__(self, folder: str | Path) -> None:
        self.files = sorted(Path(folder).glob("*.npz"))

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> "Iterator[Feeds]":
        import numpy as np

        for file in self.files:
            with np.load(file, allow_pickle=False) as arrays:
                yield {name: arrays[name] for name in arrays.files}


def write_sample(folder: str | Path, index: int, arrays: "Feeds") -> None:
    """Write one sample as `00000012.npz`. Unlike `numpy.savez` it takes arrays of any name, `file` too."""
    import numpy as np

    Path(folder).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(Path(folder) / f"{index:08d}.npz", "w", allowZip64=True) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
