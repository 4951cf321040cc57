"""Types of the C extension; hook.c says what it does."""

from collections.abc import Sequence
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
def caller() -> tuple[int, int]: ...

WANTED_FLAGS: dict[str, int]
STATELESS_FLAGS: dict[str, int]

def set_rules(
    requests_per_turn: int,
    slow_read: int,
    for_ever: float,
    name_max: int,
    xattr_prefixes: tuple[bytes, ...],
    xattr_names: tuple[bytes, ...],
    /,
) -> None: ...
def publish_attr(
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
def range_request() -> tuple[str, int, int, int, int, int, int]: ...
def publish_unlinked(
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
def publish_no_xattrs(ino: int, /) -> None: ...
def publish_file(ino: int, fd: int, size: int, /) -> None: ...
def withdraw(ino: int, /) -> None: ...
def withdraw_no_xattrs(ino: int, /) -> None: ...
def withdraw_all() -> None: ...
def set_generation(ino: int, generation: int, /) -> None: ...
def kernel_time() -> int: ...
def encode_operation(
    statements: list[tuple[int, Sequence[int | bytes | str | None]]],
    next_ino: int,
    next_object: int,
    notes: list[tuple[int, int]],
    /,
) -> bytes: ...
def arrives_soon(fd: int, /) -> bool: ...
def counters() -> tuple[dict[str, int], dict[str, tuple[int, list[int]]], dict[int, int]]: ...
