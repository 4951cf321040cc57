"""Loads the session hook before pyfuse3, switches it on or off, and reports whether a session has it.

The C extension ``_hook`` stands between pyfuse3 and libfuse (the head of hook.c says what it changes).  The dynamic
linker must find its functions before those of libfuse, so only this module imports it, with RTLD_GLOBAL, and the rule
is: ``load()`` comes before the first import of pyfuse3.  Without the extension, or with it switched off, pyfuse3 serves
plain sessions.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)

#: What happens without each of the INIT flags that the hook asks the kernel for (``WANTED_FLAGS`` of the extension).
WITHOUT: Final = {
    "HANDLE_KILLPRIV_V2": "every small write costs a getxattr",
    "CACHE_SYMLINKS": "every readlink costs a request",
    "DONT_MASK": "the umask overrides default ACLs",
}

_loaded: ModuleType | None = None
_on = True


@dataclass(frozen=True, slots=True)
class HookStatus:
    """Whether a session has the hook.

    Attributes:
        active: the hook replies ENOSYS to OPEN and OPENDIR, and every handle is the inode number.
        reason: why the hook is not active, or what an active one lacks; empty if it lacks nothing.
        dont_mask: the kernel does not apply the umask: the file system must, except below a default ACL.
        killpriv: the kernel does not clear set-id bits: the file system must (empty SETATTR, or ``st_rdev == 1``).
    """

    active: bool
    reason: str
    dont_mask: bool = False
    killpriv: bool = False


def load() -> ModuleType | None:
    """Load the C extension, so that pyfuse3, imported later, calls it in the place of libfuse.

    Returns:
        The extension, the same module at each call; None if it is not installed, which is logged.

    Raises:
        RuntimeError: pyfuse3 was imported before, so the hook would have no effect.
    """
    global _loaded
    if _loaded is not None:
        return _loaded
    if "pyfuse3" in sys.modules:
        raise RuntimeError("minifo.fusefront.extension.loader.load() must be called before pyfuse3 is imported")
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_GLOBAL)
    try:
        from . import _hook
    except ImportError as error:
        log.warning("the session hook cannot be loaded, so the mount is slower: %s", error)
        return None
    finally:
        sys.setdlopenflags(flags)
    _hook.set_active(_on)
    _loaded = _hook
    return _hook


def activate(on: bool) -> None:
    """Set whether the next session gets the hook; an existing session does not change.

    Args:
        on: False for a plain session of pyfuse3.  Without the extension every session is a plain one.
    """
    global _on
    _on = on
    if _loaded is not None:
        _loaded.set_active(on)


def is_known() -> bool:
    """Return whether the hook knew the versions of libfuse and pyfuse3 of the newest session, mounted or not."""
    return _loaded is not None and _loaded.status()["session_hooked"]


def verify() -> HookStatus:
    """Return the status of the newest session.

    It is final once the reply to the kernel's INIT was sent, that is, once the mount has replied to any request.
    """
    if _loaded is None:
        return HookStatus(False, "the C extension is not installed")
    if not _on:
        return HookStatus(False, "it was mounted with -o plain")
    status = _loaded.status()
    if not is_known():
        return HookStatus(False, "the hook does not know this version of libfuse or pyfuse3")
    offered, replied = status["kernel_flags"], status["reply_flags"]
    wanted: dict[str, int] = _loaded.WANTED_FLAGS
    lacks = [f"the kernel lacks {name}" for name, bit in _loaded.STATELESS_FLAGS.items() if not offered & bit]
    if status["init_seen"]:
        lacks += [f"the kernel lacks {name}: {WITHOUT[name]}" for name, bit in wanted.items() if not replied & bit]
    else:
        lacks = ["the reply to INIT did not go through the hook"]
    return HookStatus(
        active=status["stateless"],
        reason="; ".join(lacks),
        dont_mask=bool(replied & wanted["DONT_MASK"]),
        killpriv=bool(replied & wanted["HANDLE_KILLPRIV_V2"]),
    )
