"""Sizes and times as people read them."""

from __future__ import annotations

import time

from ..engine.errors import UsageError

_POWERS = {"k": 10, "m": 20, "g": 30, "t": 40}
_AGES = (("d", 86_400), ("h", 3600), ("min", 60))  # unit, seconds


def size(number: int) -> str:
    """Return a number of bytes for people: 1.5 GiB."""
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(ns: int) -> str:
    """Return a time in ns for people: 1.5 ms."""
    for unit, factor in (("s", 10**9), ("ms", 10**6), ("µs", 10**3)):
        if ns >= factor:
            return f"{ns / factor:.1f} {unit}"
    return f"{ns} ns"


def moment(ns: int) -> str:
    """Return a time in ns since the epoch for people, in local time."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9))
    except (OverflowError, ValueError, OSError):
        return "-"  # no clock was ever that wrong: damage


def age(ns: int) -> str:
    """Return how long ago something was, given in ns, for people: 3 h."""
    seconds = max(0, ns // 10**9)
    for unit, factor in _AGES:
        if seconds >= factor:
            return f"{seconds // factor} {unit}"
    return f"{seconds} s"


def parse_size(option: str, text: str) -> int:
    """Return the bytes that a user means: a number, or one with k, m, g or t for powers of 1,024.

    Raises:
        UsageError: it is no size; *option* is named.
    """
    number, power = (text[:-1], _POWERS[text[-1:].lower()]) if text[-1:].lower() in _POWERS else (text, 0)
    if not number.isascii() or not number.isdigit() or len(number) > 18:
        raise UsageError(f"{option} {text} is not a size", "give bytes, or 64m, 2g")
    return int(number) << power
