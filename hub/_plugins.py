"""Plugin loading: each load guarded, the broken ones kept with their traceback, misspelt hooks told."""

import importlib.metadata
import importlib.resources
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, TypeVar

import msgspec
import pluggy

from hub.spec import (
    Converter,
    DependencyMissing,
    Edge,
    Expectation,
    Format,
    Identification,
    Runtime,
    Toolchain,
    UnknownName,
    parse_expectations,
)
from hub.spec import hooks as hub_hooks
from hub.spec.hooks import ENTRY_POINT_GROUP, PROJECT

T = TypeVar("T")


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """An installed plugin; `error` is its traceback when it does not load."""

    name: str
    distribution: str
    version: str
    module: str
    error: str = ""


def reference_of(plugin_object: object) -> str:
    """`package.module:Class` of a plugin's object, so that a worker can make its own."""
    kind = type(plugin_object)
    return f"{kind.__module__}:{kind.__qualname__}"


class Registry:
    """Everything that the installed plugins offer."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hub_hooks)
        self.plugins = tuple(self._load(entry) for entry in _entry_points())

    def _load(self, entry: importlib.metadata.EntryPoint) -> Plugin:
        error = self._register(entry)
        dist = entry.dist
        name, version = (dist.name, dist.version) if dist else ("", "")
        return Plugin(name=entry.name, distribution=name, version=version, module=entry.value, error=error)

    def _register(self, entry: importlib.metadata.EntryPoint) -> str:
        """Register one plugin; returns the traceback when it cannot be."""
        try:
            self.manager.register(entry.load(), name=entry.name)
            self.manager.check_pending()
        except Exception:  # noqa: BLE001 the plugin boundary: a broken plugin must not stop the others
            if self.manager.has_plugin(entry.name):
                self.manager.unregister(name=entry.name)
            return traceback.format_exc()
        return ""

    @property
    def broken(self) -> tuple[Plugin, ...]:
        """Plugins that are installed and do not load."""
        return tuple(plugin for plugin in self.plugins if plugin.error)

    @cached_property
    def formats(self) -> dict[str, Format]:
        """Readers by format name."""
        return _by_name(self.manager.hook.hub_register_formats(), lambda item: item.name)

    @cached_property
    def runtimes(self) -> dict[str, Runtime]:
        """Runtimes by name."""
        return _by_name(self.manager.hook.hub_register_runtimes(), lambda item: item.name)

    @cached_property
    def converters(self) -> tuple[Converter, ...]:
        """Everything that offers edges."""
        return tuple(item for group in self.manager.hook.hub_register_converters() for item in group)

    @cached_property
    def edges(self) -> dict[str, tuple[Edge, Converter]]:
        """Edges by id, each with the converter that runs it."""
        return _by_name([[(edge, c) for c in self.converters for edge in c.edges]], lambda pair: pair[0].id)

    @cached_property
    def toolchains(self) -> dict[str, Toolchain]:
        """Toolchains by name."""
        return _by_name([c.toolchains for c in self.converters], lambda item: item.name)

    @cached_property
    def expectations(self) -> tuple[Expectation, ...]:
        """Declared gaps of every loaded plugin."""
        modules = (plugin.module.partition(":")[0] for plugin in self.plugins if not plugin.error)
        return tuple(item for module in modules for item in _expectations_of(module.partition(".")[0]))

    def identify(self, path: Any, header: bytes) -> list[Identification]:
        """Ask every plugin what this file is."""
        return [found for found in self.manager.hook.hub_identify_format(path=path, header=header) if found]

    def format(self, name: str) -> Format:
        """The reader of a format.

        Raises:
            DependencyMissing: No loaded plugin reads it.
        """
        if name not in self.formats:
            hint = f"pip install hub-{name}; `hub plugins` shows what is installed"
            raise DependencyMissing(f"no loaded plugin reads {name}", hint=hint)
        return self.formats[name]

    def runtime_for(self, format_name: str) -> Runtime:
        """The first runtime, by name, that opens a format.

        Raises:
            DependencyMissing: No loaded plugin runs it.
        """
        able = [r for _, r in sorted(self.runtimes.items()) if format_name in r.formats]
        if not able:
            hint = "`hub doctor` shows what is missing"
            raise DependencyMissing(f"no loaded plugin runs {format_name} models", hint=hint)
        return able[0]


def _entry_points() -> list[importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    return sorted({entry.name: entry for entry in found}.values(), key=lambda entry: entry.name)


def _by_name(groups: Iterable[Iterable[T]], name: Callable[[T], str]) -> dict[str, T]:
    items: dict[str, T] = {}
    for item in _flat(groups):
        if name(item) in items:
            raise UnknownName(f"two plugins offer {name(item)}", hint="uninstall one: `hub plugins` lists them")
        items[name(item)] = item
    return dict(sorted(items.items()))


def _flat(groups: Iterable[Iterable[T]]) -> Iterator[T]:
    for group in groups:
        yield from group


def _expectations_of(package: str) -> tuple[Expectation, ...]:
    file = importlib.resources.files(package) / "expectations.toml"
    return parse_expectations(file.read_text()) if file.is_file() else ()


def versions_of(requirements: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of the distributions that requirement lines name; empty string for a missing one."""
    from packaging.requirements import Requirement

    return {Requirement(line).name: _version(Requirement(line).name) for line in requirements}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def missing_requirements(requirements: tuple[str, ...]) -> list[str]:
    """Requirement lines that the environment does not meet."""
    from packaging.requirements import Requirement

    parsed = [Requirement(line) for line in requirements]
    return [
        str(r) for r in parsed if not _version(r.name) or not r.specifier.contains(_version(r.name), prereleases=True)
    ]
