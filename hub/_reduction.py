"""The smallest part of a model that still fails, cut out beside the float layers that it does the work of."""

import contextlib
import io
import math
import runpy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from hub._causes import paired_constants
from hub._grids import grid_along, real_numbers
from hub._insides import SOUND_DB, InsideComparison, ShownModel, TensorPair, is_real
from hub._matching import INPUT
from hub._tally import decibels
from hub.spec import CutsOut, Feeds, InnerLayer, LayerDiff, Numerics, Read, ReducedCase, UnsupportedModel

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]
    Reals = npt.NDArray[np.float64]

MOST_TRIED = 8
"""Layers that are cut out in turn until one fails."""

MARGIN = 4.0
"""Times the noise that rounding alone leaves, which is none to report: kernels round more than once."""

_SCRIPT = '''"""Part A against part B on one sample: see README.md. Exits with 1 while they differ beyond rounding."""

import math
import sys
from pathlib import Path

import numpy as np

A, B = {files}
A_INPUTS, B_INPUTS = {inputs}  # in feed.npz: a0, a1, ... and b0, b1, ...
B_AXES, SHAPE = {axes}, {shape}  # B's result as A lays it out, without axes of size 1
LEAST_DB = {least}  # what rounding to B's grids leaves, less a margin


{functions}

def compare():
    here = Path(__file__).resolve().parent
    feed = np.load(here / "feed.npz")
    a = run_a(str(here / A), {{name: feed[f"a{{place}}"] for place, name in enumerate(A_INPUTS)}}).astype(np.float64)
    b = run_b(str(here / B), {{name: feed[f"b{{place}}"] for place, name in enumerate(B_INPUTS)}}).astype(np.float64)
    b = (b - feed["b_zero_point"]) * feed["b_scale"]
    b = b.reshape([size for size in b.shape if size > 1]).transpose(B_AXES).reshape(SHAPE)
    signal, noise = float(np.square(a).sum()), float(np.square(b - a).sum())
    print("A:", a, "B:", b, sep="\\n")
    ratio = signal / noise if noise else math.inf
    sqnr = 10 * math.log10(ratio) if ratio > 0 else -math.inf
    print(f"largest difference {{np.abs(b - a).max():.6g}}, SQNR {{sqnr:.2f}} dB, rounding leaves {{LEAST_DB:.2f}} dB")
    return 0 if sqnr >= LEAST_DB else 1  # NaN is less


if __name__ == "__main__":
    sys.exit(compare())
'''


class CaseSearch(InsideComparison):
    """Looks for a layer that fails by itself, also where it is cut out."""

    def find(self, into: Path) -> ReducedCase:
        """Write the first layer that diverges, and still fails when it is cut out, into an empty folder.

        Raises:
            UnsupportedModel: One of the formats shows no layers, or cannot be cut up.
        """
        found = self.report()
        if found.lack:
            raise UnsupportedModel(found.lack)
        for side in (self.one, self.other):
            if not isinstance(side.reader, CutsOut):
                raise UnsupportedModel(f"the plugin that reads {side.artifact.state.format} does not cut models up")
        diverging = [layer for layer in found.layers if layer.diverges]
        if not diverging:
            lack = "no layer is off by more than its precision explains: what differs adds up over the layers"
            return ReducedCase(lack=lack)
        tried = [item for item in diverging if item.local_db is not None and item.other_operator != INPUT][:MOST_TRIED]
        for layer in tried:
            case = self.cut_out(layer, into)
            if case:
                return case
            for file in into.iterdir():
                file.unlink()
        names = ", ".join(layer.layer for layer in diverging[:MOST_TRIED])
        why = "fails by more than rounding when it is cut out and run on the sample with the largest error"
        said = "; ".join(cause.text for cause in diverging[0].causes)
        return ReducedCase(lack=f"of the layers that diverge ({names}) none {why}. Of the first: {said}")

    def cut_out(self, layer: LayerDiff, into: Path) -> ReducedCase | None:
        """Cut a layer out, and run the script; None where that shows no failure."""
        pair = self.pairs[layer.other_tensor]
        sample = self._worst_sample(pair)
        part, tensors = self._part(pair.other.layer, 1), self.other.inside.tensors
        made = {name for item in part for name in item.outputs}
        moving = dict.fromkeys(name for item in part for name in item.inputs if name and not tensors[name].constant)
        reads = [name for name in moving if name not in made]
        fed, own = list(self._fed(pair)), self.feeds[sample]
        given = next(self.other.stored([*reads, *(name for _, name, _ in fed if name), pair.other.tensor], [own[1]]))
        found = {name: real_numbers(array, tensors[name]) for name, array in given.items()}
        feeds = self._laid_out(fed, own[0], found)
        least = self._least_db(pair, feeds, [read for read, _, _ in fed])
        if least <= 0:  # rounding leaves nothing of this sample
            return None
        with tempfile.TemporaryDirectory(prefix="hub-cut-") as one, tempfile.TemporaryDirectory() as other:
            reads_of_one = [read for read, _, _ in fed]
            path = Path(self.one.artifact.path)
            files = [self.one.reader.cut(path, Path(one), [pair.one.tensor], reads_of_one, {})]
            if not isinstance(self.other.reader, CutsOut):
                return None
            arrays = {name: given[name] for name in reads}
            files.append(self.other.reader.part(Path(self.other.artifact.path), Path(other), arrays, pair.other.tensor))
            for letter, file in zip("ab", files, strict=True):
                for beside in file.parent.iterdir():
                    (into / f"{letter}{beside.suffix}").write_bytes(beside.read_bytes())
        stored, tensor = given[pair.other.tensor], tensors[pair.other.tensor]
        on_grid = tensor.quant is not None and stored.dtype.kind != "f"
        scale, zero_point = grid_along(tensor, stored.ndim) if on_grid else (np.ones(()), np.zeros(()))
        keys = {f"a{place}": array for place, array in enumerate(feeds.values())}
        keys |= {f"b{place}": array for place, array in enumerate(arrays.values())}
        np.savez(into / "feed.npz", **keys, b_scale=scale, b_zero_point=zero_point)  # type: ignore[arg-type]
        text = _SCRIPT.format(
            files=(f"a{files[0].suffix}", f"b{files[1].suffix}"),
            inputs=([*feeds], [*arrays]),
            axes=tuple(map(int, pair.order.order)),
            shape=tuple(map(int, pair.order.shape)),
            least=round(least, 2),
            functions=self._functions(),
        )
        (into / "repro.py").write_text(text, encoding="utf-8")
        return self._proved(layer, pair, into, sample, least, part)

    def _functions(self) -> str:
        readers = [side.reader for side in (self.one, self.other)]
        own = [reader.script for reader in readers if isinstance(reader, CutsOut)]
        first = own[0].replace("def run(", "def run_a(", 1)
        second = "run_b = run_a\n" if own[0] == own[1] else own[1].replace("def run(", "def run_b(", 1)
        return f"{first}\n\n{second}"

    def _worst_sample(self, pair: TensorPair) -> int:
        worst, largest = 0, -1.0
        for place, (_, wanted, found) in enumerate(self._runs([pair])):
            noise = float(np.square(pair.order.laid_out(found[pair.other.tensor]) - wanted[pair.one.tensor]).sum())
            noise = noise if math.isfinite(noise) else math.inf
            if noise > largest:
                worst, largest = place, noise
        return worst

    def _least_db(self, pair: TensorPair, feeds: Feeds, reads: Sequence[Read]) -> float:
        """SQNR that a sound layer has: A's part with its constants and its result rounded to B's grids."""
        wanted = self._run_cut(pair, feeds, reads, {})
        rounded = self._run_cut(pair, feeds, reads, self._rounded(pair))
        tensor = self.other.inside.tensors[pair.other.tensor]
        grid = grid_along(tensor, len(pair.other.shape)) if tensor.quant else None
        if grid:
            scale = pair.order.laid_out(np.broadcast_to(grid[0], pair.other.shape))
            rounded = np.rint(rounded / scale) * scale
            allowed = float(np.square(self.bounds.rms_steps * np.broadcast_to(scale, wanted.shape)).sum())
        else:
            allowed = 0.0
        allowed = max(allowed, MARGIN * float(np.square(rounded - wanted).sum()))
        bound = min(decibels(float(np.square(wanted).sum()), allowed), SOUND_DB[Numerics.FP32], self.bounds.sqnr_min_db)
        if self.other.artifact.state.numerics in SOUND_DB:
            bound = min(bound, self.sound_db)
        return bound

    def _run_cut(
        self, pair: TensorPair, feeds: Feeds, reads: Sequence[Read], constants: Mapping[Read, "Array"]
    ) -> "Reals":
        model: ShownModel = self.one
        with tempfile.TemporaryDirectory(prefix="hub-cut-") as folder:
            path = Path(model.artifact.path)
            file = model.reader.cut(path, Path(folder), [pair.one.tensor], reads, constants)
            opened = model.runtime.open(msgspec.structs.replace(model.artifact, path=str(file)), model.options)
            with contextlib.closing(opened) as session:
                return session.run(feeds)[pair.one.tensor].astype(np.float64)

    def _rounded(self, pair: TensorPair) -> "dict[Read, Array]":
        """A's constants as B's grids keep them."""
        names = [self._read_constants(layer, side) for side, layer in enumerate(pair.layers)]
        one, other = (
            side.reader.constants(Path(side.artifact.path), own)
            for side, own in zip((self.one, self.other), names, strict=True)
        )
        kept = {}
        for name, own, order in paired_constants(one, other, kind="" if self.same_format else pair.other.kind):
            if other[own].step.all():
                values = one[name].values
                step = order.laid_out(np.broadcast_to(other[own].step, other[own].values.shape))
                kept[name] = np.rint(values / step) * step
        return {
            Read(layer.outputs[0], slot): kept[name]
            for layer in self._part(pair.one.layer, 0)
            for slot, name in enumerate(layer.inputs)
            if name in kept and is_real(self.one.inside.tensors[name])
        }

    def _proved(
        self, layer: LayerDiff, pair: TensorPair, into: Path, sample: int, least: float, part: Sequence[InnerLayer]
    ) -> ReducedCase | None:
        """Run the script as its reader will; None where it finds nothing wrong."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            fails = runpy.run_path(str(into / "repro.py"))["compare"]()
        if not fails:
            return None
        words = said.getvalue().splitlines()[-1].split()
        return ReducedCase(
            layer=layer,
            parts=(tuple(item.name for item in self._part(pair.one.layer, 0)), tuple(item.name for item in part)),
            sample=sample,
            sqnr_db=float(words[4]),
            least_db=round(least, 2),
            max_abs=float(words[2].rstrip(",")),
        )
