"""Migrations of many storages by one plan: imports and upgrades with checks, shell commands (hooks) and reports.

A plan is a TOML file:

    parallel = 2                    # number of storages migrated at the same time
    on_error = "stop"               # after a failure; or "continue" with the other storages
    reports = "/var/lib/reports"    # directory for one JSON file per storage, and summary.json

    [defaults]                      # values for every [[storage]] that does not set them
    base = "/srv/rom"

    [[storage]]
    each = "/srv/boxes/*/overlay"   # a pattern; or: source = "/srv/boxes/17/overlay"
    action = "import"               # or "upgrade": bring the database to this version's format
    target = "{parent}/storage"     # or: in_place = true
    name = "{parent}"               # of the report
    d_over_r = "kernel"             # as the option of minifo meta import
    meta_name = "META_dAfFgHE39ktF3HD2sr"
    refuse = ["broken"]             # kinds of notes for which the storage is not imported
    expect = ["etc/passwd"]         # paths that must exist in the migrated overlay
    before = "systemctl stop box@{name}"   # shell commands
    after = "systemctl start box@{name}"

{parent} is the directory that contains the source, and {name} the last component of {parent}.  The environment of a
shell command has them as MINIFO_PARENT and MINIFO_DIR, and also MINIFO_NAME (the report's name), MINIFO_SOURCE,
MINIFO_BASE and MINIFO_TARGET.  A plan is refused if a command contains {name} or {parent} and the value has characters
other than letters, digits and %+,-./:=@_, because the shell could take them for a command; the command must use
"$MINIFO_DIR" or "$MINIFO_PARENT" then.

What a pattern matches, and a target below it, is refused if it leads through a symlink below the directory that the
pattern names: the plan's author has named no more.

A run can be repeated: a storage with a report that says it is done with the same settings is skipped.
"""

from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from ..engine import MinifoError, Overlay, StateError, UsageError
from ..engine.store.database import DB_NAME
from .effects import DISK_ACCESS, DiskAccess
from .meta.codec import META_NAME
from .meta.importer import BACKUP, WORK, import_storage, plan_import
from .schema.upgrade import upgrade

_TEXTS = ("each", "source", "base", "action", "target", "name", "d_over_r", "meta_name", "before", "after")
_LISTS = ("refuse", "expect")
_COMMANDS = {"before", "after"}
_HARMLESS = re.compile(r"[A-Za-z0-9%+,./:=@_][A-Za-z0-9%+,./:=@_-]*")  # no leading "-": it could be an option
_VARIABLES = {"name": "MINIFO_DIR", "parent": "MINIFO_PARENT"}
_WILDCARD = re.compile(r"[*?[]")  # glob(7)
_TOP = {"parallel", "on_error", "reports", "defaults", "storage"}


@dataclass
class Task:
    """One storage of a plan; the attributes are the keys of the plan, see above."""

    name: str
    source: str
    action: Literal["import", "upgrade"] = "import"
    base: str = ""
    target: str | None = None
    in_place: bool = False
    d_over_r: Literal["kernel", "intent"] = "kernel"
    meta_name: str = META_NAME.decode()
    before: str = ""
    after: str = ""
    refuse: list[str] = field(default_factory=list)
    expect: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """A plan that was read and checked.

    Attributes:
        tasks: the storages.
        parallel: number of storages migrated at the same time.
        stop: True to start no other storage after a failure.
        reports: the directory for the reports.
        found: for each source that a pattern matches: the directory that the pattern names without a wildcard.
    """

    tasks: list[Task]
    parallel: int
    stop: bool
    reports: str
    found: dict[str, str] = field(default_factory=dict)


def read_plan(path: str) -> Plan:
    """Read and check a plan file.

    Raises:
        UsageError: the file is not TOML, has an unknown key or a wrong value, or lacks a necessary one.
    """
    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML ({error})", "see minifo migrate --help") from error
    unknown = sorted(set(found) - _TOP)
    if unknown:
        raise UsageError(f"{path} has the unknown key {unknown[0]!r}", f"the keys are {', '.join(sorted(_TOP))}")
    on_error, parallel = found.get("on_error", "stop"), found.get("parallel", 1)
    if on_error not in ("stop", "continue") or type(parallel) is not int or parallel < 1:
        raise UsageError(
            f"{path}: on_error or parallel has a wrong value",
            'on_error is "stop" or "continue", parallel a number from 1 on',
        )
    entries, defaults, reports = found.get("storage", []), found.get("defaults", {}), found.get("reports", "")
    tables = isinstance(entries, list) and all(isinstance(entry, dict) for entry in [*entries, defaults])
    if not tables or not isinstance(reports, str):
        raise UsageError(f"{path}: defaults, storage or reports has a wrong type", "see minifo migrate --help")
    tasks: list[Task] = []
    known: dict[str, str] = {}
    for entry in entries:
        filled = defaults | entry
        tasks += (made := _tasks(path, filled))
        if "each" in filled:
            known |= {task.source: _named_by_user(filled["each"]) for task in made}
    for task in tasks:
        _check_place(task, known.get(task.source))
    if not tasks:
        raise UsageError(f"{path} names no storage", "add a [[storage]]")
    for what in ("name", "source", "target"):
        values = [getattr(task, what) for task in tasks if getattr(task, what) is not None]
        double = sorted({value for value in values if values.count(value) > 1})
        if double:
            raise UsageError(f"{path}: two storages have the {what} {double[0]!r}", f"give each storage its own {what}")
    return Plan(tasks, parallel, on_error == "stop", os.path.abspath(reports or path + ".reports"), known)


def _tasks(path: str, entry: dict[str, Any]) -> list[Task]:
    """Return the storages that one [[storage]] table of a plan means.

    Raises:
        UsageError: the table has an unknown key, or a wrong or missing value.
    """
    for key, value in entry.items():
        good = (
            isinstance(value, str)
            if key in _TEXTS
            else isinstance(value, list) and all(isinstance(item, str) for item in value)
            if key in _LISTS
            else key == "in_place" and isinstance(value, bool)
        )
        if not good:
            raise UsageError(
                f"{path}: a storage has the wrong key or value {key} = {value!r}", "see minifo migrate --help"
            )
    entry = dict(entry)
    each = entry.pop("each", None)
    sources = sorted(glob.glob(each)) if each is not None else [entry.pop("source", "")]
    entry.pop("source", None)
    if each is not None and not sources:
        raise UsageError(f"{path}: no path matches {each}", "correct the pattern")
    if not all(sources):
        raise UsageError(f"{path}: a storage has no source", "give source or each")
    tasks = []
    for source in sources:
        source = source.rstrip("/")
        words = {"parent": os.path.dirname(source), "name": os.path.basename(os.path.dirname(source))}
        filled = {key: _fill(value, words) if key in _TEXTS else value for key, value in entry.items()}
        for key in _COMMANDS & set(entry):
            _check_command(path, key, entry[key], words)
        task = Task(**({"name": source} | filled), source=source)
        if task.action not in ("import", "upgrade") or task.d_over_r not in ("kernel", "intent"):
            raise UsageError(f"{path}: {task.name}: action or d_over_r has a wrong value", "see minifo migrate --help")
        if task.action == "import" and (not task.base or (task.target is None) != task.in_place):
            raise UsageError(
                f"{path}: {task.name}: an import needs base, and either target or in_place", "correct the plan"
            )
        tasks.append(task)
    return tasks


def _named_by_user(pattern: str) -> str:
    """Return the part of a pattern before the first name with a wildcard."""
    names = pattern.split("/")
    count = next((index for index, name in enumerate(names) if _WILDCARD.search(name)), len(names))
    return "/".join(names[:count]) or ("/" if pattern.startswith("/") else ".")


def _check_place(task: Task, named: str | None) -> None:
    """Refuse a source that a pattern matches, or a target in its place, if a symlink leads there.

    Whoever may write to a directory that the user has not named could lead the migration to any other one.

    Args:
        task: the storage.
        named: the directory that the user has named, from where on no symlink may be followed; None for a source that
            the user has named as a whole.

    Raises:
        UsageError: a symlink is in the way.
    """
    if named is None:
        return
    top = os.path.realpath(named)
    for place in (task.source, task.target):
        inside = place is not None and os.path.relpath(os.path.abspath(place), os.path.abspath(named))
        if not inside or inside.split("/")[0] == "..":
            continue  # a target that the plan names elsewhere
        if os.path.realpath(place or "") != os.path.normpath(os.path.join(top, inside)):
            raise UsageError(f"{place} leads elsewhere: a symlink is on the way", "name the true path as a source")


def _check_command(path: str, key: str, command: str, words: dict[str, str]) -> None:
    """Refuse a shell command if a placeholder in it stands for a text that the shell could interpret.

    Raises:
        UsageError: the name of a directory has such characters.
    """
    for word in re.findall(r"\{(parent|name)\}", command):
        if not _HARMLESS.fullmatch(words[word]):
            raise UsageError(
                f"{path}: {key} contains {{{word}}}, but the shell would interpret characters of {words[word]!r}",
                f'write "${_VARIABLES[word]}" instead',
            )


def _fill(text: str, words: dict[str, str]) -> str:
    return re.sub(r"\{(parent|name)\}", lambda match: words[match[1]], text)


class Fleet:
    """Carries out a plan.

    Args:
        plan: what to do.
        dry_run: True to check and plan each storage only; no shell command runs and no report is written.
        disk: reads and writes the disk (see ``DiskAccess``).
    """

    def __init__(self, plan: Plan, *, dry_run: bool = False, disk: DiskAccess = DISK_ACCESS) -> None:
        self._disk = disk
        self._plan = plan
        self._dry_run = dry_run
        self._stopped = threading.Event()

    def run(self) -> list[dict[str, Any]]:
        """Migrate all storages of the plan.

        Returns:
            A report for each storage, in the order of the plan.  Its ``status`` is ``done``, ``skipped`` (an earlier
            run has done it), ``planned`` (with *dry_run*), ``failed``, or ``stopped`` (not started because another
            storage had failed).
        """
        if not self._dry_run:
            self._disk.effects.make_directories(os.path.realpath(self._plan.reports))
        with ThreadPoolExecutor(self._plan.parallel) as pool:
            reports = list(pool.map(self._task, self._plan.tasks))
        if not self._dry_run:
            counts: dict[str, int] = {}
            for report in reports:
                counts[report["status"]] = counts.get(report["status"], 0) + 1
            summary = {"counts": counts, "storages": {report["name"]: report["status"] for report in reports}}
            self._disk.effects.write_durably(
                os.path.join(self._plan.reports, "summary.json"), json.dumps(summary, indent=1)
            )
        return reports

    def _task(self, task: Task) -> dict[str, Any]:
        """Migrate one storage and return its report; errors end up in the report."""
        settings = dict(vars(task))
        report: dict[str, Any] = {"name": task.name, "settings": settings, "status": "stopped", "error": None}
        if self._stopped.is_set():
            return report
        path = os.path.join(self._plan.reports, task.name.strip("/").replace("/", "-") + ".json")
        if not self._dry_run and _is_done(path, settings):
            return report | {"status": "skipped"}
        began = time.time()
        try:
            _check_place(task, self._plan.found.get(task.source))  # again: the plan may have been read long ago
            report |= self._check(task) if self._dry_run else self._do(task)
            report["status"] = "planned" if self._dry_run else "done"
        except (MinifoError, OSError) as error:
            report |= {"status": "failed", "error": str(error)}
            if self._plan.stop:
                self._stopped.set()
        report["seconds"] = round(time.time() - began, 3)
        if not self._dry_run:
            self._disk.effects.write_durably(path, json.dumps(report, indent=1))
        return report

    def _do(self, task: Task) -> dict[str, Any]:
        found = self._check(task)
        _hook(task, task.before)
        found |= _upgrade(task, self._disk) if task.action == "upgrade" else _import(task, self._disk)
        storage = task.source if task.target is None else task.target
        if task.expect:
            _expect(task, storage)
        _hook(task, task.after)
        return found

    def _check(self, task: Task) -> dict[str, Any]:
        """Check a storage before anything is changed, and return the items for its report.

        Raises:
            StateError: the storage cannot be migrated, or the plan refuses a note about it.
        """
        if task.action == "upgrade":
            return upgrade(task.source, dry_run=True)._asdict()
        if _was_begun(task):
            return {}
        target = task.source if task.in_place else task.target
        name = os.fsencode(task.meta_name)
        plan = plan_import(task.source, task.base, target, meta_name=name, d_over_r=task.d_over_r)
        for note in plan.notes:
            if note.kind in task.refuse:
                raise StateError(
                    f"{note.kind}: {os.fsdecode(note.place)}: {note.detail}", "the plan refuses notes of this kind"
                )
        notes = [[note.kind, os.fsdecode(note.place), note.detail] for note in plan.notes]
        return {"states": plan.counts, "notes": notes}


def _is_done(path: str, settings: dict[str, Any]) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(report["status"] == "done" and report["settings"] == settings)


def _was_begun(task: Task) -> bool:
    """Return whether an earlier run has begun to change the storage."""
    storage = task.source if task.target is None else task.target
    return any(os.path.exists(os.path.join(storage, name)) for name in (WORK, DB_NAME))


def _import(task: Task, disk: DiskAccess) -> dict[str, Any]:
    """Import one storage unless an earlier run has, and return the items for its report."""
    storage = task.source if task.target is None else task.target
    if os.path.exists(os.path.join(storage, DB_NAME)) and not os.path.exists(os.path.join(storage, WORK)):
        if task.in_place and not os.path.exists(os.path.join(storage, BACKUP)):
            raise StateError(f"{storage} is a storage of minifo, not of mini_fo", "remove it from the plan")
        return {"imported": "before"}  # an earlier run was interrupted after the import and before the report
    report = import_storage(
        task.source,
        task.base,
        task.target,
        meta_name=os.fsencode(task.meta_name),
        d_over_r=task.d_over_r,
        disk=disk,
    )
    return {"compared": report.compared.entries if report.compared is not None else None, "backup": report.backup}


def _upgrade(task: Task, disk: DiskAccess) -> dict[str, Any]:
    return upgrade(task.source, disk=disk)._asdict()


def _expect(task: Task, storage: str) -> None:
    """Check that the paths in ``expect`` exist in a migrated overlay.

    Raises:
        StateError: a path does not exist.
    """
    if not task.base:
        raise StateError("the plan has expect, but no base for this storage", "add base to the plan")
    overlay = Overlay.open(task.base, storage)
    try:
        for path in task.expect:
            if overlay.find(os.fsencode(path)) is None:
                raise StateError(
                    f"{path} does not exist in the overlay of {storage}", "inspect the storage before you use it"
                )
    finally:
        overlay.close()


def _hook(task: Task, command: str) -> None:
    """Run a shell command of the plan; do nothing if it is empty.

    Raises:
        StateError: the command failed.
    """
    if not command:
        return
    facts = {"NAME": task.name, "SOURCE": task.source, "BASE": task.base, "TARGET": task.target or task.source}
    facts |= {"DIR": os.path.basename(os.path.dirname(task.source)), "PARENT": os.path.dirname(task.source)}
    env = os.environ | {f"MINIFO_{key}": value for key, value in facts.items()}
    done = subprocess.run(["/bin/sh", "-c", command], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or [""]
        raise StateError(
            f"the command '{command}' failed with exit code {done.returncode} ({last[0]})",
            "correct the cause, then run the plan again",
        )
