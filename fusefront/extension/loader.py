"""The Python side of the session hook: load it in time, switch it, say what became of it.

The C extension ``_hook`` stands between pyfuse3 and libfuse (its head says what it changes).  For that its names must
be visible to every library loaded later, so this module is the only one to import it, and the rule is: ``load()``
comes before the first import of pyfuse3.  Without the extension, or with it switched off, pyfuse3 works as it always
does.
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

#: INIT flags of the FUSE protocol that the hook asks the kernel for, and what the mount is without each.
WANTED: Final = {
    "HANDLE_KILLPRIV_V2": (1 << 28, "every small write costs a getxattr"),
    "CACHE_SYMLINKS": (1 << 23, "symbolic links are read again each time"),
    "DONT_MASK": (1 << 6, "default ACLs give way to the umask"),
}
#: INIT flags without which the kernel would not take ENOSYS for an answer to open and opendir.
STATELESS: Final = {"NO_OPEN_SUPPORT": 1 << 17, "NO_OPENDIR_SUPPORT": 1 << 24}

_loaded: ModuleType | None = None
_on = True


@dataclass(frozen=True, slots=True)
class HookStatus:
    """What a session got of the hook.

    Attributes:
        active: no open and no opendir reaches Python, and every handle is the inode number.
        reason: why it is not active, or what an active one lacks; empty if nothing does.
        dont_mask: the kernel leaves the umask to the file system, which must apply it where no default ACL rules.
        killpriv: the kernel leaves clearing set-id bits to the file system (empty SETATTR, or ``st_rdev == 1``).
    """

    active: bool
    reason: str
    dont_mask: bool = False
    killpriv: bool = False


def load() -> ModuleType | None:
    """Load the extension so that pyfuse3, imported later, goes through it; further calls return the same module.

    Returns:
        The extension, or None if this installation has none; that is logged.

    Raises:
        RuntimeError: pyfuse3 was imported before, so the hook would silently do nothing.
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
        log.warning("running without the session hook, which is slower: %s", error)
        return None
    finally:
        sys.setdlopenflags(flags)
    _hook.set_active(_on)
    _loaded = _hook
    return _hook


def activate(on: bool) -> None:
    """Say whether the next session is altered by the hook.

    Args:
        on: False for a plain pyfuse3 session.  One that exists already keeps what it has.  Without the extension every
            session is plain, whatever is said here.
    """
    global _on
    _on = on
    if _loaded is not None:
        _loaded.set_active(on)


def verify() -> HookStatus:
    """Tell what the session got; true once the kernel's INIT was answered, that is, once the mount answers anything."""
    if _loaded is None:
        return HookStatus(False, "the C extension is not installed")
    if not _on:
        return HookStatus(False, "plain mode was asked for")
    status = _loaded.status()
    if not status["session_hooked"]:
        return HookStatus(False, "libfuse or pyfuse3 is of a version that the hook does not know")
    offered, replied = status["kernel_flags"], status["reply_flags"]
    lacks = [f"the kernel lacks {name}" for name, bit in STATELESS.items() if not offered & bit]
    if status["init_seen"]:
        lacks += [f"the kernel lacks {name}: {cost}" for name, (bit, cost) in WANTED.items() if not replied & bit]
    else:
        lacks = ["INIT was not answered through the hook"]
    return HookStatus(
        active=status["stateless"],
        reason="; ".join(lacks),
        dont_mask=bool(replied & WANTED["DONT_MASK"][0]),
        killpriv=bool(replied & WANTED["HANDLE_KILLPRIV_V2"][0]),
    )
