"""Open a model: identify it, have it described, hash it."""

import shutil
from pathlib import Path

import msgspec

from hub._identify import identify
from hub._plugins import Registry
from hub._request import Source, check_runtime, did_you_mean
from hub._runner import Runner
from hub._shapes import check_affordable
from hub.spec import (
    ConvertOptions,
    ForeignModel,
    HubError,
    Identification,
    ModelArtifact,
    ModelNotFound,
    ModelSummary,
    PluginBroken,
    Runtime,
    UnknownName,
    UnsupportedModel,
)


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A model on disk with what its reader says of it."""

    artifact: ModelArtifact
    summary: ModelSummary


def open_model(runner: Runner, source: Source, options: ConvertOptions) -> Opened:
    """Identify and describe a model.

    Raises:
        ModelNotFound: Nothing is there.
        ModelUnreadable: It is not a model that a plugin reads.
        ForeignModel: A builder's model is no installed plugin's.
        UnsupportedModel: Its reader found something that blocks every conversion.
        UsageError: The sizes of the request are beyond this machine's memory: some readers make an example of them.
    """
    check_affordable(options.shapes | {name: tuple(size.best for size in r) for name, r in options.ranges.items()})
    path = _builder_file(runner, source, options) if source.builder else Path(source.path)
    found = identify(path, runner.registry)
    try:
        summary = runner.describe(path, found, options, overrides=True)
    except ForeignModel as told:
        saved = runner.build(source.builder, source.weights, runner.folder())
        if not saved:
            raise
        shutil.rmtree(told.log)
        path = Path(saved)
        summary = runner.describe(path, identify(path, runner.registry), options)
    blockers = [finding for finding in summary.findings if finding.kind == "blocker"]
    if blockers:
        error = UnsupportedModel("; ".join(finding.text for finding in blockers), hint=blockers[0].hint)
        error.details = {"findings": summary.findings}
        raise error
    return Opened(artifact=runner.artifact(path, summary.state, summary), summary=summary)


def check_submodule(runner: Runner, opened: Opened, options: ConvertOptions) -> None:
    """Refuse a reader that passes over `submodule`: with its runtime and an edge that do too, all would agree.

    It is asked about one that there is not, and must say so.

    Raises:
        PluginBroken: It describes that one too.
    """
    path, state = Path(opened.artifact.path), opened.summary.state
    nobody = msgspec.structs.replace(options, submodule="hub.asks.whether.this.is.read")
    try:
        runner.describe(path, Identification(format=state.format, form=state.form), nobody)
    except HubError as told:
        if told.log:
            shutil.rmtree(told.log)
        return
    message = f"the reader of {state.format} describes a submodule that there is not, so it passes over --submodule"
    raise PluginBroken(message, hint="leave out --submodule, and tell the plugin's authors")


def _builder_file(runner: Runner, source: Source, options: ConvertOptions) -> Path:
    """Write a builder down as a file, so that it travels like any other model.

    The scratch folder's name makes each one unique: what a builder returns hangs on code that hub cannot hash.
    """
    if source.weights and not Path(source.weights).is_file():
        raise ModelNotFound(f"there is no weights file {source.weights}", hint="check --weights")
    content = {
        "builder": source.builder,
        "weights": str(Path(source.weights).absolute()) if source.weights else "",
        "search_path": str(Path.cwd()),
        "shapes": options.shapes,
        "dtypes": options.dtypes,
        "nonce": str(runner.scratch),
    }
    file = runner.folder() / "model.builder.json"
    file.write_bytes(msgspec.json.encode(content))
    return file


def choose_runtime(registry: Registry, artifact: ModelArtifact, name: str, variant: str = "") -> Runtime:
    """The runtime of a name, or the model's own for an empty one.

    Raises:
        UnknownName: There is none of that name, or it has no kernel set of that name.
        UsageError: It does not open the model.
    """
    check_runtime(name, artifact.state.format, registry.runtimes)
    runtime = registry.runtime_for(artifact.state.format, name)
    if variant and variant not in runtime.variants:
        hint = did_you_mean(variant, filter(None, runtime.variants))
        raise UnknownName(f"{runtime.name} has no kernel set {variant!r}", hint=hint)
    return runtime
