"""Plugin loading: each load guarded, the broken ones kept with their traceback, misspelt hooks told."""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.resources
import importlib.util
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pluggy

from hub._offers import check_edge, check_format, check_runtime_object
from hub._requirements import check_installed
from hub._steps import Step, steps_of
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

T = TypeVar("T")
_GROUP = re.compile(r"hub\.v\d+")
_OFFERS = ("formats", "runtimes", "_own_runtimes", "_edge_owners", "edges", "former", "steps")


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """An installed plugin; `error` is its traceback when it does not load."""

    name: str
    distribution: str
    version: str
    module: str
    error: str = ""

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


class Registry:
    """Everything that the installed plugins offer."""

    def __init__(self) -> None:
        self._plugins: tuple[Plugin, ...] = ()

    @cached_property
    def manager(self) -> pluggy.PluginManager:
        """The hooks, with every plugin loaded when first asked for: a conversion that is only repeated needs none."""
        manager = self.__dict__["manager"] = pluggy.PluginManager(PROJECT)  # what is loaded below asks for it too
        manager.add_hookspecs(hub_hooks)
        self._plugins = tuple(self._load(entry) for entry in _entry_points())
        return manager

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """The installed plugins."""
        return self._plugins if self.manager else ()

    def _load(self, entry: importlib.metadata.EntryPoint) -> Plugin:
        error = self._register(entry)
        dist = entry.dist
        name, version = (dist.name, dist.version) if dist else ("", "")
        return Plugin(name=entry.name, distribution=name, version=version, module=entry.value, error=error)

    def _register(self, entry: importlib.metadata.EntryPoint) -> str:
        """Register one plugin; returns the traceback when it cannot be."""
        try:
            _check_contract(entry)
            self.manager.register(entry.load(), name=entry.name)
            self.manager.check_pending()
            self._check_offers(entry)
        except (Exception, SystemExit):  # noqa: BLE001 the plugin boundary: a broken one must not stop the others
            if self.manager.has_plugin(entry.name):
                self.manager.unregister(name=entry.name)
            self._forget_offers()
            return traceback.format_exc()
        return ""

    def _check_offers(self, entry: importlib.metadata.EntryPoint) -> None:
        """Collect what is on offer with this plugin, so that one that raises or clashes with another is found here."""
        self._forget_offers()
        for reader in self._offered("hub_register_formats").get(entry.name, ()):
            check_format(reader)
        for runtime in self._offered("hub_register_runtimes").get(entry.name, ()):
            check_runtime_object(runtime)
        for edge in self._offered("hub_register_edges").get(entry.name, ()):
            check_edge(edge)
        _expectations_of(entry.module.partition(".")[0])
        for kind in _OFFERS:
            getattr(self, kind)

    def _forget_offers(self) -> None:
        for kind in _OFFERS:
            self.__dict__.pop(kind, None)

    @property
    def broken(self) -> tuple[Plugin, ...]:
        """Plugins that are installed and do not load."""
        return tuple(plugin for plugin in self.plugins if plugin.error)

    @cached_property
    def formats(self) -> dict[str, Format]:
        """Readers by format name."""
        return _by_name(self._offered("hub_register_formats"), lambda item: item.name)

    @cached_property
    def runtimes(self) -> dict[str, Runtime]:
        """Runtimes by name."""
        return _by_name(self._offered("hub_register_runtimes"), lambda item: item.name)

    def _offered(self, hook: str) -> dict[str, list[Any]]:
        """What each plugin offers in a hook."""
        found = getattr(self.manager.hook, hook).get_hookimpls()
        return {implementation.plugin_name: list(implementation.function()) for implementation in found}

    @cached_property
    def edges(self) -> dict[str, Edge]:
        """Edges by id."""
        return _by_name(self._offered("hub_register_edges"), lambda edge: edge.id)

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
        return next(plugin for plugin in self.plugins if plugin.name == self._edge_owners[edge.id])

    @cached_property
    def _edge_owners(self) -> dict[str, str]:
        offered = self._offered("hub_register_edges")
        return {edge.id: plugin for plugin, edges in offered.items() for edge in edges}

    @cached_property
    def expectations(self) -> tuple[Expectation, ...]:
        """Declared gaps of every loaded plugin."""
        modules = (plugin.module.partition(":")[0] for plugin in self.plugins if not plugin.error)
        return tuple(item for module in modules for item in _expectations_of(module.partition(".")[0]))

    def identify(self, path: Path, header: bytes) -> list[Identification]:
        """Ask every plugin what this file is.

        Raises:
            HubError: A plugin recognises the file, and says why it is none to read.
            PluginBroken: A plugin has a defect.
        """
        return [found for found in self._call("hub_identify_format", path=path, header=header) if found]

    def step_finished(self, record: StepRecord) -> list[Remark]:
        """Tell every plugin that a step finished; returns what is to be said of those that could not be told.

        One that watches has no say in whether a conversion is right, so its defects are none of the conversion's.
        """
        failed = []
        for implementation in self.manager.hook.hub_step_finished.get_hookimpls():
            try:
                implementation.function(*({"record": record}[name] for name in implementation.argnames))
            except Exception as error:  # noqa: BLE001 the plugin boundary: whatever a watcher raises is told
                what = f"{type(error).__name__}: {error}"
                text = f"the plugin {implementation.plugin_name} was not told of {record.edge}: {what}"
                failed.append(Remark("warning", "watcher-failed", text))
        return failed

    def _call(self, hook: str, **arguments: Any) -> Iterator[Any]:
        """Call a hook, plugin by plugin, so that a defect is told with its plugin's name."""
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            given = [arguments[name] for name in implementation.argnames]
            what = f"the plugin {implementation.plugin_name} failed in {hook}"
            yield _guarded(what, functools.partial(implementation.function, *given))

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
        readers, runtimes = self._offered("hub_register_formats"), self._offered("hub_register_runtimes")
        return {
            reader.name: self.runtimes[runtime.name]
            for plugin, own in readers.items()
            for reader in own
            for runtime in reversed(runtimes.get(plugin, []))
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
        if not isinstance(verdict, Verdict):
            raise PluginBroken(f"{what} returned {type(verdict).__name__}, no verdict", hint=_UPDATE)
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
    except Exception as error:
        raise PluginBroken(f"{what}: {type(error).__name__}: {error}", hint=_UPDATE) from error


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    """One entry point for each plugin, by name: that of this hub's contract, else of another, which is refused."""
    every = importlib.metadata.entry_points()
    others = [entry for group in sorted(every.groups) if _GROUP.fullmatch(group) for entry in every.select(group=group)]
    found = {entry.name: entry for entry in (*others, *every.select(group=ENTRY_POINT_GROUP))}
    return [found[name] for name in sorted(found)]


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


def _by_name(offered: Mapping[str, Iterable[T]], name: Callable[[T], str]) -> dict[str, T]:
    """What plugins offer, by its name; two of one name are refused with both plugins."""
    items: dict[str, T] = {}
    owners: dict[str, str] = {}
    for plugin, group in offered.items():
        for item in group:
            other = owners.setdefault(name(item), plugin)
            if name(item) in items:
                who = f"{plugin} offers it twice" if other == plugin else f"{other} and {plugin} both do"
                message = f"{name(item)} is offered more than once: {who}"
                raise PluginBroken(message, hint="rename one, or uninstall its plugin: `hub plugins`")
            items[name(item)] = item
    return dict(sorted(items.items()))


def _expectations_of(package: str) -> tuple[Expectation, ...]:
    if not hasattr(importlib.import_module(package), "__path__"):  # a plugin may be a single module
        return ()
    file = importlib.resources.files(package) / "expectations.toml"
    return parse_expectations(file.read_text()) if file.is_file() else ()
