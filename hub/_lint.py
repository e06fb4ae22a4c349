"""What an author has got wrong that loads all the same: what nobody finds, reaches or installs."""

import ast
import datetime as dt
import difflib
import importlib.metadata
import inspect
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hub._plugins import Offers, Plugin, Registry, expectations_of, libraries_of, python_files
from hub._request import did_you_mean
from hub._requirements import alternatives, version_of
from hub._routing import NO_VERDICT, ask
from hub.spec import (
    ANY,
    KEEP,
    STATEFUL,
    Accepts,
    ConvertOptions,
    Dim,
    DType,
    Edge,
    Expectation,
    Gives,
    HubError,
    Identification,
    ModelSummary,
    Numerics,
    Remark,
    Signature,
    State,
    TensorSpec,
    UnknownName,
    form_satisfies,
)
from hub.spec import hooks as hub_hooks

if TYPE_CHECKING:
    from packaging.requirements import Requirement

HOOKS = {name for name in vars(hub_hooks) if name.startswith("hub_")}
IN_TOOLCHAIN = {"msgspec", "numpy", "pluggy"}
"""What the worker needs in every environment."""
FRAMEWORKS = ("cv2", "jax", "keras", "onnx", "onnxruntime", "openvino", "pandas", "scipy", "tensorflow", "torch")
"""Packages that take long to import, besides what the plugin requires."""


class LintedPlugin(NamedTuple):
    """A plugin, what it offers, and what all do."""

    plugin: Plugin
    offers: Offers
    registry: Registry


def lint(registry: Registry, name: str) -> list[Remark]:
    """Everything wrong with a plugin that can be told without running it, each with one thing to do.

    Args:
        registry: The installed plugins.
        name: Its entry point's name, or its distribution's.

    Raises:
        UnknownName: It is not installed.
    """
    plugin = next((item for item in registry.plugins if name in {item.name, item.distribution}), None)
    if plugin is None:
        raise UnknownName(
            f"no plugin {name!r} is installed", hint=did_you_mean(name, [p.name for p in registry.plugins])
        )
    if plugin.error:
        why = plugin.error.strip().splitlines()[-1]
        return [Remark("finding", "broken", f"it does not load: {why}", hint=plugin.mend or "hub plugins -v")]
    mine = LintedPlugin(plugin, registry.offers[plugin.name], registry)
    told = [*_hooks(mine), *_formats(mine), *_runtimes(mine), *_requirements(mine), *_imports(mine)]
    told += [*_suffixes(mine), *_claims(mine), *_private(mine)]
    told += [finding for edge in mine.offers.edges for finding in _edge(mine, edge)]
    return [*told, *(finding for item in expectations_of(plugin.package) for finding in _expectation(mine, item))]


def _hooks(mine: LintedPlugin) -> Iterator[Remark]:
    """Functions that look like hooks and are none."""
    module = mine.registry.manager.get_plugin(mine.plugin.name)
    for name, value in vars(module).items():
        if not inspect.isfunction(value) or hasattr(value, f"{hub_hooks.PROJECT}_impl"):
            continue
        meant = difflib.get_close_matches(name if name.startswith("hub_") else f"hub_{name}", HOOKS, 1, 0.8)
        if meant:
            message = f"the function {name} is not marked with @hookimpl, so nobody calls it"
            renamed = "" if meant[0] == name else f"name it {meant[0]} and "
            yield Remark("finding", "unmarked-hook", message, hint=f"{renamed}put @hub.spec.hookimpl above it")
    hooks = {hook.name for hook in mine.registry.manager.get_hookcallers(module) or ()}
    if not hooks:
        message, hint = "it implements no hook, so it offers nothing", f"implement one of {', '.join(sorted(HOOKS))}"
        yield Remark("finding", "no-hook", message, hint=hint)
    if mine.offers.formats and "hub_identify_format" not in hooks:
        names = ", ".join(item.name for item in mine.offers.formats)
        message = f"nobody recognises files in {names}: the plugin has no hub_identify_format"
        yield Remark("finding", "not-identified", message, hint="implement the hook: tell a file by its first bytes")


def _formats(mine: LintedPlugin) -> Iterator[Remark]:
    for reader in mine.offers.formats:
        if not any(reader.name in runtime.formats for runtime in mine.offers.runtimes):
            message = f"nobody runs {reader.name}: the plugin that reads a format brings its runtime"
            yield Remark("finding", "no-runtime", message, hint=f"offer a Runtime with {reader.name!r} in its formats")
        for other in mine.registry.formats.values():
            shared = sorted({*reader.suffixes, *reader.written_forms} & {*other.suffixes, *other.written_forms})
            if shared and other not in mine.offers.formats:
                message = f"{reader.name} and {other.name} both end in {', '.join(shared)}"
                yield Remark(
                    "finding", "shared-suffix", message, hint=f"put a suffix of its own first in {reader.name}"
                )


def _suffixes(mine: LintedPlugin) -> Iterator[Remark]:
    """They are what follows a file's stem, dot and all."""
    offers = mine.offers
    written = {
        reader.name: (*reader.suffixes, *reader.side_suffixes, *reader.written_forms) for reader in offers.formats
    }
    for name, suffixes in (
        written | {item.name: tuple(item.targets) for item in offers.runtimes if item.targets}
    ).items():
        for suffix in (item for item in suffixes if not item.startswith(".")):
            hint = f"write '.{suffix}'"
            yield Remark("finding", "suffix-without-dot", f"{name} has the suffix {suffix!r}, without a dot", hint=hint)


def _claims(mine: LintedPlugin) -> Iterator[Remark]:
    """Its recognition, shown beginnings of what is no model of its own: a file that two plugins claim is refused."""
    hooks = mine.registry.manager.hook.hub_identify_format.get_hookimpls()
    ask_it = next((hook for hook in hooks if hook.plugin_name == mine.plugin.name), None)
    own = {reader.name for reader in mine.offers.formats}
    suffix = next((reader.suffixes[0] for reader in mine.offers.formats), ".bin")
    if ask_it is None:
        return
    with tempfile.TemporaryDirectory(prefix="hub-") as folder:
        for (what, owner), header in FOREIGN.items():
            path = Path(folder, f"probe{suffix}") if header else Path(folder)
            if header:
                path.write_bytes(header)
            given = {"path": path, "header": header}
            try:
                found = ask_it.function(*(given[name] for name in ask_it.argnames))
            except HubError:  # it says why it is none to read
                continue
            except Exception as error:  # noqa: BLE001 the plugin boundary: whatever it raises is the finding
                message = f"hub_identify_format, shown {what}, failed with {type(error).__name__}: {error}"
                yield Remark("finding", "identify", message, hint="return None for what is none of its own")
                return
            if isinstance(found, Identification) and owner not in own:
                message = f"hub_identify_format takes {what}, named {path.name}, for {found.format}"
                yield Remark("finding", "identify", message, hint="look at the bytes, never at the name alone")
                return


def _private(mine: LintedPlugin) -> Iterator[Remark]:
    """Imports of what hub does not promise to keep."""
    for file in python_files(mine.plugin.package):
        for node in ast.walk(ast.parse(file.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [] if node.level else [f"{node.module}.{name}" for name in names]
            for name in (name for name in names if name.startswith(("hub._", "hub.cli"))):
                message = f"{file.name}:{getattr(node, 'lineno', 0)} imports {name}, which any version may take away"
                yield Remark("finding", "private-import", message, hint="import hub.spec and nothing else of hub")


def _runtimes(mine: LintedPlugin) -> Iterator[Remark]:
    known = mine.registry.formats
    for runtime in mine.offers.runtimes:
        for name in (name for name in runtime.formats if name not in known):
            message = f"the runtime {runtime.name} opens {name}, which no installed plugin reads"
            yield Remark("finding", "unknown-format", message, hint=did_you_mean(name, known))
        for suffix, (name, form) in runtime.targets.items():
            ends = (edge.gives for edge in mine.registry.edges.values())
            if not any(end.format == name and form_satisfies(end.form, form) for end in ends):
                message = f"--to {runtime.name} with {suffix} means {_state(name, form)}, which no edge gives"
                yield Remark(
                    "finding", "unwritten-target", message, hint="offer an edge that gives it, or drop the target"
                )


def _edge(mine: LintedPlugin, edge: Edge) -> Iterator[Remark]:
    wrong = [
        *(item for accepts in edge.accepts for item in _end(mine, edge, accepts)),
        *_end(mine, edge, edge.gives),
    ]
    yield from wrong
    if not wrong and not any(step.edge is edge for step in mine.registry.steps):
        message = f"{edge.id} leads nowhere: it has no step from one state to another"
        yield Remark("finding", "no-step", message, hint="give another format, form or numerics than it accepts")
    for name in (name for name in edge.formerly if name in mine.registry.edges):
        message = f"{edge.id} was formerly {name}, which is an edge of today"
        yield Remark("finding", "former-is-there", message, hint=f"take {name} out of formerly")
    yield from _asked(edge)
    if edge.toolchain:
        pinned = {item.name for line in edge.toolchain.requires for item in alternatives(line)}
        if lacking := sorted(IN_TOOLCHAIN - pinned):
            message = f"the toolchain of {edge.id} lacks {', '.join(lacking)}, which the worker needs in it"
            yield Remark("finding", "toolchain", message, hint="add them to Toolchain.requires, as name==version")


def _end(mine: LintedPlugin, edge: Edge, end: Accepts | Gives) -> Iterator[Remark]:
    """One end of an edge: a format that somebody reads, numerics that its reader tells, a form that somebody knows."""
    verb = "accepts" if isinstance(end, Accepts) else "gives"
    reader = mine.registry.formats.get(end.format)
    if reader is None:
        message = f"{edge.id} {verb} {end.format}, which no installed plugin reads"
        yield Remark("finding", "unknown-format", message, hint=did_you_mean(end.format, mine.registry.formats))
        return
    untold = [word for word in _numerics_of(end) if word not in reader.numerics]
    if untold:
        message = f"{edge.id} {verb} {end.format} in {', '.join(untold)}, which its reader never tells"
        hint = f"the reader tells {', '.join(reader.numerics)}"
        own = ": add it to its numerics" if reader in mine.offers.formats else ""
        yield Remark("finding", "unknown-numerics", message, hint=f"{hint}{own}")
    known = _forms(mine, edge, end)
    meant = difflib.get_close_matches(end.form, known - {end.form}, 1, 0.75)
    if end.form not in known and (verb == "gives" or reader not in mine.offers.formats or meant):
        other = "no other edge gives it" if verb == "accepts" else "no edge starts from it and no target means it"
        message = f"{edge.id} {verb} {_state(end.format, end.form)}: {other}"
        yield Remark("finding", "unknown-form", message, hint=did_you_mean(end.form, filter(None, known)))


def _numerics_of(end: Accepts | Gives) -> tuple[Numerics, ...]:
    if isinstance(end, Gives):
        return (*(() if end.numerics == KEEP else (end.numerics,)), *end.read_as.values())
    return () if end.numerics == ANY else end.numerics


def _forms(mine: LintedPlugin, edge: Edge, end: Accepts | Gives) -> set[str]:
    """Forms of a format that others know: what another edge gives or starts from, and what a target means."""
    edges = [item for item in mine.registry.edges.values() if item is not edge]
    given = {item.gives.form for item in edges if item.gives.format == end.format}
    taken = {accepts.form for item in edges for accepts in item.accepts if accepts.format == end.format}
    targets = (target for runtime in mine.registry.runtimes.values() for target in runtime.targets.values())
    meant = {form for name, form in targets if name == end.format}
    written = set(mine.registry.formats[end.format].written_forms.values())
    return {"", STATEFUL} | given | taken | meant | written


def _state(name: str, form: str) -> str:
    return f"{name}+{form}" if form else name


def _asked(edge: Edge) -> Iterator[Remark]:
    """Its check, asked about models that nobody thinks of; it answers each, and says why not."""
    for what, specs in ODD.items():
        state = State(format=edge.accepts[0].format, form=edge.accepts[0].form)
        summary = ModelSummary(state=state, signature=Signature(inputs=specs, outputs=specs))
        verdict = ask(edge, summary, ConvertOptions())
        said = verdict.reason.removeprefix(NO_VERDICT) if verdict.reason.startswith(NO_VERDICT) else ""
        said = said or ("" if verdict or verdict.reason else " refuses it without a reason")
        if said:
            message = f"the check of {edge.id}, asked about a model with {what},{said}"
            yield Remark("finding", "check", message, hint="it answers every model: YES, or a Verdict with a reason")
            return


def _spec(*shape: int | str, dtype: DType = DType.FLOAT32) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="x", dtype=dtype, shape=tuple(map(Dim.of, shape))),)


ODD = {
    "no inputs": (),
    "a scalar": _spec(),
    "integers": _spec(1, 4, dtype=DType.INT64),
    "text": _spec(1, dtype=DType.STRING),
    "a type that nobody knows": _spec(1, 4, dtype=DType.UNKNOWN),
    "a batch of two": _spec(2, 3, 8, 8),
    "dynamic dimensions": _spec("batch", 3, "height", "width"),
    "an empty dimension": _spec(0, 4),
}


def _requirements(mine: LintedPlugin) -> Iterator[Remark]:
    """What is asked for at work is what an installation brings, or one of its extras."""
    from packaging.utils import canonicalize_name

    lines = _declared(mine.plugin.distribution)
    declared = {canonicalize_name(item.name) for item in lines}
    if "hub-convert" not in declared:
        message = f"{mine.plugin.distribution} does not say which hub it is for"
        yield Remark("finding", "no-hub", message, hint="add hub-convert to its dependencies, with the least version")
    asked = {line: name for name, requires in _requires(mine) for line in requires}
    for line, who in asked.items():
        if not any(canonicalize_name(need.name) in declared for need in alternatives(line)):
            message = f"{who} requires {line}, which {mine.plugin.distribution} does not declare"
            hint = f"add {alternatives(line)[0]} to its dependencies, or to an extra"
            yield Remark("finding", "undeclared", message, hint=hint)
        for need in alternatives(line):
            if brought := _brought_in_vain(need, lines):
                message = (
                    f"{who} requires {need}; {mine.plugin.distribution} also declares itself content with {brought}"
                )
                yield Remark("finding", "loose-bounds", message, hint=f"declare {need} in its dependencies")


def _requires(mine: LintedPlugin) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What each thing on offer needs in the user's environment."""
    yield from ((edge.id, edge.requires) for edge in reversed(mine.offers.edges) if not edge.toolchain)
    yield from ((runtime.name, runtime.requires) for runtime in mine.offers.runtimes)
    yield from ((reader.name, reader.requires) for reader in mine.offers.formats)


def _declared(distribution: str) -> "list[Requirement]":
    """What a distribution declares, by itself, in an extra or through a library of hub's."""
    libraries = [name.replace("_", "-") for name in libraries_of(distribution)]
    lines = (line for name in (distribution, *libraries) for line in importlib.metadata.requires(name) or ())
    return [item for line in lines for item in alternatives(line)]


def _brought_in_vain(need: "Requirement", declared: "list[Requirement]") -> str:
    """A version that an installation may bring and that is not what is needed; empty where it brings no such."""
    from packaging.specifiers import SpecifierSet
    from packaging.utils import canonicalize_name

    name = canonicalize_name(need.name)
    allowed = [item.specifier for item in declared if canonicalize_name(item.name) == name]
    both = SpecifierSet(",".join(str(item) for item in allowed if str(item)))
    named = {spec.version.removesuffix(".*") for spec in (*both, *need.specifier)}
    for version in ("0", *sorted(named), "99999") if allowed else ():
        if both.contains(version, prereleases=True) and not need.specifier.contains(version, prereleases=True):
            return f"{need.name} {version}"
    return ""


def _imports(mine: LintedPlugin) -> Iterator[Remark]:
    """Every command that plans imports the plugin and calls its hooks: no framework is loaded by that."""
    from packaging.utils import canonicalize_name

    lines = {line for _, requires in _requires(mine) for line in requires}
    names = {canonicalize_name(need.name) for line in lines for need in alternatives(line)} - IN_TOOLCHAIN
    providers = importlib.metadata.packages_distributions()
    heavy = {package for package, owners in providers.items() if names & set(map(canonicalize_name, owners))}
    code = (
        "import sys, importlib, time, hub.spec, numpy\nstart = time.perf_counter()\n"
        "plugin = importlib.import_module(sys.argv[1])\n"
        "[getattr(plugin, name)() for name in sys.argv[2].split(',') if hasattr(plugin, name)]\n"
        "print(f'{time.perf_counter() - start:.1f}', *(n for n in sys.argv[3].split(',') if n in sys.modules))"
    )
    hooks = ",".join(sorted(name for name in HOOKS if name.startswith("hub_register_")))
    command = [
        sys.executable,
        "-P",
        "-c",
        code,
        mine.plugin.module.partition(":")[0],
        hooks,
        ",".join(sorted({*heavy, *FRAMEWORKS})),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, *found = done.stdout.split() or [""]
    if found:
        message = f"importing the plugin loads {', '.join(found)} ({seconds} s): every command that plans then does"
        yield Remark("finding", "heavy-import", message, hint="import it inside the functions that need it")


def _expectation(mine: LintedPlugin, item: Expectation) -> Iterator[Remark]:
    """A declared gap that can never apply."""
    registry = mine.registry
    edge = registry.edges.get(registry.former.get(item.edge, item.edge))
    if edge is None:
        message = f"an expectation is for {item.edge}, which is no edge"
        yield Remark("finding", "dead-expectation", message, hint=did_you_mean(item.edge, registry.edges))
        return
    taken = {word for end in edge.accepts for word in (Numerics if end.numerics == ANY else end.numerics)}
    if item.numerics and not taken & set(item.numerics):
        message = f"the expectation for {item.edge} is for {', '.join(item.numerics)}, which it never starts from"
        yield Remark("finding", "dead-expectation", message, hint="numerics are the source's; leave them out for all")
    needs = alternatives(item.versions) if item.versions else ()
    used = {need.name for line in edge.requires for need in alternatives(line)}
    if needs and not any(need.name in used or version_of(need.name) for need in needs):
        message = f"the expectation for {item.edge} is for {item.versions}, which it does not require"
        yield Remark("finding", "dead-expectation", message, hint=f"{item.edge} requires {_listed(used)}")
    if item.expires and item.expires < dt.datetime.now(tz=dt.UTC).date().isoformat():
        message = f"the expectation for {item.edge} expired on {item.expires}"
        yield Remark("finding", "expired", message, hint="measure it again; renew it, or take it out")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "nothing"


_ONNX = b"\x08\x08\x12\x07pytorch:\x04\x12\x02m1B\x04\n\x00\x10\x11"
_ZIP = b"PK\x03\x04\n" + bytes(21) + b"\x06\x00\x00\x00a.textPK\x05\x06" + bytes(18)
FOREIGN = {
    ("random bytes", ""): random.Random(0).randbytes(4096),  # noqa: S311 no secret
    ("a line of text", ""): b"Hello, world\n",
    ("a JSON object", ""): b"{}\n",
    ("an archive", ""): _ZIP,
    ("a program", ""): b"\x7fELF\x02\x01\x01" + bytes(57),
    ("an empty folder", ""): b"",
    ("an ONNX model", "onnx"): _ONNX,
    ("a TFLite model", "tflite"): b"\x1c\x00\x00\x00TFL3" + bytes(56),
    ("an OpenVINO model", "openvino"): b'<?xml version="1.0"?>\n<net name="m" version="11">\n</net>\n',
}
"""What it is, and the format whose plugin may claim it -> its first bytes; an empty one is a folder."""
