"""Sizes and times as people read them."""

from __future__ import annotations


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
