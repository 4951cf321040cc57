"""What the helpers of mount(8) and umount(8) share: their argument syntax, exit codes and ``-N``.

No click: helpers run at boot, and their protocol is not ours to shape.
"""

from __future__ import annotations

import ctypes
import getopt
import os
import sys
from collections.abc import Callable

from ..engine.errors import MinifoError, UsageError
from . import _common

Given = list[tuple[str, str]]

_CLONE_NEWNS = 0x00020000


def run(
    arguments: list[str] | None,
    letters: str,
    synopsis: str,
    places: int,
    act: Callable[[str, Given, list[str]], None],
    *,
    notes: str = "",
) -> int:
    """Read a helper's arguments and do its work.

    Args:
        arguments: those after the program's name; None for the process's own.
        letters: the options in the manner of getopt, without ``-h`` and ``-V``; they may stand before or after places.
        synopsis: the usage text after the program's name.
        places: how many arguments there must be that are not options.
        act: called with the program's name, the options given and the places.
        notes: what the help says after the usage.

    Returns:
        The exit code for mount(8): 0, 1 wrong arguments, 2 failure of the system, 32 mount or unmount failed.
    """
    return _common.run_tool(lambda: _run(arguments, letters, synopsis, places, act, notes), _common.SYSTEM)


def _run(
    arguments: list[str] | None,
    letters: str,
    synopsis: str,
    places: int,
    act: Callable[[str, Given, list[str]], None],
    notes: str,
) -> int:
    program = os.path.basename(sys.argv[0])
    usage = f"usage: {program} {synopsis}"
    try:
        given, named = getopt.gnu_getopt(
            sys.argv[1:] if arguments is None else arguments, letters + "hV", ["help", "version"]
        )
        flags = {flag for flag, _ in given}
        if flags & {"-h", "--help"}:
            print(f"{usage}\n{notes}".rstrip())
        elif flags & {"-V", "--version"}:
            from importlib.metadata import version

            print(f"{program} (minifo {version('minifo')})")
        elif len(named) != places:
            raise UsageError(f"{len(named)} arguments instead of {places}", usage)
        else:
            _common.log_to_stderr(program, verbose="-v" in flags)
            act(program, given, named)
    except getopt.GetoptError as exc:
        return _common.fail(program, UsageError(exc.msg, usage), _common.USAGE)
    except MinifoError as exc:
        return _common.fail(program, exc, _common.MOUNT_FAILED)
    except BrokenPipeError:
        raise
    except OSError as exc:
        return _common.fail(program, exc, _common.SYSTEM)
    except KeyboardInterrupt:
        return _common.INTERRUPTED
    return 0


def enter_mount_namespace(path: str) -> None:
    """Go to the mount namespace that the file *path* stands for (``-N``).

    Raises:
        OSError: it is not one, or only root may enter it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, _CLONE_NEWNS) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(fd)
