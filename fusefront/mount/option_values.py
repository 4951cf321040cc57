"""The values of mount options: each function returns one, or refuses the text with what to write instead."""

from __future__ import annotations

import math

from ...engine.errors import UsageError
from ...engine.model import ORIGIN_MAX

COMMIT_LIMIT = 86_400.0
SIZE_MIN = 2 << 20  # bytes; in less the database and its log leave no room for content
NAMES_MIN = 1000  # with fewer, names would be forgotten during the listing of one directory
_ID_MAX = (1 << 32) - 2  # the last number stands for none (user_namespaces(7))

_SUFFIXES = {"k": 10, "m": 20, "g": 30, "t": 40}


def _size_of(name: str, value: str) -> int:
    """Return a size in bytes from a number with an optional suffix as in tmpfs(5): k, m, g for powers of 1,024."""
    number, power = (value[:-1], _SUFFIXES[value[-1].lower()]) if value[-1:].lower() in _SUFFIXES else (value, 0)
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"{name}={value} is not a size", "give bytes, or 64m, 2g")
    return int(number) << power


def max_size(value: str) -> int:
    """Return the value of ``max_size=``, in bytes."""
    size = _size_of("max_size", value)
    if size < SIZE_MIN:
        raise UsageError(f"max_size={value} is too small", f"give at least {SIZE_MIN >> 20}m")
    return size


def origin_size(name: str, value: str) -> int:
    """Return the value of ``keep_origin=``, in bytes."""
    size = _size_of(name, value)
    if size > ORIGIN_MAX:
        raise UsageError(f"{name}={value} is too large", f"give at most {ORIGIN_MAX >> 10}k")
    return size


def count(name: str, value: str, what: str, most: int) -> int:
    """Return a number from 1 to *most*; *what* says of what."""
    if not value.isascii() or not value.isdigit() or len(value) > 9 or not 1 <= int(value) <= most:
        raise UsageError(f"{name}={value} is not a number of {what}", f"give 1 to {most}")
    return int(value)


def max_names(value: str) -> int:
    """Return the value of ``max_names=``."""
    if not value.isascii() or not value.isdigit() or int(value) < NAMES_MIN:
        raise UsageError(f"max_names={value} is not a number of names", f"give {NAMES_MIN} or more")
    return int(value)


def choice(name: str, value: str, known: tuple[str, ...]) -> str:
    """Return *value* if it is one of *known*."""
    if value not in known:
        raise UsageError(f"{name}={value} is unknown", f"give one of {', '.join(known)}")
    return value


def seconds(value: str) -> float:
    """Return the value of ``commit=``, in seconds."""
    hint = f"give seconds above 0 and up to {COMMIT_LIMIT:.0f}, or use sync"
    if not value:
        raise UsageError("commit= is empty", hint)
    try:
        found = float(value)
    except ValueError:
        raise UsageError(f"commit={value} is not a number", hint) from None
    if not math.isfinite(found) or not 0 < found <= COMMIT_LIMIT:
        raise UsageError(f"commit={value} is out of range", hint)
    return found


def number(name: str, value: str) -> int:
    """Return a user's or group's number."""
    if not value.isascii() or not value.isdigit() or len(value) > 10 or int(value) > _ID_MAX:
        raise UsageError(f"{name}={value} is not the number of a user or group", f"give 0 to {_ID_MAX}")
    return int(value)


def ranges(name: str, value: str) -> tuple[tuple[int, int, int], ...]:
    """Return the ranges of ``uidmapping=``: each the first number stored, the first as shown, and the count."""
    hint = "write STORED:SHOWN:COUNT, and more of them after colons"
    words = [word for word in value.split(":") if word]
    if not words or len(words) % 3:
        raise UsageError(f"{name}={value} is not a list of ranges", hint)
    found = []
    for at in range(0, len(words), 3):
        first, shown, size = (number(name, word) for word in words[at : at + 3])
        if not size or max(first, shown) + size - 1 > _ID_MAX:
            raise UsageError(f"{name}={value} has an impossible range", hint)
        found.append((first, shown, size))
    return tuple(found)
