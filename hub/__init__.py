"""hub: convert a trained model to where it will run, and prove by measurement that it computes the same thing."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub._api import convert, identify_file, repair, run, verify
    from hub._diff import diff
    from hub._reduce import reduce
    from hub._sessions import Model, open_session
    from hub._version import VERSION as __version__  # noqa: N811 the name that Python packages give it
    from hub.spec import ConvertOptions, HubError, ParityPolicy, Receipt, RuntimeOptions

__all__ = [
    "ConvertOptions",
    "HubError",
    "Model",
    "ParityPolicy",
    "Receipt",
    "RuntimeOptions",
    "__version__",
    "convert",
    "diff",
    "identify_file",
    "open_session",
    "reduce",
    "repair",
    "run",
    "verify",
]

_HOME = {
    "convert": "hub._api",
    "diff": "hub._diff",
    "identify_file": "hub._api",
    "reduce": "hub._reduce",
    "repair": "hub._api",
    "run": "hub._api",
    "verify": "hub._api",
    "Model": "hub._sessions",
    "open_session": "hub._sessions",
    "ConvertOptions": "hub.spec",
    "HubError": "hub.spec",
    "ParityPolicy": "hub.spec",
    "Receipt": "hub.spec",
    "RuntimeOptions": "hub.spec",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import hub` and `hub --help` stay light."""
    import importlib

    if name == "__version__":
        return importlib.import_module("hub._version").VERSION
    if name not in _HOME:
        raise AttributeError(f"module 'hub' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
