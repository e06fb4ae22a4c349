"""ONNX Runtime's own optimization, done once and saved: as `.onnx` with its operators, or as `.ort`.

Transformer fusions come first (`hub_onnxruntime.fusions`), then ONNX Runtime's offline optimization. Its level is
*extended*: the next one lays tensors out for the processor that it runs on (NCHWc blocks of 8 or 16 channels), and such
a file is wrong elsewhere. For an `.onnx` file ONNX Runtime does that part when it opens it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hub.spec import (
    ANY,
    KEEP,
    YES,
    Accepts,
    ConvertJob,
    ConvertOptions,
    Edge,
    Gives,
    ModelSummary,
    Numerics,
    Remark,
    StepError,
    StepOutput,
    Support,
    Verdict,
)
from hub_onnxgraph.graphs import all_nodes, name_nodes
from hub_onnxgraph.numerics import operator_key
from hub_onnxquant.runtime_options import OPTIMIZED_DATA, exact_setting, runtime_failures, session_options
from hub_onnxruntime import large, unpack
from hub_onnxruntime.files import external_files, load, load_structure, save
from hub_onnxruntime.fusions import SPOILERS, fuse, looks_like_a_transformer
from hub_onnxruntime.large import size_on_disk
from hub_onnxruntime.operators import ONNXRUNTIME, ORT_FORM, RUNTIME_FORM, is_runtime_operator
from hub_onnxruntime.ort_file import load_ort
from hub_onnxruntime.rewrites import rewritten

if TYPE_CHECKING:
    import onnx

_REQUIRES = (ONNXRUNTIME, "onnx>=1.17")
_FLATBUFFER_BYTES = 2**31 - 1  # offsets of a flatbuffer are signed 32-bit
_INSERTED_CAST = "InsertedPrecisionFreeCast_"  # how ONNX Runtime names the casts it puts around float16 operators


def takes_runnable(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses what ONNX Runtime cannot open, and shapes that are to be fixed first."""
    for finding in summary.findings:
        if finding.kind == "blocker" or finding.code == "no-kernel":
            return Verdict(support=Support.NEVER, reason=finding.text, hint=finding.hint)
    foreign = [name for name in summary.custom_operators if not is_runtime_operator(name)]
    if foreign:
        return Verdict(support=Support.NEVER, reason=f"ONNX Runtime has no operator {', '.join(foreign)}")
    asked = [spec.name for spec in summary.signature.inputs if not spec.is_static and spec.name in options.shapes]
    if asked:
        return Verdict(support=Support.NOTIMPL, reason=f"onnx.prepare fixes shapes: {', '.join(asked)}")
    return YES


def takes_small(summary: ModelSummary, options: ConvertOptions) -> Verdict:
    """Refuses also an `.ort` file of 2 GiB."""
    if summary.size_bytes > _FLATBUFFER_BYTES:
        return Verdict(
            support=Support.NEVER,
            reason=f"the model takes {summary.size_bytes} bytes, one .ort file holds {_FLATBUFFER_BYTES}",
            hint=_NOT_ORT,
        )
    return takes_runnable(summary, options)


def _optimize(job: ConvertJob) -> StepOutput:
    notes = optimize(Path(job.source.path), Path(job.output), Path(job.scratch), job.target.form, job.options.seed)
    return StepOutput(notes=tuple(notes))


_ANY_ONNX = Accepts(format="onnx", numerics=ANY)
_OPTIMIZE = Edge(
    id="onnxruntime.optimize",
    accepts=(_ANY_ONNX,),
    gives=Gives(format="onnx", form=RUNTIME_FORM, numerics=KEEP),
    convert=_optimize,
    check=takes_runnable,
    requires=_REQUIRES,
    keeps_dynamic=True,
    process="onnx",
    cost=0.5,
    title="ONNX Runtime's optimization",
    formerly=(
        *(f"onnxruntime.optimize-{numerics.value}" for numerics in Numerics),
        "onnxruntime.optimize-fp32-static",
        "onnxruntime.optimize-fp32-prepared",
    ),
)
OPTIMIZING = (
    _OPTIMIZE,
    msgspec.structs.replace(
        _OPTIMIZE,
        id="onnxruntime.ort",
        accepts=(_ANY_ONNX, Accepts(format="onnx", form=RUNTIME_FORM, numerics=ANY)),
        gives=Gives(format="onnx", form=ORT_FORM, numerics=KEEP),
        check=takes_small,
        cost=0.3,  # in one step before in two: another engine's graph is due before an optimized .onnx on the way
        title="ONNX Runtime's optimization, .ort",
        formerly=(
            *(f"onnxruntime.ort-{numerics.value}" for numerics in Numerics),
            *(f"onnxruntime.ort-{numerics.value}-onnxruntime" for numerics in Numerics),
            "onnxruntime.ort-fp32-static",
            "onnxruntime.ort-fp32-prepared",
        ),
    ),
)
"""From every form of ONNX to the two that are ONNX Runtime's own, and from one of these to the other."""

_NOT_ORT = "Write .onnx: its weights go to a file beside it."


def save_optimized(
    source: Path, target: Path, *, level: str, disabled: Sequence[str] = (), data: str = "", ort: bool = False
) -> None:
    """Has ONNX Runtime optimize a model and save it.

    Args:
        source: The `.onnx` file, external data beside it.
        target: The file to write.
        level: One of `hub_onnxquant.runtime_options.VARIANTS`.
        disabled: ONNX Runtime's names of optimizers to leave out.
        data: Name of a file for the weights, beside `target`; empty to keep them in it.
        ort: Whether to write an `.ort` file.

    Raises:
        StepError: ONNX Runtime refuses the model or cannot save it.
    """
    import onnxruntime as ort_module

    options = session_options(level, 0, exact=exact_setting(source))
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.disable_prepacking", "1")  # a copy of the weights that nobody runs with
    if ort:
        options.add_session_config_entry("session.save_model_format", "ORT")
    if data:
        options.add_session_config_entry(OPTIMIZED_DATA, data)
    without = {"disabled_optimizers": list(disabled)} if disabled else {}
    try:
        ort_module.InferenceSession(str(source), options, providers=["CPUExecutionProvider"], **without)
    except runtime_failures() as error:
        message = f"ONNX Runtime {ort_module.__version__} cannot optimize {source.name}: {error}"
        raise StepError(message, hint="`hub inspect` names operators and versions that a runtime may lack.") from error
    if not target.exists():
        raise StepError(f"ONNX Runtime {ort_module.__version__} saved nothing of {source.name}", hint="See the log.")


def optimize(source: Path, target: Path, scratch: Path, form: str, seed: int = 0) -> list[Remark]:
    """Writes the optimized form of a model; names, order and open dims of its inputs and outputs stay.

    Args:
        source: The `.onnx` file, external data beside it. It is only read.
        target: The file to write; weights of a large model go to `<target>.data`.
        scratch: A folder for intermediate files.
        form: `onnxruntime` or `ort`.
        seed: For the random inputs on which fusions are compared with the graph before them.

    Returns:
        Notes.

    Raises:
        HubError: The model cannot be read, ONNX Runtime refuses it, or it is too large for an `.ort` file.
    """
    before = load_structure(source)
    large_model = size_on_disk(source, external_files(before, source.parent)) >= large.LARGE_BYTES
    path, notes = (source, [_LARGE]) if large_model else _fused(source, scratch, seed)
    if form == ORT_FORM:
        save_optimized(path, target, level="extended", ort=True)
        after = load_ort(target)
        return [*notes, _words(before, after), _ORT_LEVEL, *_cast_notes(after)]
    path, unpacked = (path, []) if large_model else unpack.foldable(path, scratch)
    data = f"{target.name}.data" if large_model else ""
    save_optimized(path, target, level="extended", disabled=unpack.keepers(path), data=data)
    after = load_structure(target)
    # ONNX Runtime imports operator sets that no node uses.
    used = {node.domain for node in all_nodes(after)} | {""}
    kept = [entry for entry in after.opset_import if entry.domain in used]
    del after.opset_import[:]
    after.opset_import.extend(kept)
    after.producer_name, after.producer_version = before.producer_name, before.producer_version
    name_nodes(after)
    target.write_bytes(after.SerializeToString(deterministic=True))
    return [*notes, *unpacked, _words(before, after), _LEVEL, *_cast_notes(after)]


_LARGE = Remark(
    "note",
    "no-fusions-large",
    "no transformer fusions: they would load the weights of a model of this size and copy them",
)
_LEVEL = Remark(
    "note",
    "optimized-extended",
    "optimization level extended: layouts of one processor (NCHWc) are left to ONNX Runtime when it opens the file",
)
_ORT_LEVEL = Remark(
    "note",
    "optimized-extended-ort",
    "optimization level extended, the last word for an .ort file: ONNX Runtime optimizes an .onnx file further when it "
    "opens it (NCHWc layouts of its processor), an .ort file not",
)


def _fused(source: Path, scratch: Path, seed: int) -> tuple[Path, list[Remark]]:
    """Returns the file to optimize: rewritten, and with transformer fusions, where there are any that are right."""
    path, notes = rewritten(source, scratch, seed)
    if not looks_like_a_transformer(load_structure(path)):
        return path, notes
    folded = scratch / "folded.onnx"
    save_optimized(path, folded, level="basic", disabled=SPOILERS)
    done = fuse(load(folded), scratch, seed)
    if not done.fused:
        return path, [*notes, *done.notes]
    path = scratch / "fused.onnx"
    save(done.model, path)
    return path, [*notes, *done.notes]


def _words(before: onnx.ModelProto, after: onnx.ModelProto) -> Remark:
    """`ONNX Runtime: 330 -> 307 operators; new 21 com.microsoft::FusedConv; gone 21 Conv, …`."""
    old, new = (Counter(map(operator_key, all_nodes(model))) for model in (before, after))
    old.pop("Constant", None)
    words = [f"ONNX Runtime: {old.total()} -> {new.total()} operators"]
    for title, counts in (("new", new - old), ("gone", old - new)):
        if counts:
            words.append(f"{title} " + ", ".join(f"{count} {name}" for name, count in counts.most_common()))
    return Remark("note", "optimized", "; ".join(words))


def _cast_notes(model: onnx.ModelProto) -> list[Remark]:
    casts = sum(node.name.startswith(_INSERTED_CAST) for node in all_nodes(model))
    if not casts:
        return []
    why = "its CPU kernels compute in float32: for a GPU, convert with --to onnx"
    text = f"ONNX Runtime wrote {casts} casts around float16 operators, because {why}"
    return [Remark("note", "float16-casts-written", text)]
