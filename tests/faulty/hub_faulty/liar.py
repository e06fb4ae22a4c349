"""A format whose files say themselves what their reader is to claim, and runtimes that are wrong in one way each."""

from pathlib import Path

import msgspec
import numpy as np

from hub.spec import (
    DescribeJob,
    Dim,
    Execution,
    Format,
    ModelArtifact,
    ModelSummary,
    Numerics,
    Runtime,
    RuntimeOptions,
    State,
)
from hub_toy.files import Array, ToyModel, _decode_binary, read, write_binary
from hub_toy.formats import ToyBinFormat
from hub_toy.runtime import ToyRuntime, ToySession

TWO_FORMATS = {b"LIAR": "liar", b"OATH": "oath"}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What a file claims of the first dimension of its inputs, and up to which size it computes what it should."""

    batch: Dim
    works_up_to: int = 1 << 30


def write_liar(path: Path, model: ToyModel, claim: Claim) -> None:
    """Write the claim before a binary toy model."""
    write_binary(path, model)
    magic = path.suffix[1:].upper().encode()
    path.write_bytes(magic + msgspec.json.encode(claim) + b"\n" + path.read_bytes())


def read_liar(path: Path) -> tuple[ToyModel, Claim]:
    """Read it again."""
    head, _, rest = path.read_bytes().partition(b"\n")
    return _decode_binary(rest), msgspec.json.decode(head[4:], type=Claim)


class LiarFormat(Format):
    """Says of the first dimension what the file claims."""

    name = "liar"
    suffixes = (".liar",)
    numerics = (Numerics.FP32,)
    process = "faulty"

    def describe(self, job: DescribeJob) -> ModelSummary:
        model, claim = read_liar(job.file)
        write_binary(inner := job.file.with_suffix(".inner"), model)
        try:
            said = ToyBinFormat().describe(DescribeJob(path=str(inner)))
        finally:
            inner.unlink()
        inputs = tuple(
            msgspec.structs.replace(spec, shape=(claim.batch, *spec.shape[1:])) for spec in said.signature.inputs
        )
        return msgspec.structs.replace(
            said,
            state=State(format=self.name, numerics=Numerics.FP32),
            signature=msgspec.structs.replace(said.signature, inputs=inputs),
            files=(str(job.file.absolute()),),
            size_bytes=job.file.stat().st_size,
        )


class OathFormat(LiarFormat):
    """The same, so that a step leads from one to the other."""

    name = "oath"
    suffixes = (".oath",)


class LimitedSession(ToySession):
    """Computes the first rows of a batch and leaves the others zero."""

    limit = 1 << 30

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        given = super().run(feeds)
        for array in given.values():
            array[self.limit :] = 0
        return given


class LiarRuntime(ToyRuntime):
    """Runs the format."""

    name = "liars"
    formats = ("liar", "oath")
    process = "faulty"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ToySession:
        del options
        model, claim = read_liar(Path(artifact.path))
        session = LimitedSession(model)
        session.limit = claim.works_up_to
        return session


class OnesSession(ToySession):
    """Answers ones."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return {name: np.ones_like(array) for name, array in super().run(feeds).items()}


class OnesRuntime(ToyRuntime):
    """Its name comes before all others."""

    name = "aaa"
    process = "faulty"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ToySession:
        del options
        return OnesSession(read(Path(artifact.path)))


class HalfSession(ToySession):
    """Stores what goes in as float16, as a mobile runtime does for speed."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return super().run({name: array.astype(np.float16).astype(np.float32) for name, array in feeds.items()})


class HalfRuntime(ToyRuntime):
    """Computes in half whatever precision is asked for."""

    name = "halves"
    process = "faulty"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ToySession:
        del options
        return HalfSession(read(Path(artifact.path)))


class MuteSession:
    """Cannot say how it executes a model; left to itself, it clips."""

    def __init__(self, model: ToyModel, *, clips: bool) -> None:
        self._session = ToySession(model)
        self._clips = clips

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        given = self._session.run(feeds)
        return {name: np.minimum(array, 0.4) for name, array in given.items()} if self._clips else given

    def close(self) -> None:
        """Nothing to release."""


class MuteRuntime(Runtime):
    """Has nothing beyond the contract's least."""

    name = "mute"
    formats = ("toybin",)
    process = "faulty"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> MuteSession:
        return MuteSession(read(Path(artifact.path)), clips=options.precision == "auto")


class WideSession(ToySession):
    """Gives float64, whatever the file says."""

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return {name: array.astype(np.float64) for name, array in super().run(feeds).items()}


class WideRuntime(ToyRuntime):
    """Runs in double precision."""

    name = "wide"
    process = "faulty"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ToySession:
        del options
        return WideSession(read(Path(artifact.path)))


class BoastingSession(ToySession):
    """Says that it runs what is not in the file, in integers, on a device that nobody asked for."""

    def execution(self, feeds: dict[str, Array]) -> Execution:
        said = super().execution(feeds)
        layers = (
            msgspec.structs.replace(layer, precision="int8", device="gpu", covers=("winograd",))
            for layer in said.layers
        )
        return msgspec.structs.replace(said, layers=tuple(layers))


class BoastingRuntime(ToyRuntime):
    """Computes what it should."""

    name = "boasting"
    process = "faulty"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ToySession:
        del options
        return BoastingSession(read(Path(artifact.path)))


class DeafRuntime(ToyRuntime):
    """Runs on the CPU in float32, whatever is asked for."""

    name = "deaf"
    process = "faulty"

    def open(self, artifact: ModelArtifact, options: RuntimeOptions) -> ToySession:
        del options
        return ToySession(read(Path(artifact.path)))
