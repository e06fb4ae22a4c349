"""Runs tasks: from the cache where it can, else in a worker, and keeps what failed where a person can look at it."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from hub._disk import full_disk_told
from hub._failures import keep_failed
from hub._files import copy_model, is_copy_of, sha256_model
from hub._plugins import Plugin, Registry, libraries_of, package_of, reference_of, source_digest
from hub._requirements import versions_of
from hub._steps import Step
from hub._store import Store, key_of
from hub._tasks import (
    BuildTask,
    ConvertTask,
    DescribeTask,
    DiffSide,
    DiffTask,
    ExplainTask,
    KnownChanges,
    LocalTask,
    ReduceTask,
    RunOutput,
    RunTask,
    SampleTask,
    Subject,
    Task,
    TaskResult,
    TimeTask,
)
from hub._toolchains import toolchain_python
from hub._version import VERSION
from hub._workers import Limits, Place, Workers, ignore
from hub.spec import (
    ConvertJob,
    ConvertOptions,
    DescribeJob,
    EffectError,
    Execution,
    HubError,
    Identification,
    InsideDiff,
    IoBinding,
    LocalReport,
    ModelArtifact,
    ModelSummary,
    ReducedCase,
    Runtime,
    RuntimeOptions,
    State,
    StepOutput,
    processor,
)
from hub.spec.watch import is_asked_to_end

Check = Callable[[Path], None]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """A finished task: its folder and result, whether it came from the cache, whether it was asked to end early."""

    folder: Path
    result: TaskResult
    cached: bool
    cut_short: bool = False


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """A finished edge."""

    path: Path
    output: StepOutput
    done: Done


class Runner:
    """Executes tasks for one run of hub.

    Args:
        registry: The plugins.
        store: The cache.
        workers: The processes.
        scratch: A folder for this run.
        use_cache: Whether finished steps may be taken from the cache (they are always kept).
    """

    def __init__(self, registry: Registry, store: Store, workers: Workers, scratch: Path, *, use_cache: bool) -> None:
        self.registry = registry
        self.store = store
        self.scratch = scratch
        self._workers = workers
        self._use_cache = use_cache
        self._count = 0

    def folder(self) -> Path:
        """An empty folder of this run."""
        self._count += 1
        folder = self.scratch / f"{self._count:03d}"
        folder.mkdir()
        return folder

    @property
    def interrupted(self) -> bool:
        """Whether the user interrupted a step, which then ended with the best so far."""
        return self._workers.interrupted

    def execute(
        self,
        key: str,
        build: Callable[[Path], Task],
        place: Place,
        check: Check = lambda _: None,
        told: Callable[[str], None] = ignore,
    ) -> Done:
        """Run a task, or take its result from the cache. An empty key is never cached, nor what was asked to end early.

        `check` is called with the folder of a step that succeeded, and raises when the step has not kept a promise;
        `told` with what a step says of how it goes.
        """
        found = self.store.find(key) if key and self._use_cache else None
        if found:
            return Done(folder=self.store.place(key), result=found, cached=True)
        folder = self.folder()
        try:
            result = self._workers.run(build(folder), folder, place, told)
            check(folder)
        except HubError as error:
            if (folder / "job.json").exists():
                error.log = str(keep_failed(self.store, self.scratch, folder, place))
            raise
        cut_short = is_asked_to_end(folder)
        kept = self._keep(folder, "" if cut_short else key)
        return Done(folder=kept, result=result, cached=False, cut_short=cut_short)

    def _keep(self, folder: Path, key: str) -> Path:
        if not key:
            return folder
        return self.store.keep(folder, key, replace=not self._use_cache)

    def describe(
        self, path: Path, found: Identification, options: ConvertOptions, *, overrides: bool = False
    ) -> ModelSummary:
        """Have the format's reader describe a model; from the cache only while its files are there, as long as then."""
        reader = self.registry.format(found.format)
        job = DescribeJob(
            path=str(path.absolute()),
            form=found.form,
            allow_pickle=options.allow_pickle,
            allow_custom_ops=options.allow_custom_ops,
            shapes=options.shapes,
            dtypes=options.dtypes,
            submodule=options.submodule,
            overrides=overrides and bool(options.shapes),
        )
        task = DescribeTask(plugin=reference_of(reader), job=job)
        key = key_of("describe", task, sha256_model(path), self._versions(package_of(reader), ()))
        done = self.execute(key, lambda _: task, Place(process=reader.process))
        summary = msgspec.convert(done.result.value, ModelSummary)
        if done.cached and not _is_whole(summary):
            self.store.forget(key)
            return self.describe(path, found, options, overrides=overrides)
        return summary

    def convert(  # noqa: PLR0913 what a step hangs on, and who is told
        self,
        step: Step,
        source: ModelArtifact,
        options: ConvertOptions,
        calibration: tuple[str, str],
        files: tuple[str, ...],
        name: str = "",
        *,
        told: Callable[[str], None] = ignore,
    ) -> Converted:
        """Run one edge, on a copy of its input.

        Args:
            step: The edge, and the states between which it is to lead.
            source: The input.
            options: The request, in the input's terms.
            calibration: Folder of samples in the input's terms, and its fingerprint.
            files: Every file of the input.
            name: File name of the result, where it is to be published; side files are named after it.
            told: Called with what it says of how it goes.

        Raises:
            EffectError: The step changed its input.
        """
        edge, plugin = step.edge, self.registry.plugin_of(step.edge)
        folder, fingerprint = calibration if edge.needs_calibration else ("", "")
        tools = self._versions(plugin.package, edge.requires), edge.toolchain
        parts = ("convert", edge.id, source.sha256, source.state, step.target, options, fingerprint, tools)
        key = key_of(*parts) if edge.deterministic else ""
        wanted = name or f"model{self.registry.suffix(step.target)}"

        def build(place: Path) -> Task:
            for part in ("out", "scratch"):
                (place / part).mkdir()
            job = ConvertJob(
                target=step.target,
                source=_private(source, files, place),
                output=str(place / "out" / wanted),
                scratch=str(place / "scratch"),
                options=options,
                calibration=folder,
                watch=str(place),
            )
            return ConvertTask(plugin=plugin.module, edge=edge.id, job=job)

        def check(place: Path) -> None:
            _check_untouched(edge.id, source, files, place)

        done = self.execute(key, build, self._place(step, plugin), check, told)
        path = _written(done.folder / "out", wanted, exact=bool(name))
        if done.cached and not path.exists():  # its side files are named after another output, which a run may need
            done = self.execute(key_of(key, wanted), build, self._place(step, plugin), check, told)
            path = done.folder / "out" / wanted
        return Converted(path=path, output=msgspec.convert(done.result.value, StepOutput), done=done)

    def run(  # noqa: PLR0913 what a run hangs on
        self,
        artifact: ModelArtifact,
        options: RuntimeOptions,
        samples: tuple[str, str],
        chain: tuple[tuple[IoBinding, ...], ...],
        carry: dict[str, str] | None = None,
        preferred: str = "",
        *,
        again: bool = False,
    ) -> tuple[Path, RunOutput]:
        """Run an artifact on samples in the source's terms; returns the folder of outputs, in the source's terms too.

        `samples` is the folder and its fingerprint, `carry` and `again` as in `RunTask`, `preferred` a runtime.
        """
        runtime = self.registry.runtime_for(artifact.state.format, preferred)
        folder, fingerprint = samples
        versions = self._versions(package_of(runtime), runtime.requires)
        what = "run again" if again else "run"
        key = key_of(what, runtime.name, artifact.sha256, artifact.state, options, fingerprint, chain, carry, versions)

        def build(place: Path) -> Task:
            return RunTask(
                plugin=reference_of(runtime),
                artifact=artifact,
                options=options,
                samples=folder,
                outputs=str(place / "outputs"),
                chain=chain,
                carry=carry or {},
                again=again,
            )

        done = self.execute(key, build, Place(process=runtime.process))
        return done.folder / "outputs", msgspec.convert(done.result.value, RunOutput)

    def subject(
        self,
        artifact: ModelArtifact,
        options: RuntimeOptions,
        chain: tuple[tuple[IoBinding, ...], ...] = (),
        preferred: str = "",
    ) -> Subject:
        """A model as it is to be opened, with the runtime that opens it."""
        runtime = self.registry.runtime_for(artifact.state.format, preferred)
        plugin = reference_of(runtime)
        return Subject(runtime=runtime.name, plugin=plugin, artifact=artifact, options=options, chain=chain)

    def explain(self, subject: Subject, samples: tuple[str, str]) -> Execution | None:
        """Ask a runtime how it executes a model; None where it does not tell."""
        runtime = self.registry.runtimes[subject.runtime]
        key = self._subject_key("explain", (subject,), samples)
        task = ExplainTask(subject=subject, samples=samples[0])
        done = self.execute(key, lambda _: task, Place(process=runtime.process))
        return msgspec.convert(done.result.value, Execution | None)

    def local(
        self,
        subject: Subject,
        float_model: ModelArtifact,
        samples: tuple[str, str],
        calibration: tuple[str, str] = ("", ""),
    ) -> LocalReport:
        """Hold a result against the float model in the same format that it was made of, layer by layer.

        `samples` and `calibration`, which the quantizer had, are each a folder and what it hangs on.
        """
        reader = self.registry.formats[subject.artifact.state.format]
        task = LocalTask(
            reader=reference_of(reader),
            subject=subject,
            float_model=float_model,
            samples=samples[0],
            calibration=calibration[0],
        )
        key = f"{self._subject_key('local', (subject,), samples)}-{float_model.sha256}-{calibration[1]}"
        done = self.execute(key_of("local", key), lambda _: task, Place(process=reader.process))
        return msgspec.convert(done.result.value, LocalReport)

    def inside_diff(
        self, both: tuple[Subject, Subject], samples: tuple[str, str], known: KnownChanges, *, worst: int
    ) -> InsideDiff:
        """Compare two models from inside, in the process of the second one's runtime."""
        task = self._diff_task(both, samples, known, worst)
        key = key_of(self._subject_key("diff", both, samples), worst, known.corrections, sorted(known.renamed))
        done = self.execute(key, lambda _: task, Place(process=self.registry.runtimes[both[1].runtime].process))
        return msgspec.convert(done.result.value, InsideDiff)

    def reduced(
        self, both: tuple[Subject, Subject], samples: tuple[str, str], known: KnownChanges
    ) -> tuple[Path, ReducedCase]:
        """Cut out a layer that diverges, in the process of the second one's runtime; returns the folder, too."""

        def build(folder: Path) -> Task:
            (folder / "case").mkdir()
            task = self._diff_task(both, samples, known, 1)
            return ReduceTask(diff=task, into=str(folder / "case"))

        done = self.execute("", build, Place(process=self.registry.runtimes[both[1].runtime].process))
        return done.folder / "case", msgspec.convert(done.result.value, ReducedCase)

    def _diff_task(
        self, both: tuple[Subject, Subject], samples: tuple[str, str], known: KnownChanges, worst: int
    ) -> DiffTask:
        sides = [
            DiffSide(reader=reference_of(self.registry.formats[item.artifact.state.format]), subject=item)
            for item in both
        ]
        return DiffTask(one=sides[0], other=sides[1], samples=samples[0], worst=worst, known=known)

    def time(
        self, subjects: tuple[Subject, ...], samples: tuple[str, str], *, again: bool
    ) -> tuple[list[list[float]], bool]:
        """Time models in turns; returns seconds by round and model, and whether they were measured earlier.

        They share the process of the first one's runtime. `again` measures anew.
        """
        runtime = self.registry.runtimes[subjects[0].runtime]
        key = self._subject_key("time", subjects, samples)
        if again:
            self.store.forget(key)
        task = TimeTask(subjects=subjects, samples=samples[0])
        done = self.execute(key, lambda _: task, Place(process=runtime.process))
        return msgspec.convert(done.result.value, list[list[float]]), done.cached

    def _subject_key(self, verb: str, subjects: tuple[Subject, ...], samples: tuple[str, str]) -> str:
        runtimes = [self.registry.runtimes[subject.runtime] for subject in subjects]
        versions = [self._versions(package_of(runtime), runtime.requires) for runtime in runtimes]
        models = [(s.runtime, s.artifact.sha256, s.artifact.state, s.options, s.chain) for s in subjects]
        return key_of(verb, models, samples[1], versions)

    def call_function(self, function: str, folder: Path) -> int:
        """Call a user's function for samples, in a worker."""
        task = SampleTask(function=function, search_path=str(Path.cwd()), folder=str(folder), limit=1024)
        return int(self.execute("", lambda _: task, Place(process="user")).result.value)

    def build(self, builder: str, weights: str, folder: Path) -> str:
        """Call a user's builder in a worker, and save what it returns; the path, empty where no plugin knows it."""
        task = BuildTask(function=builder, weights=weights, search_path=str(Path.cwd()), folder=str(folder))
        return str(self.execute("", lambda _: task, Place(process="user")).result.value)

    def artifact(self, path: Path, state: State, summary: ModelSummary) -> ModelArtifact:
        """Hash a model and put it together with what its reader says."""
        files = [Path(file) for file in summary.files]
        return ModelArtifact(
            path=str(path.absolute()),
            state=state,
            signature=summary.signature,
            sha256=sha256_model(path, files),
            size_bytes=summary.size_bytes or sum(file.stat().st_size for file in files),
        )

    def warm(self, runtime: Runtime) -> None:
        """Start a runtime's worker process ahead of its first task."""
        self._workers.start(Place(process=runtime.process))

    def _versions(self, package: str, requires: tuple[str, ...]) -> dict[str, str]:
        own = {plugin.distribution: plugin.version for plugin in self.registry.plugins if plugin.package == package}
        source = source_digest(package, next(iter(own), ""))
        return own | versions_of(requires) | {"hub": VERSION, "source": source, "processor": str(processor())}

    def _place(self, step: Step, plugin: Plugin) -> Place:
        edge = step.edge
        environment = dict(edge.environment)
        if not edge.toolchain:
            return Place(process=edge.process, environment=tuple(environment.items()))
        packages = (plugin.package, *libraries_of(plugin.distribution))
        python, path = toolchain_python(edge.toolchain, packages, self.store)
        environment["PYTHONPATH"] = str(path)
        return Place(process=edge.toolchain.name, python=str(python), environment=tuple(environment.items()))


def _is_whole(summary: ModelSummary) -> bool:
    """Whether every file of a model that was described earlier is still there, and as long as it was."""
    files = [Path(file) for file in summary.files]
    if not all(file.exists() for file in files):
        return False
    return not summary.size_bytes or summary.size_bytes == sum(file.stat().st_size for file in files if file.is_file())


def _written(folder: Path, name: str, *, exact: bool) -> Path:
    """The artifact among what a step wrote. A file alone can be renamed; one with side files is named in them."""
    found = sorted(folder.iterdir())
    if len(found) > 1 and not exact:
        found = [path for path in found if path.suffix == Path(name).suffix]
    return found[0] if len(found) == 1 else folder / name


def _private(source: ModelArtifact, files: tuple[str, ...], place: Path) -> ModelArtifact:
    """Copy a step's input: some tools overwrite the file they read, and a failed step is run again from its copy."""
    copy = copy_model(Path(source.path), files, place / "in")
    return msgspec.structs.replace(source, path=str(copy))


def _check_untouched(edge_id: str, source: ModelArtifact, files: tuple[str, ...], place: Path) -> None:
    if is_copy_of(Path(source.path), files, place / "in"):
        shutil.rmtree(place / "in")
        return
    copy_model(Path(source.path), files, place / "in")
    raise EffectError(f"{edge_id} changed its input", hint="this is a defect of the edge; your model is untouched")


@contextlib.contextmanager
def session(registry: Registry, *, limits: Limits | None = None, use_cache: bool = True) -> Iterator[Runner]:
    """A runner with its cache, its processes and its scratch folder."""
    store = Store()
    with full_disk_told(), store.scratch() as scratch, Workers(limits) as workers:
        yield Runner(registry, store, workers, scratch, use_cache=use_cache)
