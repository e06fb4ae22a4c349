"""Plugin loading: each load guarded, the broken ones kept with their traceback, misspelt hooks told."""

import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pluggy

from hub._offers import faults_of
from hub._requirements import alternatives, check_installed
from hub._steps import Step, steps_of
from hub._tasks import misfilled
from hub._version import VERSION
from hub.spec import (
    YES,
    DependencyMissing,
    Edge,
    Expectation,
    Format,
    HubError,
    Identification,
    ModelSummary,
    Numerics,
    PluginBroken,
    Remark,
    Runtime,
    State,
    StepRecord,
    Support,
    UsageError,
    Verdict,
    parse_expectations,
)
from hub.spec import hooks as hub_hooks
from hub.spec.hooks import CONTRACT_VERSION, ENTRY_POINT_GROUP, PROJECT

_GROUP = re.compile(r"hub\.v\d+")


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """An installed plugin; where it does not load, `error` is its traceback and `mend` one thing to do."""

    name: str
    distribution: str
    version: str
    module: str
    error: str = ""
    mend: str = ""

    @property
    def package(self) -> str:
        """The import package that its code is in."""
        return self.module.partition(":")[0].partition(".")[0]


@functools.cache
def source_digest(package: str, distribution: str = "") -> str:
    """Hash of the Python files of a package, and of the `hub-*` libraries that its distribution is built on.

    A plugin at work changes faster than its version.
    """
    files = [file for name in (package, *libraries_of(distribution)) for file in python_files(name)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def python_files(package: str) -> list[Path]:
    """The source files of a package, or of a single module; none of one that is not installed."""
    found = importlib.util.find_spec(package)
    if not found or not found.origin:
        return []
    own = Path(found.origin)
    return sorted(own.parent.rglob("*.py")) if found.submodule_search_locations else [own]


def libraries_of(distribution: str) -> list[str]:
    """Import packages of the `hub-*` distributions that one needs, the core left out."""
    from packaging.requirements import Requirement

    lines = (importlib.metadata.requires(distribution) or []) if distribution else []
    names = sorted({Requirement(line).name for line in lines} - {"hub-convert"})
    return [name.replace("-", "_") for name in names if name.startswith("hub-")]


def reference_of(plugin_object: object) -> str:
    """`package.module:Class` of a plugin's object, so that a worker can make its own."""
    kind = type(plugin_object)
    return f"{kind.__module__}:{kind.__qualname__}"


def package_of(plugin_object: object) -> str:
    """The import package that a plugin's object is from."""
    return type(plugin_object).__module__.partition(".")[0]


class Offers(msgspec.Struct, frozen=True, kw_only=True):
    """What one plugin offers; its hooks are called once."""

    formats: tuple[Format, ...]
    runtimes: tuple[Runtime, ...]
    edges: tuple[Edge, ...]

    def names(self) -> Iterator[tuple[str, str]]:
        """Kind and name of each thing."""
        yield from (("format", reader.name) for reader in self.formats)
        yield from (("runtime", runtime.name) for runtime in self.runtimes)
        yield from (("edge", edge.id) for edge in self.edges)


class _Clash(NamedTuple):
    """A name that several plugins offer, and the only one that is named after it; empty where none or several are."""

    name: str
    plugins: list[str]
    owner: str


class Registry:
    """Everything that the installed plugins offer."""

    def __init__(self) -> None:
        self._plugins: tuple[Plugin, ...] = ()
        self._offers: dict[str, Offers] = {}

    @cached_property
    def manager(self) -> pluggy.PluginManager:
        """The hooks, with every plugin loaded when first asked for: a conversion that is only repeated needs none."""
        manager = self.__dict__["manager"] = pluggy.PluginManager(PROJECT)  # what is loaded below asks for it too
        manager.add_hookspecs(hub_hooks)
        entries = _entry_points()
        named = _named_twice(entries)
        broken = [named.get(_owner(entry)) if _owner(entry) in named else self._register(entry) for entry in entries]
        clashing = self._take_out_clashing()
        self._plugins = tuple(
            _plugin(entry, error or clashing.get(entry.name)) for entry, error in zip(entries, broken, strict=True)
        )
        return manager

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """The installed plugins."""
        return self._plugins if self.manager else ()

    @property
    def offers(self) -> dict[str, Offers]:
        """What each loaded plugin offers, by its name."""
        return self._offers if self.manager else {}

    def _register(self, entry: importlib.metadata.EntryPoint) -> BaseException | None:
        """Register one plugin; returns what it raised when it cannot be."""
        try:
            _check_contract(entry)
            self.manager.register(module := entry.load(), name=entry.name)
            _check_hooks(module)
            self.manager.check_pending()
            self._offers[entry.name] = self._offered(entry.name)
            expectations_of(entry.module.partition(".")[0])
        except (Exception, SystemExit) as error:  # noqa: BLE001 the plugin boundary: a broken one must not stop the others
            if self.manager.has_plugin(entry.name):
                self.manager.unregister(name=entry.name)
            self._offers.pop(entry.name, None)
            return error
        return None

    def _offered(self, plugin: str) -> Offers:
        """Call a plugin's hooks, and hold what it offers against the contract.

        Raises:
            PluginBroken: Something is no format, runtime or edge, or is offered twice.
        """
        found: dict[str, list[Any]] = {}
        faults: dict[str, str] = {}
        for kind, base in (("formats", Format), ("runtimes", Runtime), ("edges", Edge)):
            hooks = getattr(self.manager.hook, f"hub_register_{kind}").get_hookimpls()
            found[kind] = [item for hook in hooks if hook.plugin_name == plugin for item in hook.function()]
            faults |= {wrong: hint for item in found[kind] for wrong, hint in faults_of(item, base)}
        if faults:
            raise PluginBroken("; ".join(faults), hint="; ".join(dict.fromkeys(faults.values())))
        offers = Offers(formats=tuple(found["formats"]), runtimes=tuple(found["runtimes"]), edges=tuple(found["edges"]))
        twice = [name for (_, name), count in Counter(offers.names()).items() if count > 1]
        if twice:
            raise PluginBroken(f"{plugin} offers {', '.join(twice)} more than once", hint="rename one")
        return offers

    def _take_out_clashing(self) -> dict[str, BaseException]:
        """Leave no name with two plugins: it is the one's that is named after it, else neither's.

        Nobody takes over a format, an edge or a runtime by being installed. Who loses a name to its owner is out with
        all that it offers, before names that are nobody's are judged: no outcome hangs on the order of names.
        """
        broken: dict[str, BaseException] = {}
        while clashes := self._clashes():
            owned = [clash for clash in clashes if clash.owner]
            for name, plugins, owner in owned or clashes:
                why = f"it is {owner}'s" if owner else "and is named after neither"
                message = f"{name} is offered more than once, by {' and '.join(plugins)}, {why}"
                error = PluginBroken(message, hint=f"uninstall one; its authors: give {name} another name")
                broken |= {plugin: error for plugin in plugins if plugin != owner and plugin not in broken}
            for plugin in broken.keys() & self._offers.keys():
                self.manager.unregister(name=plugin)
                del self._offers[plugin]
        return broken

    def _clashes(self) -> list[_Clash]:
        """Every name that several plugins offer."""
        offering: dict[tuple[str, str], list[str]] = {}
        for plugin, offers in self._offers.items():
            for key in offers.names():
                offering.setdefault(key, []).append(plugin)
        found = []
        for (_, name), plugins in sorted(offering.items()):
            word = name.partition(".")[0]
            akin = [plugin for plugin in plugins if plugin.startswith(word) or word.startswith(plugin)]
            if len(plugins) > 1:
                found.append(_Clash(name, plugins, akin[0] if len(akin) == 1 else ""))
        return found

    @property
    def broken(self) -> tuple[Plugin, ...]:
        """Plugins that are installed and do not load."""
        return tuple(plugin for plugin in self.plugins if plugin.error)

    @cached_property
    def formats(self) -> dict[str, Format]:
        """Readers by format name."""
        found = {item.name: item for own in self.offers.values() for item in own.formats}
        return dict(sorted(found.items()))

    @cached_property
    def runtimes(self) -> dict[str, Runtime]:
        """Runtimes by name."""
        found = {item.name: item for own in self.offers.values() for item in own.runtimes}
        return dict(sorted(found.items()))

    @cached_property
    def edges(self) -> dict[str, Edge]:
        """Edges by id."""
        found = {edge.id: edge for own in self.offers.values() for edge in own.edges}
        return dict(sorted(found.items()))

    @cached_property
    def former(self) -> dict[str, str]:
        """Ids that edges had in earlier versions -> ids of today."""
        return {old: edge.id for edge in self.edges.values() for old in edge.formerly if old not in self.edges}

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Every edge between every two states that it leads between."""
        return steps_of(self.edges.values(), self.formats)

    def plugin_of(self, edge: Edge) -> Plugin:
        """The plugin that offers an edge."""
        return next(plugin for plugin in self.plugins if plugin.name == self._edge_owners[edge.id] and not plugin.error)

    @cached_property
    def _edge_owners(self) -> dict[str, str]:
        return {edge.id: plugin for plugin, own in self.offers.items() for edge in own.edges}

    @cached_property
    def expectations(self) -> tuple[Expectation, ...]:
        """Declared gaps of every loaded plugin."""
        return tuple(item for plugin in self.plugins if not plugin.error for item in expectations_of(plugin.package))

    def identify(self, path: Path, header: bytes) -> list[Identification]:
        """Ask every plugin what this file is.

        Raises:
            HubError: A plugin recognises the file, and says why it is none to read.
            PluginBroken: A plugin has a defect.
        """
        return [found for found in self._call("hub_identify_format", Identification, path=path, header=header) if found]

    def step_finished(self, record: StepRecord) -> list[Remark]:
        """Tell every plugin that a step finished; returns what is to be said of those that could not be told.

        One that watches has no say in whether a conversion is right, so its defects are none of the conversion's.
        """
        failed = []
        for implementation in self.manager.hook.hub_step_finished.get_hookimpls():
            try:
                implementation.function(*({"record": record}[name] for name in implementation.argnames))
            except (Exception, SystemExit) as error:  # noqa: BLE001 the plugin boundary: whatever a watcher raises is told
                what = f"{type(error).__name__}: {error}"
                text = f"the plugin {implementation.plugin_name} was not told of {record.edge}: {what}"
                failed.append(Remark("warning", "watcher-failed", text))
        return failed

    def _call(self, hook: str, kind: type[msgspec.Struct], **arguments: Any) -> Iterator[Any]:
        """Call a hook, plugin by plugin, so that a defect is told with its plugin's name; each gives one of a kind."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            given = [arguments[name] for name in implementation.argnames]
            what = f"the plugin {implementation.plugin_name} failed in {hook}"
            found = _guarded(what, functools.partial(implementation.function, *given))
            if found and (wrong := misfilled(found, kind)):
                raise PluginBroken(f"{what}: it {wrong}", hint=_UPDATE)
            yield found

    def format(self, name: str) -> Format:
        """The reader of a format.

        Raises:
            DependencyMissing: No plugin that reads it is installed, or not what it is built on.
            PluginBroken: None does, and a plugin is broken.
        """
        if name not in self.formats:
            self.check_broken(f"no loaded plugin reads {name}")
            hint = f"pip install hub-{name}; `hub plugins` shows what is installed"
            raise DependencyMissing(f"no plugin that reads {name} is installed", hint=hint)
        check_installed(f"the reader of {name}", self.formats[name].requires)
        return self.formats[name]

    def form_of(self, format_name: str, path: Path) -> str:
        """The form that an output path's suffix asks for; empty for the plain one."""
        reader = self.formats.get(format_name)
        return reader.written_forms.get(path.suffix, "") if reader else ""

    @property
    def target_names(self) -> set[str]:
        """Everything that `--to` takes: formats that an edge writes, and runtimes with forms of their own."""
        written = {edge.gives.format for edge in self.edges.values()}
        return written | {name for name, runtime in self.runtimes.items() if runtime.targets}

    def _targets_of(self, name: str) -> Mapping[str, tuple[str, str]]:
        runtime = self.runtimes.get(name)
        return runtime.targets if runtime else {}

    def target(self, name: str, path: Path) -> tuple[str, str]:
        """The format and form that a target means, with an output path's suffix."""
        own = self._targets_of(name)
        return own.get(path.suffix, next(iter(own.values()))) if own else (name, self.form_of(name, path))

    def numerics_of(self, name: str, path: Path) -> set[Numerics]:
        """Precisions that some edge writes in a target."""
        wanted = self.target(name, path)
        return {step.target.numerics for step in self.steps if (step.target.format, step.target.form) == wanted}

    def suffix_of(self, name: str) -> str:
        """The suffix of a target's files where the user names none."""
        own = self._targets_of(name)
        if own:
            return next(iter(own))
        return self.formats[name].suffixes[0] if name in self.formats else f".{name}"

    def check_suffix(self, name: str, path: Path) -> None:
        """Refuse an output path that a target's files cannot have: some tools write by the suffix, some refuse.

        Raises:
            UsageError: Says which suffixes there are.
        """
        reader = self.formats.get(name)
        known = tuple(self._targets_of(name)) or ((*reader.suffixes, *reader.written_forms) if reader else ())
        if known and path.suffix not in known:
            message = f"{path.name} is no name for {name}: its files end in {' or '.join(known)}"
            raise UsageError(message, hint=f"-o {path.with_suffix(known[0])}")

    def suffix(self, state: State) -> str:
        """The suffix of files in a state."""
        reader = self.format(state.format)
        forms = reader.written_forms.items()
        return next((suffix for suffix, form in forms if form == state.form), reader.suffixes[0])

    @cached_property
    def _own_runtimes(self) -> dict[str, Runtime]:
        """Format -> the first runtime for it of the plugin that reads it."""
        return {
            reader.name: runtime
            for own in self.offers.values()
            for reader in own.formats
            for runtime in reversed(own.runtimes)
            if reader.name in runtime.formats
        }

    def runtime_for(self, format_name: str, preferred: str = "") -> Runtime:
        """The runtime that models of a format are run in.

        A comparison is as good as the runtimes that it is made in, so nobody becomes one by being installed: it is the
        runtime of the plugin that reads the format, or the preferred one where that opens the format.

        Raises:
            DependencyMissing: No plugin that runs it is installed, or not what it is built on.
            PluginBroken: None does, and a plugin is broken.
        """
        able = [name for name, runtime in self.runtimes.items() if format_name in runtime.formats]
        chosen = self.runtimes[preferred] if preferred in able else self._own_runtimes.get(format_name)
        if chosen:
            check_installed(f"the runtime {chosen.name}", chosen.requires)
            return chosen
        self.check_broken(f"no loaded plugin runs {format_name} models")
        if able:
            message = f"the plugin that reads {format_name} brings no runtime for it"
            raise DependencyMissing(message, hint=f"name another's: --runtime {' or '.join(able)}")
        hint = "`hub plugins` shows what is installed"
        raise DependencyMissing(f"no plugin that runs {format_name} models is installed", hint=hint)

    def runs_here(self, runtime: Runtime, summary: ModelSummary | None = None) -> Verdict:
        """Whether a runtime's device is on this machine, and runs a model; yes for a runtime that needs none.

        Raises:
            PluginBroken: It gives no verdict.
        """
        if not runtime.device:
            return YES
        what = f"`runs_here` of the runtime {runtime.name}"
        verdict: object = _guarded(f"{what} failed", lambda: runtime.runs_here(summary))
        wrong = misfilled(verdict, Verdict)
        if wrong or not isinstance(verdict, Verdict):
            raise PluginBroken(f"{what} {wrong}", hint=_UPDATE)
        return verdict

    def device_here(self, device: str) -> Verdict:
        """Whether a device that an edge needs is on this machine, as the runtimes say that know it."""
        able = [item for item in self.runtimes.values() if item.device == device]
        verdict = Verdict(support=Support.UNKNOWN, reason=f"no installed runtime knows the device {device}")
        for runtime in able:
            try:
                verdict = self.runs_here(runtime)
            except PluginBroken as error:
                verdict = Verdict(support=Support.UNKNOWN, reason=error.message, hint=error.hint)
            if verdict:
                break
        return verdict

    def check_broken(self, lack: str) -> None:
        """Tell a lack that may be a broken plugin's from one of something that is not installed.

        Raises:
            PluginBroken: A plugin is installed and does not load.
        """
        if self.broken:
            why = "; ".join(f"{plugin.name}: {plugin.error.strip().splitlines()[-1]}" for plugin in self.broken)
            raise PluginBroken(f"{lack}, and some are broken: {why}", hint="`hub plugins -v` shows the tracebacks")


_UPDATE = "update the plugin, or uninstall it: `hub plugins`"


def _guarded(what: str, call: Callable[[], object]) -> Any:
    """Call a plugin's code; a defect is told with `what` failed, an error that it raises on purpose goes on.

    Raises:
        PluginBroken: The plugin has a defect.
    """
    try:
        return call()
    except HubError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginBroken(f"{what}: {type(error).__name__}: {error}", hint=_UPDATE) from error


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    """One entry point for each name of each distribution: of this hub's contract, else of another, to be refused."""
    every = importlib.metadata.entry_points()
    others = [entry for group in sorted(every.groups) if _GROUP.fullmatch(group) for entry in every.select(group=group)]
    found = {_owner(entry): entry for entry in (*others, *every.select(group=ENTRY_POINT_GROUP))}
    return [found[key] for key in sorted(found)]


def _owner(entry: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """A plugin's name, and the distribution that brings it, as packaging normalizes it."""
    return entry.name, re.sub(r"[-_.]+", "-", entry.dist.name).lower() if entry.dist else ""


def _named_twice(entries: list[importlib.metadata.EntryPoint]) -> dict[tuple[str, str], BaseException]:
    """What is wrong with plugins whose name another distribution's has too: it is the one's that is named after it."""
    broken: dict[tuple[str, str], BaseException] = {}
    names = Counter(entry.name for entry in entries)
    for name in (name for name, count in names.items() if count > 1):
        rivals = [_owner(entry)[1] for entry in entries if entry.name == name]
        akin = [rival for rival in rivals if rival in {name, f"hub-{name}"}]
        owner = akin[0] if len(akin) == 1 else ""
        why = f"it is {owner}'s" if owner else "and is named after neither"
        error = PluginBroken(
            f"{' and '.join(rivals)} each bring a plugin named {name}, {why}",
            hint="uninstall one; its authors: give the entry point another name",
        )
        broken |= {(name, rival): error for rival in rivals if rival != owner}
    return broken


def _check_contract(entry: importlib.metadata.EntryPoint) -> None:
    """Refuse a plugin that was written for another contract, or that needs another hub.

    Raises:
        PluginBroken: Says for which, and what this hub is.
    """
    from packaging.requirements import Requirement

    name = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.name
    if entry.group != ENTRY_POINT_GROUP:
        newer = int(entry.group.rpartition("v")[2]) > CONTRACT_VERSION
        mend = "pip install -U hub-convert" if newer else f"pip install -U {name.split()[0]}"
        raise PluginBroken(
            f"{name} is written for the contract {entry.group}; hub {VERSION} has {ENTRY_POINT_GROUP}. Try: {mend}"
        )
    needs = [Requirement(line) for line in (entry.dist.requires or [])] if entry.dist else []
    for need in (item for item in needs if item.name == "hub-convert" and not item.marker):
        if not need.specifier.contains(VERSION, prereleases=True):
            raise PluginBroken(f"{name} needs {need}; this is hub-convert {VERSION}. Try: pip install '{need}'")


def _check_hooks(module: object) -> None:
    """Refuse functions that are marked as hooks of names that there are none of.

    Raises:
        PluginBroken: Names the first, and the nearest hook.
    """
    known = [name for name in vars(hub_hooks) if name.startswith("hub_")]
    marked = [name for name, value in vars(module).items() if hasattr(value, f"{PROJECT}_impl")]
    for name in (name for name in marked if name not in known):
        meant = difflib.get_close_matches(name, known, 1, 0)[0]
        raise PluginBroken(f"there is no hook {name}", hint=f"did you mean {meant}?")


def _plugin(entry: importlib.metadata.EntryPoint, error: BaseException | None) -> Plugin:
    dist = entry.dist
    plugin = Plugin(
        name=entry.name,
        distribution=dist.name if dist else "",
        version=dist.version if dist else "",
        module=entry.value,
    )
    if error is None:
        return plugin
    hint = error.hint if isinstance(error, HubError) else ""
    text = "".join(traceback.format_exception(error))
    return msgspec.structs.replace(plugin, error=text, mend=_mend(dist, hint))


def _mend(dist: importlib.metadata.Distribution | None, hint: str) -> str:
    """What to do about a broken plugin: its author, who has it installed from a folder, mends it there."""
    if dist is None:
        return hint or "hub plugins -v"
    place = msgspec.json.decode(dist.read_text("direct_url.json") or "{}")
    if "dir_info" in place:
        folder = place["url"].removeprefix("file://")
        return f"mend it in {folder}: {hint or 'hub plugins -v shows the traceback'}"
    return f"pip install -U {dist.name}, or pip uninstall {dist.name}" + (f" ({hint})" if hint else "")


def expectations_of(package: str) -> tuple[Expectation, ...]:
    """The declared gaps that an import package ships.

    Raises:
        ValueError: They are not as `hub.spec.parse_expectations` takes them.
    """
    if not hasattr(importlib.import_module(package), "__path__"):  # a plugin may be a single module
        return ()
    file = importlib.resources.files(package) / "expectations.toml"
    found = parse_expectations(file.read_text()) if file.is_file() else ()
    for item in found:
        alternatives(item.versions or "hub-convert")
    return found
