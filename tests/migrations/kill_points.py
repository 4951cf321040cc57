"""Kill a piece of work at every point where it touches the file system, and look at what is left.

The work runs in a child process that ends itself, as by SIGKILL, just before its n-th event: a file opened for writing,
made, renamed, linked or removed (as Python reports them to audit hooks), or a commit of the engine.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator

from minifo.engine.commit import GroupCommit

_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown"}
_KILLED = 9
_FAILED = 10


def crash(work: Callable[[], object], at: int) -> bool:
    """Run *work* in a child that dies before its event number *at*; False if it came to its end before.

    The last event is its end: all is done, and nobody was told.

    Raises:
        AssertionError: the work raised an error; it is on stderr.
    """
    child = os.fork()
    if child == 0:
        try:
            ended = _arm(at)
            work()
            ended()
        except BaseException:
            traceback.print_exc()
            os._exit(_FAILED)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, _KILLED), f"the work failed at event {at}"
    return code == _KILLED


def every_crash(prepare: Callable[[], None], work: Callable[[], object], step: int = 1) -> Iterator[int]:
    """Crash *work* at each of its events in turn, each time in what *prepare* has made anew."""
    at = 1
    while True:
        prepare()
        if not crash(work, at):
            return
        yield at
        at += step


def _arm(at: int) -> Callable[[], None]:
    left = at

    def happened() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(_KILLED)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _EVENTS or (event == "open" and _writes(arguments)):
            happened()

    def sealed(commits: GroupCommit) -> object:
        happened()
        result = seal(commits)
        happened()
        return result

    seal = GroupCommit.seal
    GroupCommit.seal = sealed  # type: ignore[method-assign,assignment]
    sys.addaudithook(hook)
    return happened


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
