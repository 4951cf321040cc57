"""Mount options: the comma separated text of ``-o`` and the source text that /proc/mounts shows.

One place knows every option word, its aliases and what it means; the rule it keeps is that nothing is guessed: a word
that is not known is refused by name, and a word that cannot do what it says is refused rather than ignored.  In a value
``\\,`` stands for a comma and ``\\\\`` for a backslash; any other backslash stands for itself, as it did for mini_fo.

This module is text only.  It does not look at the file system and imports neither trio nor pyfuse3.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ...engine.errors import UsageError
from ...engine.tree.ancestors import LONGEST as ORIGIN_MOST

log = logging.getLogger(__name__)

COMMIT_SECONDS = 1.0
COMMIT_LIMIT = 86_400.0
SIZE_LEAST = 2 << 20  # bytes; below it the database and its log leave no room for content

BASE_CHECKS = ("strict", "warn", "ignore")
COPY_UPS = ("blocks", "whole")

NAMES_LEAST = 1000  # fewer would be forgotten while one directory is listed

_SUFFIXES = {"k": 10, "m": 20, "g": 30, "t": 40}

_ALIASES = {"base": "base", "lowerdir": "base", "sto": "sto", "upperdir": "sto"}

# Words of the kernel that libfuse and fusermount3 understand, by the one flag each pair sets: the last one given wins.
_KERNEL_WORDS = {
    "ro": "ro",
    "rw": "ro",
    "sync": "sync",
    "async": "sync",
    "dirsync": "dirsync",
    "atime": "atime",
    "noatime": "atime",
    "relatime": "atime",
    "strictatime": "atime",
    "dev": "dev",
    "nodev": "dev",
    "suid": "suid",
    "nosuid": "suid",
    "exec": "exec",
    "noexec": "exec",
}
# These undo a word before them, and ask nothing of the kernel.
_KERNEL_DEFAULTS = frozenset({"rw", "async", "atime", "relatime", "strictatime"})
# What these ask of the overlay, for the kernel leaves access times to it.
_ACCESS: dict[str, Literal["relatime", "strictatime"]] = {
    "atime": "relatime",
    "relatime": "relatime",
    "strictatime": "strictatime",
}

# What these imply, unless a later word says otherwise: those of mount(8), and one of ours, for mount(8) keeps ``dev``,
# ``suid`` and ``exec`` to itself.
_IMPLIED = {
    "rootfs": ("dev", "suid", "exec"),
    "user": ("noexec", "nosuid", "nodev"),
    "users": ("noexec", "nosuid", "nodev"),
    "owner": ("nosuid", "nodev"),
    "group": ("nosuid", "nodev"),
}

# Words of mount(8) and fstab(5) that ask nothing of this file system, and two that every mount here already does.
# fmt: off
_IGNORED = frozenset({
    "defaults", "auto", "noauto", "nouser", "nousers", "noowner", "nogroup", "nofail", "_netdev", "silent", "loud",
    "quiet", "mand", "nomand", "iversion", "noiversion", "norelatime", "nostrictatime", "lazytime",
    "nolazytime", "diratime", "nodiratime", "default_permissions", "nonempty",
})
# fmt: on
_IGNORED_WITH_VALUE = frozenset({"comment", "workdir", "helper", "uhelper"})
_OWN_WITH_VALUE = frozenset({"commit", "max_size", "max_names", "redo", "base_check", "copy_up", "keep_origin"})
_FLAGS = frozenset({"plain", "debug", "untrusted_sto", "allow_other", "noallow_other"})
# What mount(8) hands on for a remount from /proc/self/mountinfo, where the kernel shows it.
_SHOWN_WITH_VALUE = frozenset({"user_id", "group_id", "max_read", "blksize"})

#: Every option, for help texts: how it is written, and what it does.
OPTIONS = (
    ("base=DIR, lowerdir=DIR", "the directory to overlay"),
    ("sto=DIR, upperdir=DIR", "the directory that receives every change"),
    ("commit=SECONDS", f"longest time until a change is durable (default {COMMIT_SECONDS:.0f})"),
    ("sync, dirsync", "every change is durable before its call returns; async undoes it"),
    ("ro, rw", "take no changes, or take them (default)"),
    ("max_size=SIZE", "most bytes the overlay may take in storage: 64m, 2g"),
    ("base_check=HOW", "another base: strict refuses it, warn (default) a wrong one"),
    ("copy_up=blocks, copy_up=whole", "how much of a large base file its first write copies"),
    ("keep_origin=SIZE", "keep what base files up to SIZE were before a change, for merges"),
    ("redo=aside", "go on without a redo log that cannot be replayed, and keep it"),
    ("max_names=NUMBER", "most names kept in memory (default: by the size of memory)"),
    ("nodev, nosuid, noexec", "as for every mount; those of base and storage hold here too"),
    ("dev, suid, exec", "the contrary; dev and suid are the default for base=/ only"),
    ("rootfs", "all three in one word, which mount(8) and fstab pass on"),
    ("noatime, relatime, strictatime", "whether reading a changed file sets its access time (default: no)"),
    ("allow_other, noallow_other", "whether other users may enter (default: root's mounts yes)"),
    ("untrusted_sto", "a storage that others may change: read it only (ro,nosuid,nodev)"),
    ("plain", "do without the hook into libfuse: slower, for trouble"),
    ("debug", "log everything"),
    ("remount,ro  remount,rw", "let a mount take no more changes, or take them again"),
    ("user, nofail, x-..., ...", "the other words of mount(8) and fstab(5), as they are meant there"),
)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What one mount was asked for.

    Attributes:
        base: the directory to overlay, as it was written.
        storage: the directory that receives every change, as it was written.
        commit: seconds between two group commits.
        sync: every operation is durable before it is acknowledged (``sync``, ``dirsync``).
        read_only: the overlay takes no changes.
        plain: run without the libfuse hook.
        allow_other: whether other users may enter the mount; None leaves it to the default (yes for root's mounts).
        kernel: mount words for FUSE that were asked for, each flag once: ``ro sync dirsync noatime dev nodev suid
            nosuid exec noexec``.  What FUSE does without being asked is not named.
        debug: log everything.
        access_times: which reads of changed files set their access time: those that find it older than the last change
            or than a day (``relatime``, ``atime``), all (``strictatime``), or none.
        max_size: most bytes the overlay may take in storage; None for as many as there are.
        max_names: names that are kept in memory before all that are not in use are forgotten; None for a share of the
            machine's memory.
        redo_aside: go on without a redo log that cannot be replayed (``redo=aside``).
        base_check: what becomes of a mount over another base than last time: ``strict``, ``warn`` or ``ignore``.
        keep_origin: largest base file, in bytes, of which the version that is changed is kept; 0 for none.
        copy_whole: copy base files wholly at their first write (``copy_up=whole``).
        untrusted: others may write to the storage; read-only, nosuid and nodev then, whatever else was asked for.
    """

    base: str
    storage: str
    commit: float = COMMIT_SECONDS
    sync: bool = False
    read_only: bool = False
    plain: bool = False
    allow_other: bool | None = None
    kernel: tuple[str, ...] = ()
    debug: bool = False
    access_times: Literal["relatime", "strictatime"] | None = None
    max_size: int | None = None
    max_names: int | None = None
    redo_aside: bool = False
    base_check: str = BASE_CHECKS[1]
    copy_whole: bool = False
    keep_origin: int = 0
    untrusted: bool = False


@dataclass(frozen=True, slots=True)
class Remount:
    """What a mount that is there is to be changed to.

    Attributes:
        read_only: whether it is to take no changes; None leaves it as it is.
        words: the mount words given, each flag once.
        base, storage: the places named, as they were written, or None.
    """

    read_only: bool | None
    words: tuple[str, ...]
    base: str | None
    storage: str | None


def describe() -> str:
    """All options as text, a line each."""
    width = max(len(spelled) for spelled, _ in OPTIONS)
    lines = [f"  {spelled:{width}}  {meaning}" for spelled, meaning in OPTIONS]
    return "\n".join(["Options for -o, separated by commas:", *lines, _COMMAS])


_COMMAS = "Write a comma in a path as \\, and a backslash as \\\\."


def parse(
    option_strings: Sequence[str], *, base: str | None = None, storage: str | None = None, sloppy: bool = False
) -> MountOptions:
    """Read one or more ``-o`` texts, in their order, as one list of options.

    Args:
        option_strings: comma separated texts; empty items are skipped, so a trailing comma does no harm.
        base: a base named in another way (``--base``), taken literally; with ``base=`` beside it, it is a repetition.
        storage: the same for the storage.
        sloppy: skip unknown options instead of refusing them (``mount -s``).

    Raises:
        UsageError: an option is unknown, repeated, missing, without a value or with a wrong one.
    """
    parser = _Parser(sloppy)
    _feed(parser, option_strings, base, storage)
    return parser.result()


def parse_remount(
    option_strings: Sequence[str], *, base: str | None = None, storage: str | None = None, sloppy: bool = False
) -> Remount | None:
    """The same for ``remount``; None if that word is not among them.

    mount(8) hands on what the mount was made with as well, from fstab or from what the kernel shows.

    Raises:
        UsageError: as ``parse``, but that nothing need be there.
    """
    if not any(item == "remount" for text in option_strings for item in _split(text)):
        return None
    parser = _Parser(sloppy, remount=True)
    _feed(parser, option_strings, base, storage)
    return parser.remounted()


def _feed(parser: _Parser, option_strings: Sequence[str], base: str | None, storage: str | None) -> None:
    if base is not None:
        parser.place("base", "--base", base)
    if storage is not None:
        parser.place("sto", "--sto", storage)
    for text in option_strings:
        for item in _split(text):
            parser.take(item)


class _Parser:
    """Collects options one by one; every method raises UsageError."""

    def __init__(self, sloppy: bool, *, remount: bool = False) -> None:
        self.sloppy = sloppy
        self.remount = remount
        self.places: dict[str, str] = {}
        self.spelled: dict[str, str] = {}
        self.kernel: dict[str, str] = {}
        self.commit = COMMIT_SECONDS
        self.flags: set[str] = set()
        self.allow_other: bool | None = None
        self.max_size: int | None = None
        self.max_names: int | None = None
        self.redo_aside = False
        self.base_check = BASE_CHECKS[1]
        self.copy_whole = False
        self.keep_origin = 0

    def take(self, item: str) -> None:
        name, equals, value = item.partition("=")
        if equals:
            self._take_value(name, value)
        else:
            self._take_word(name)

    def place(self, key: str, spelled: str, value: str) -> None:
        """Set base or sto; *spelled* is how the user named it."""
        if not value:
            raise UsageError(f"{spelled} is empty", "it must name a directory")
        if key in self.places and not (self.remount and self.places[key] == value):
            first = self.spelled[key]
            message = f"{spelled} is given twice" if first == spelled else f"{first} and {spelled} mean the same"
            raise UsageError(message, "give it once")
        self.places[key] = value
        self.spelled[key] = spelled

    def _take_value(self, name: str, value: str) -> None:
        if name in _ALIASES:
            self.place(_ALIASES[name], f"{name}=", value)
        elif name == "commit":
            self.commit = _seconds(value)
        elif name == "max_size":
            self.max_size = _bytes(value)
        elif name == "max_names":
            self.max_names = _count(value)
        elif name == "redo":
            if value != "aside":
                raise UsageError(f"redo={value} is unknown", "the only way to go on without a redo log is redo=aside")
            self.redo_aside = True
        elif name == "base_check":
            self.base_check = _choice(name, value, BASE_CHECKS)
        elif name == "keep_origin":
            self.keep_origin = _small_size(name, value)
        elif name == "copy_up":
            self.copy_whole = _choice(name, value, COPY_UPS) == "whole"
        elif name == "user":
            self._take_word(name)
        elif self.remount and name in _SHOWN_WITH_VALUE:
            pass
        elif name in _IGNORED_WITH_VALUE or name.startswith(("x-", "X-")):
            if name == "workdir":
                log.debug("workdir= is accepted and not used: storage needs no directory beside it")
        else:
            self._unknown(name)

    def _take_word(self, name: str) -> None:
        if name in _KERNEL_WORDS:
            self.kernel[_KERNEL_WORDS[name]] = name
        elif name in _IMPLIED:
            for word in _IMPLIED[name]:
                self.kernel[_KERNEL_WORDS[word]] = word
        elif name in {"allow_other", "noallow_other"}:
            self.allow_other = name == "allow_other"
        elif name in _FLAGS:
            self.flags.add(name)
        elif name == "remount" and self.remount:
            pass
        elif name in _ALIASES or name in _OWN_WITH_VALUE:
            raise UsageError(f"option {name} has no value", f"write {name}=VALUE")
        elif name not in _IGNORED and not name.startswith(("x-", "X-")):
            self._unknown(name)

    def _unknown(self, name: str) -> None:
        if self.sloppy:
            log.debug("unknown option %r skipped", name)
            return
        raise UsageError(f"unknown option '{name}'", _suggest(name))

    def remounted(self) -> Remount:
        """What was asked for, of a remount."""
        access = self.kernel.get("ro")
        return Remount(
            read_only=None if access is None else access == "ro",
            words=tuple(self.kernel.values()),
            base=self.places.get("base"),
            storage=self.places.get("sto"),
        )

    def result(self) -> MountOptions:
        missing = [key for key in ("base", "sto") if key not in self.places]
        if missing:
            names = " and ".join(f"{key}=" for key in missing)
            verb = "are" if len(missing) > 1 else "is"
            raise UsageError(f"{names} {verb} missing", "mount with -o base=DIR,sto=DIR")
        if "untrusted_sto" in self.flags:
            self.kernel |= {"ro": "ro", "suid": "nosuid", "dev": "nodev"}
        words = tuple(word for word in self.kernel.values() if word not in _KERNEL_DEFAULTS)
        return MountOptions(
            base=self.places["base"],
            storage=self.places["sto"],
            commit=self.commit,
            sync="sync" in words or "dirsync" in words,
            read_only="ro" in words,
            plain="plain" in self.flags,
            allow_other=self.allow_other,
            kernel=words,
            debug="debug" in self.flags,
            access_times=_ACCESS.get(self.kernel.get("atime", "")),
            max_size=self.max_size,
            max_names=self.max_names,
            redo_aside=self.redo_aside,
            base_check=self.base_check,
            copy_whole=self.copy_whole,
            keep_origin=self.keep_origin,
            untrusted="untrusted_sto" in self.flags,
        )


def _number_of_bytes(name: str, value: str) -> int:
    """A size in bytes, with the suffixes of tmpfs(5): k, m, g for powers of 1,024."""
    number, power = (value[:-1], _SUFFIXES[value[-1].lower()]) if value[-1:].lower() in _SUFFIXES else (value, 0)
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"{name}={value} is not a size", "give bytes, or 64m, 2g")
    return int(number) << power


def _bytes(value: str) -> int:
    size = _number_of_bytes("max_size", value)
    if size < SIZE_LEAST:
        raise UsageError(f"max_size={value} is too small", f"give at least {SIZE_LEAST >> 20}m")
    return size


def _small_size(name: str, value: str) -> int:
    size = _number_of_bytes(name, value)
    if size > ORIGIN_MOST:
        raise UsageError(f"{name}={value} is too large", f"give at most {ORIGIN_MOST >> 10}k")
    return size


def _count(value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < NAMES_LEAST:
        raise UsageError(f"max_names={value} is not a number of names", f"give {NAMES_LEAST} or more")
    return int(value)


def _choice(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise UsageError(f"{name}={value} is unknown", f"give one of {', '.join(known)}")
    return value


def _seconds(value: str) -> float:
    hint = f"give seconds above 0 and up to {COMMIT_LIMIT:.0f}, or use sync"
    if not value:
        raise UsageError("commit= is empty", hint)
    try:
        seconds = float(value)
    except ValueError:
        raise UsageError(f"commit={value} is not a number", hint) from None
    if not math.isfinite(seconds) or not 0 < seconds <= COMMIT_LIMIT:
        raise UsageError(f"commit={value} is out of range", hint)
    return seconds


def _suggest(name: str) -> str:
    """A hint for an unknown option; the commonest slip is a comma inside a path."""
    import difflib  # only for an error: it costs start-up time

    known = {*_ALIASES, *_OWN_WITH_VALUE, *_KERNEL_WORDS, *_IMPLIED, *_IGNORED, *_FLAGS}
    close = difflib.get_close_matches(name, sorted(known), n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return "if it is part of a path, write the comma before it as \\,"


def _split(text: str) -> Iterator[str]:
    """Cut *text* at its plain commas and undo ``\\,`` and ``\\\\``; empty items are left out."""
    item: list[str] = []
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\" and text[position + 1 : position + 2] in {",", "\\"}:
            position += 1
            item.append(text[position])
        elif char == ",":
            if item:
                yield "".join(item)
            item = []
        else:
            item.append(char)
        position += 1
    if item:
        yield "".join(item)


def escape(value: str) -> str:
    """Write *value* so that it survives between the commas of an option text."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def format_source(base: str, storage: str) -> str:
    """The source text (fsname) under which a mount shows in /proc/mounts."""
    return f"base={escape(base)},sto={escape(storage)}"


def parse_source(text: str) -> tuple[str, str] | None:
    """Undo :func:`format_source`; None if *text* does not come from there."""
    items = list(_split(text))
    if len(items) != 2 or not items[0].startswith("base=") or not items[1].startswith("sto="):
        return None
    base, storage = items[0].removeprefix("base="), items[1].removeprefix("sto=")
    return (base, storage) if format_source(base, storage) == text else None
