"""What the helpers of mount(8) and umount(8) share: their argument syntax, exit codes and ``-N``.

This module does not use click: helpers run at boot and must start fast, and mount(8) defines their arguments.
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Callable

from ..engine.errors import MinifoError, UsageError
from ..engine.store import syscalls
from . import _common

Given = list[tuple[str, str]]


def run(
    arguments: list[str] | None,
    letters: str,
    synopsis: str,
    operands: int,
    act: Callable[[str, Given, list[str]], None],
    *,
    notes: str = "",
) -> int:
    """Parse a helper's arguments, do its work and return its exit code.

    Args:
        arguments: the words after the program's name; None for those of the process.
        letters: the option letters as for getopt(3), without ``-h`` and ``-V``.  Options may stand before or after
            the operands.
        synopsis: the usage text after the program's name.
        operands: how many arguments are required that are not options.
        act: called with the program's name, the options given and the operands.
        notes: printed by ``--help`` after the usage.

    Returns:
        The exit code for mount(8): 0 success, 1 wrong arguments, 2 failure of the system, 32 mount or unmount failed.
    """
    return _common.run_tool(lambda: _run(arguments, letters, synopsis, operands, act, notes), _common.SYSTEM)


def _run(
    arguments: list[str] | None,
    letters: str,
    synopsis: str,
    operands: int,
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
        elif len(named) != operands:
            raise UsageError(f"{len(named)} arguments instead of {operands}", usage)
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
    """Move this process into the mount namespace that the file *path* refers to (option ``-N``; setns(2)).

    Raises:
        OSError: *path* refers to no mount namespace, or this process may not enter it.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.enter_mount_namespace(fd)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
