"""`hub reduce`: what fails by itself, as files and a script that need none of hub."""

import shutil
import tempfile
from pathlib import Path

from hub._diff import open_both
from hub._events import Events, Silent
from hub._plugins import Registry
from hub._requirements import versions_of
from hub._runner import Runner, session
from hub._version import VERSION
from hub.spec import ConvertOptions, ModelArtifact, OutputExists, OutputNotWritable, ReducedCase, ReduceReport

_OURS = frozenset({"README.md", "repro.py", "feed.npz"})


def reduce(  # noqa: PLR0913 what a request is made of
    model: str,
    other: str,
    output: str | Path,
    *,
    data: str = "",
    force: bool = False,
    options: ConvertOptions | None = None,
    events: Events | None = None,
) -> ReduceReport:
    """Cut the first layer of B that fails by itself out of it, beside the layers of A that it does the work of.

    Args:
        model: Path or builder of A, as for `diff`.
        other: Path of B.
        output: The folder to write.
        data: Data spec in A's terms; random inputs when empty.
        force: Replace what an earlier case left in the folder.
        options: Shapes and constants of A.
        events: Told about progress.

    Returns:
        The report. Where no layer fails by itself nothing is written, and `case.lack` says why.

    Raises:
        OutputExists: The folder holds something.
        UnsupportedModel: The models cannot be looked into, or not cut up.
        HubError: One of them cannot be read or run.
    """
    folder = Path(output)
    _check_folder(folder, force=force)
    with session(Registry()) as runner:
        both = open_both(runner, model, other, data, options or ConvertOptions(), events or Silent())
        subjects, stand_in = both.subjects(events or Silent())
        made, case = runner.reduced(subjects, both.reference.inputs, both.known)
        if case.layer:
            a, b = (subject.artifact for subject in subjects)
            (made / "README.md").write_text(_readme(runner, case, a, b), encoding="utf-8")
            _publish(made, folder)
        return ReduceReport(
            model=both.one.artifact,
            other=both.two.artifact,
            stand_in=stand_in,
            inputs=both.reference.kind,
            case=case,
            folder=str(folder) if case.layer else "",
        )


def _check_folder(folder: Path, *, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputExists(f"{folder} is a file", hint="name a new folder: -o FOLDER")
    held = sorted(file.name for file in folder.iterdir()) if folder.exists() else []
    strange = [name for name in held if name not in _OURS and not name.startswith(("a.", "b."))]
    if strange:  # not even --force removes what hub has not made
        raise OutputExists(f"{folder} holds {strange[0]}, which is no part of a case", hint="name a new folder")
    if held and not force:
        raise OutputExists(f"{folder} holds a case", hint="replace it with --force, or name another folder with -o")


def _publish(made: Path, folder: Path) -> None:
    """Put the case in its place whole, or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.absolute().parent) as beside:
            whole = Path(beside) / "new"
            shutil.copytree(made, whole)
            old = Path(beside) / "old"
            if folder.exists():
                folder.rename(old)
            try:
                whole.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
    except OSError as error:
        raise OutputNotWritable(f"{folder} cannot be written: {error.strerror}", hint="name another folder") from error


def _readme(runner: Runner, case: ReducedCase, one: ModelArtifact, other: ModelArtifact) -> str:
    layer = case.layer
    if layer is None:
        raise ValueError("there is no case")
    formats = [item.state.format for item in (one, other)]
    needs = versions_of(("numpy", *(r for kind in formats for r in runner.registry.runtime_for(kind).requires)))
    causes = "".join(f"* {cause.code}: {cause.text}\n" for cause in layer.causes)
    return f"""# {layer.operator} {layer.layer} fails by itself

`python repro.py` runs two parts on the same numbers and prints both results. It needs nothing but the libraries below,
and exits with 1 while the two differ by more than rounding.

* `a` ({one.state}): {", ".join(case.parts[0])}
* `b` ({other.state}): {", ".join(case.parts[1])}
* `feed.npz`: what both are fed, from sample {case.sample}, as part b was given it inside the whole model

The largest difference is {case.max_abs:.6g}, SQNR {case.sqnr_db:.2f} dB. Part a with its constants and its result
rounded to part b's grids has so much that {case.least_db:.2f} dB is the least to be expected.

{causes}
## Versions

{"".join(f"* {name} {number}" + chr(10) for name, number in needs.items() if number)}
Made by hub {VERSION}.
"""
