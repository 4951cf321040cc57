"""Parses mount options: the comma-separated text of ``-o``.

Only this module knows the option words, their aliases and their meanings.  The rule kept: it guesses nothing; an
unknown word is refused by name, and so is a word that cannot have its effect.  How the words are separated is in
source.py.

It only handles text: it does not access the file system, and imports neither trio nor pyfuse3.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...engine.errors import UsageError
from ...engine.model import JOURNAL_MAX, TRIAL_MOUNTS, TRIAL_MOUNTS_MAX
from ...engine.store.layers import join_layers, split_layers
from ..process.log_senders import TARGETS as LOG_TARGETS
from . import option_values
from .id_map import IdMap, Ids
from .source import decode, split, split_encoded

log = logging.getLogger(__name__)

COMMIT_SECONDS = 1.0

BASE_CHECKS = ("strict", "warn", "ignore")
COPY_UPS = ("blocks", "whole")

_LOWER = "lowerdir="
_ALIASES = {"base": "base", "lowerdir": "base", "sto": "sto", "upperdir": "sto"}

# Words that libfuse and fusermount3 pass to the kernel, and the flag that each one sets or clears: the last word of a
# flag counts.
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
# Words that clear a flag; the kernel does not get them.
_KERNEL_DEFAULTS = frozenset({"rw", "async", "atime", "relatime", "strictatime"})
# Words about access times, and what the overlay does for each: the kernel leaves access times of a FUSE mount to it.
_ACCESS: dict[str, Literal["relatime", "strictatime"]] = {
    "atime": "relatime",
    "relatime": "relatime",
    "strictatime": "strictatime",
}

# Words that imply others, unless a later word contradicts: those of mount(8), and ``rootfs``, for mount(8) does not
# pass ``dev``, ``suid`` and ``exec`` on.
_IMPLIED = {
    "rootfs": ("dev", "suid", "exec"),
    "user": ("noexec", "nosuid", "nodev"),
    "users": ("noexec", "nosuid", "nodev"),
    "owner": ("nosuid", "nodev"),
    "group": ("nosuid", "nodev"),
}

# Words of mount(8) and fstab(5) that mean nothing to this file system, and two that are always in force.
# fmt: off
_IGNORED = frozenset({
    "defaults", "auto", "noauto", "nouser", "nousers", "noowner", "nogroup", "nofail", "_netdev", "silent", "loud",
    "quiet", "mand", "nomand", "iversion", "noiversion", "norelatime", "nostrictatime", "lazytime",
    "nolazytime", "diratime", "nodiratime", "default_permissions", "nonempty",
})
# fmt: on
_IGNORED_WITH_VALUE = frozenset({"comment", "workdir", "helper", "uhelper"})
_OWN_WITH_VALUE = frozenset(
    {
        *("commit", "max_size", "max_names", "redo", "base_check", "copy_up", "keep_origin", "journal", "log"),
        *("metrics", "at", "trial", "uidmapping", "gidmapping", "squash_to_uid", "squash_to_gid"),
    }
)
_FLAGS = frozenset(
    {"squash_to_root", "trial", "plain", "debug", "untrusted_sto", "allow_other", "noallow_other", "root_storage"}
)
# Options that the kernel shows in /proc/self/mountinfo, and that mount(8) therefore passes on for a remount.
_SHOWN_WITH_VALUE = frozenset({"user_id", "group_id", "max_read", "blksize"})

#: Every option for help texts: how it is written, and what it does.
OPTIONS = (
    ("base=DIR", "the directory to overlay"),
    ("lowerdir=DIR[:DIR...]", "the same; several layers are merged, the topmost first"),
    ("sto=DIR, upperdir=DIR", "the directory that receives every change"),
    ("commit=SECONDS", f"longest time until a change is durable (default {COMMIT_SECONDS:.0f})"),
    ("sync, dirsync", "every change is durable before its call returns; async undoes it"),
    ("ro, rw", "refuse changes, or allow them (default)"),
    ("max_size=SIZE", "most bytes the overlay may take in storage: 64m, 2g"),
    ("base_check=HOW", "another base than last time: strict refuses it; warn; ignore"),
    ("copy_up=blocks, copy_up=whole", "how much of a large base file its first write copies"),
    ("keep_origin=SIZE", "keep the old content of base files up to SIZE, for merges"),
    ("journal=N", "note who changed what, and keep the last N entries for minifo log"),
    ("at=CHECKPOINT", "show a checkpoint, read-only, also beside a mount of the overlay"),
    ("trial, trial=N", f"after N mounts without minifo confirm, fall back (default {TRIAL_MOUNTS})"),
    ("redo=aside", "mount without a redo log that cannot be replayed; keep the log"),
    ("max_names=NUMBER", "most names to keep in memory (default: by the size of memory)"),
    ("nodev, nosuid, noexec", "as for every mount; also in force if base or storage has them"),
    ("dev, suid, exec", "the opposite; dev and suid are the default for base=/ only"),
    ("rootfs", "dev, suid and exec in one word, which mount(8) passes on"),
    ("root_storage", "the daemon outlives a shutdown: for an overlay that becomes /"),
    ("noatime, relatime, strictatime", "whether reading a changed file sets its access time (default: no)"),
    ("allow_other, noallow_other", "whether other users may enter (default: root's mounts yes)"),
    ("untrusted_sto", "only read a storage that other users may change (ro,nosuid,nodev)"),
    ("uidmapping=A:B:N[:...]", "show users A to A+N-1 of base and storage as B and so on"),
    ("gidmapping=A:B:N[:...]", "the same for groups"),
    ("squash_to_root", "show all as owned by root"),
    ("squash_to_uid=N", "show all as owned by this user"),
    ("squash_to_gid=N", "show all as owned by this group"),
    ("metrics=PATH", "counters for node_exporter: a directory, or a file *.prom"),
    ("plain", "run without the session hook: slower, to find a fault"),
    ("debug", "log everything, each request with the time it took"),
    ("log=WHERE", f"where the daemon's log goes: {', '.join(LOG_TARGETS)}"),
    ("remount,ro  remount,rw", "make an existing mount read-only, or writable again"),
    ("user, nofail, x-..., ...", "other words of mount(8) and fstab(5), with their meaning there"),
)


#: The values of options that have a choice of them.
CHOICES: dict[str, tuple[str, ...]] = {
    "log": LOG_TARGETS,
    "base_check": BASE_CHECKS,
    "copy_up": ("blocks", "whole"),
    "redo": ("aside",),
}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of one mount.

    Attributes:
        base: the directory to overlay, as the user wrote it, or the text of several (engine/store/layers.py).
        storage: the directory that receives every change, as the user wrote it.
        commit: longest time, in seconds, between two group commits.
        sync: every operation is durable before it is acknowledged (``sync``, ``dirsync``).
        read_only: the overlay refuses changes.
        plain: run without the session hook.
        allow_other: whether other users may use the mount; None for the default (only root's mounts allow it).
        kernel: words of the mount flags for FUSE, one for each flag that is not the default: ``ro sync dirsync noatime
            dev nodev suid nosuid exec noexec``.
        debug: log everything.
        access_times: which reads of changed files set their access time: ``relatime`` (also ``atime``) if it is older
            than the last change or than a day; ``strictatime`` every read; None no read.
        max_size: most bytes that the overlay may take in storage; None for no limit.
        max_names: number of names in memory above which the unused ones are forgotten; None for a share of the
            machine's memory.
        redo_aside: mount without a redo log that cannot be replayed, and rename that log (``redo=aside``).
        base_check: what to do if the base is another one than at the last mount: ``strict``, ``warn`` or ``ignore``.
        keep_origin: the largest base file, in bytes, whose content is kept before its first change; 0 for none.
        journal: how many entries of the journal of changes to keep; 0 to write none.
        copy_whole: copy a base file as a whole at its first write (``copy_up=whole``).
        untrusted: other users may write to the storage; implies read-only, nosuid and nodev, whatever else is set.
        at: name of a checkpoint to show; implies read-only.  None for the overlay as it is.
        trial: after how many mounts without a confirmation the overlay falls back; None for no such rule.
        metrics: where counters are written for node_exporter, a directory or a file name; None for nowhere.
        log: where the daemon's log goes, of LOG_TARGETS.
        root_storage: the system runs on the overlay: its daemon goes on after SIGTERM, and bears the mark of
            root_storage.py.
        hidden: directories that the overlay does not show, beside its storage; no word sets it.
        memory: the directory in memory for the redo log; None for the user's; no word sets it.
        ids: how owners are shown; None for as they are.
        throwaway: the storage is removed when the mount ends; no word sets it.
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
    journal: int = 0
    untrusted: bool = False
    at: str | None = None
    trial: int | None = None
    metrics: str | None = None
    log: str = LOG_TARGETS[0]
    root_storage: bool = False
    hidden: tuple[str, ...] = ()
    memory: str | None = None
    ids: IdMap | None = None
    throwaway: bool = False


@dataclass(frozen=True, slots=True)
class Remount:
    """A request to change the flags of an existing mount.

    Attributes:
        read_only: True to refuse changes, False to allow them; None for no change.
        words: the option words for mount flags, one for each flag.
        base, storage: the directories in the request, as the user wrote them; None if it names none.
    """

    read_only: bool | None
    words: tuple[str, ...]
    base: str | None
    storage: str | None


def describe() -> str:
    """Return a help text of all options, a line each."""
    width = max(len(spelled) for spelled, _ in OPTIONS)
    lines = [f"  {spelled:{width}}  {meaning}" for spelled, meaning in OPTIONS]
    return "\n".join(["Mount options (for -o, separated by commas):", *lines, _COMMAS])


def words() -> list[str]:
    """Return all options as they begin, for completion: ``ro``, ``commit=``."""
    spelled = (word for text, _ in OPTIONS for word in text.replace(", ", " ").split() if "..." not in word)
    return list(dict.fromkeys(word[: word.index("=") + 1] if "=" in word else word for word in spelled))


_COMMAS = "Write a comma in a path as \\, and a backslash as \\\\, a colon in lowerdir= as \\:."


def parse(
    option_strings: Sequence[str], *, base: str | None = None, storage: str | None = None, sloppy: bool = False
) -> MountOptions:
    """Return the options of a mount command.

    Args:
        option_strings: the texts of its ``-o`` options, in their order; empty items between commas are skipped.
        base: the value of ``--base``, in which a backslash has no meaning; an error if ``base=`` is given as well.
        storage: the value of ``--sto``, in which a backslash has no meaning; an error if ``sto=`` is given as well.
        sloppy: skip unknown options instead of refusing them (``mount -s``).

    Raises:
        UsageError: an option is unknown, given twice, missing, without a value or with a wrong one.
    """
    parser = _Parser(sloppy)
    _feed(parser, option_strings, base, storage)
    return parser.result()


def parse_remount(
    option_strings: Sequence[str], *, base: str | None = None, storage: str | None = None, sloppy: bool = False
) -> Remount | None:
    """Return the request of a remount command; None if ``remount`` is not among the options.

    mount(8) passes on the present options as well, from fstab or from the mount table.

    Args:
        option_strings: the texts of its ``-o`` options, in their order; empty items between commas are skipped.
        base: the value of ``--base``; it may repeat ``base=``.
        storage: the value of ``--sto``; it may repeat ``sto=``.
        sloppy: skip unknown options instead of refusing them (``mount -s``).

    Raises:
        UsageError: an option is unknown, without a value or with a wrong one.
    """
    if not any(item == "remount" for text in option_strings for item in split(text)):
        return None
    parser = _Parser(sloppy, remount=True)
    _feed(parser, option_strings, base, storage)
    return parser.remounted()


def _feed(parser: _Parser, option_strings: Sequence[str], base: str | None, storage: str | None) -> None:
    if base is not None:
        parser.set_directory("base", "--base", base)
    if storage is not None:
        parser.set_directory("sto", "--sto", storage)
    for text in option_strings:
        for item in split_encoded(text):
            parser.take(_layers(item) if item.startswith(_LOWER) else decode(item))


def _layers(item: str) -> str:
    """Return a ``lowerdir=`` item with the text of the base that it names (engine/store/layers.py)."""
    layers = split_layers(item.removeprefix(_LOWER))
    if len(layers) == 1:
        return _LOWER + layers[0]
    if "" in layers:
        raise UsageError("lowerdir= has an empty path between colons", "write a colon in a path as \\:")
    return _LOWER + join_layers([os.path.abspath(layer) for layer in layers])


class _Parser:
    """Collects options one by one; its methods raise UsageError for an option that is refused."""

    def __init__(self, sloppy: bool, *, remount: bool = False) -> None:
        self.sloppy = sloppy
        self.remount = remount
        self.directories: dict[str, str] = {}
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
        self.journal = 0
        self.ranges: dict[str, tuple[tuple[int, int, int], ...]] = {}
        self.squash: dict[str, int] = {}
        self.at: str | None = None
        self.trial: int | None = None
        self.metrics: str | None = None
        self.log = LOG_TARGETS[0]

    def take(self, item: str) -> None:
        """Parse one option, ``NAME`` or ``NAME=VALUE``."""
        name, equals, value = item.partition("=")
        if equals:
            self._take_value(name, value)
        else:
            self._take_word(name)

    def set_directory(self, key: str, spelled: str, value: str) -> None:
        """Set ``base`` or ``sto``; *spelled* is the option as the user wrote it."""
        if not value:
            raise UsageError(f"{spelled} is empty", "it must name a directory")
        if key in self.directories and not (self.remount and self.directories[key] == value):
            first = self.spelled[key]
            message = f"{spelled} is given twice" if first == spelled else f"{first} and {spelled} mean the same"
            raise UsageError(message, "give it once")
        self.directories[key] = value
        self.spelled[key] = spelled

    def _take_value(self, name: str, value: str) -> None:
        if name in _ALIASES:
            self.set_directory(_ALIASES[name], f"{name}=", value)
        elif name == "commit":
            self.commit = option_values.seconds(value)
        elif name == "max_size":
            self.max_size = option_values.max_size(value)
        elif name == "max_names":
            self.max_names = option_values.max_names(value)
        elif name == "redo":
            if value != "aside":
                raise UsageError(f"redo={value} is unknown", "write redo=aside to mount without the redo log")
            self.redo_aside = True
        elif name == "base_check":
            self.base_check = option_values.choice(name, value, BASE_CHECKS)
        elif name == "keep_origin":
            self.keep_origin = option_values.origin_size(name, value)
        elif name == "journal":
            self.journal = option_values.count(name, value, "entries", JOURNAL_MAX)
        elif name == "at":
            if not value:
                raise UsageError("at= is empty", "it must name a checkpoint")
            self.at = value
        elif name == "trial":
            self.trial = option_values.count(name, value, "mounts", TRIAL_MOUNTS_MAX)
        elif name == "copy_up":
            self.copy_whole = option_values.choice(name, value, COPY_UPS) == "whole"
        elif name == "log":
            self.log = option_values.choice(name, value, LOG_TARGETS)
        elif name == "metrics":
            if not value:
                raise UsageError("metrics= is empty", "it must name a directory, or a file that ends with .prom")
            self.metrics = value
        elif name in {"uidmapping", "gidmapping"}:
            self.ranges[name] = option_values.ranges(name, value)
        elif name in {"squash_to_uid", "squash_to_gid"}:
            self.squash[name] = option_values.number(name, value)
        elif name == "user":
            self._take_word(name)
        elif self.remount and name in _SHOWN_WITH_VALUE:
            pass
        elif name in _IGNORED_WITH_VALUE or name.startswith(("x-", "X-")):
            if name == "workdir":
                log.debug("workdir= is ignored: minifo needs no second directory beside the storage")
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
            log.debug("the unknown option %r is skipped", name)
            return
        raise UsageError(f"unknown option '{name}'", _suggest(name))

    def remounted(self) -> Remount:
        """Return the collected options as a request of a remount."""
        access = self.kernel.get("ro")
        return Remount(
            read_only=None if access is None else access == "ro",
            words=tuple(self.kernel.values()),
            base=self.directories.get("base"),
            storage=self.directories.get("sto"),
        )

    def result(self) -> MountOptions:
        """Return the collected options; refuse them if base or storage is missing."""
        missing = [key for key in ("base", "sto") if key not in self.directories]
        if missing:
            names = " and ".join(f"{key}=" for key in missing)
            verb = "are" if len(missing) > 1 else "is"
            raise UsageError(f"{names} {verb} missing", "mount with -o base=DIR,sto=DIR")
        if "untrusted_sto" in self.flags:
            self.kernel |= {"ro": "ro", "suid": "nosuid", "dev": "nodev"}
        if self.at is not None:
            if self.metrics is not None:
                hint = "the mount of the overlay itself may write them"
                raise UsageError("at= and metrics= exclude each other", hint)
            self.kernel["ro"] = "ro"
        words = tuple(word for word in self.kernel.values() if word not in _KERNEL_DEFAULTS)
        return MountOptions(
            base=self.directories["base"],
            storage=self.directories["sto"],
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
            journal=self.journal,
            at=self.at,
            trial=TRIAL_MOUNTS if self.trial is None and "trial" in self.flags else self.trial,
            untrusted="untrusted_sto" in self.flags,
            metrics=self.metrics,
            log=self.log,
            root_storage="root_storage" in self.flags,
            ids=self._ids(),
        )

    def _ids(self) -> IdMap | None:
        """Return how owners are shown; None for as they are."""
        all_one = 0 if "squash_to_root" in self.flags else None
        users = Ids(self.ranges.get("uidmapping", ()), self.squash.get("squash_to_uid", all_one))
        groups = Ids(self.ranges.get("gidmapping", ()), self.squash.get("squash_to_gid", all_one))
        return None if users == groups == Ids() else IdMap(users, groups)


def _suggest(name: str) -> str:
    """Return a hint for an unknown option: a similar known one, or else that a comma in a path needs a backslash."""
    import difflib  # here, for it costs start-up time and only errors need it

    known = {*_ALIASES, *_OWN_WITH_VALUE, *_KERNEL_WORDS, *_IMPLIED, *_IGNORED, *_FLAGS}
    close = difflib.get_close_matches(name, sorted(known), n=1)
    if close:
        return f"did you mean '{close[0]}'?"
    return "if it is part of a path, write the comma before it as \\,"
