"""Types of the C extension; hook.c says what it does."""

from typing import TypedDict

class Status(TypedDict):
    session_hooked: bool
    init_seen: bool
    stateless: bool
    kernel_flags: int
    reply_flags: int
    raised: int

def status() -> Status: ...
def set_active(on: bool, /) -> None: ...
def publish(
    what: int,
    ino: int,
    mode: int,
    nlink: int,
    uid: int,
    gid: int,
    rdev: int,
    size: int,
    blocks: int,
    atime: int,
    mtime: int,
    ctime: int,
    /,
) -> None: ...
def range_request() -> tuple[int, int, int, int, int, int, int]: ...
def publish_no_xattrs(ino: int, /) -> None: ...
def publish_file(ino: int, fd: int, size: int, /) -> None: ...
def withdraw(ino: int, /) -> None: ...
def withdraw_no_xattrs(ino: int, /) -> None: ...
def withdraw_all() -> None: ...
def kernel_time() -> int: ...
def arrives_soon(fd: int, /) -> bool: ...
