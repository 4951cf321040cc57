"""``import minifo``: what a program may use of minifo; all else may change at any time.

Installed, this file is ``minifo/__init__.py``.  It imports nothing before a name is used, so that to import minifo
costs nothing.  Its own imports are absolute, for it has two names: this one and ``minifo``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minifo.engine import VERSION as __version__
    from minifo.engine.api import Overlay, open
    from minifo.engine.api_values import Change, Checkpoint, Path, Reverted
    from minifo.engine.errors import (
        CommitPostponed,
        Corrupt,
        MinifoError,
        NewerFormat,
        NotDurable,
        NotMinifo,
        OlderFormat,
        StateError,
        StorageBusy,
        UsageError,
        WrongBase,
    )
    from minifo.engine.queries.changes import Kind

__all__ = [
    "Change",
    "Checkpoint",
    "CommitPostponed",
    "Corrupt",
    "Kind",
    "MinifoError",
    "NewerFormat",
    "NotDurable",
    "NotMinifo",
    "OlderFormat",
    "Overlay",
    "Path",
    "Reverted",
    "StateError",
    "StorageBusy",
    "UsageError",
    "WrongBase",
    "__version__",
    "open",
]

_VALUES = {"Change", "Checkpoint", "Path", "Reverted"}


def __getattr__(name: str) -> object:
    """Import a name when it is first used (PEP 562).

    Raises:
        AttributeError: there is no such name.
    """
    if name == "__version__":
        from minifo.engine import VERSION

        return VERSION
    if name in ("Overlay", "open"):
        from minifo.engine import api

        return getattr(api, name)
    if name in _VALUES:
        from minifo.engine import api_values

        return getattr(api_values, name)
    if name == "Kind":
        from minifo.engine.queries.changes import Kind

        return Kind
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from minifo.engine import errors

    return getattr(errors, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
