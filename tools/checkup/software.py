"""minifo itself, what it is built on, and how mount(8) finds it (``minifo doctor``)."""

from __future__ import annotations

import glob
import importlib.metadata
import os
import platform
import re
import sys

from ... import engine
from ...fusefront.extension.probe import probe
from ..install_helpers import HELPERS, PACKAGED, find_scripts, is_packaged, link_target
from ..trust import changeable, what_runs
from .child import NoAnswer, answer_of
from .finding import Check, Finding, note, ok, problem

_SBIN = "/sbin"
if is_packaged():
    _AGAIN = "install the package minifo again (Debian: apt install --reinstall minifo)"
    _INSTALL_HELPERS = _AGAIN
else:
    _AGAIN = "install minifo again: pip install --force-reinstall minifo"
    _INSTALL_HELPERS = "sudo minifo install-helpers"


def checks() -> list[Check]:
    """Return the checks, in the order in which they are shown."""
    return [
        Check("minifo", _minifo),
        Check("python", lambda: ok("python", f"{platform.python_version()} ({sys.executable})")),
        *(Check(name, lambda name=name: _package(name)) for name in required()),  # type: ignore[misc]
        Check("SQLite", _sqlite),
        Check("session hook", session_hook),
        Check("helpers", lambda: helpers(_SBIN)),
    ]


def required() -> list[str]:
    """Return the names of the packages that minifo needs, as its metadata have them."""
    try:
        lines = importlib.metadata.requires("minifo") or []
    except importlib.metadata.PackageNotFoundError:
        return []  # the check of minifo itself says so
    return [re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line]


def _minifo() -> Finding:
    place = os.path.dirname(os.path.dirname(os.path.abspath(engine.__file__)))
    try:
        installed = importlib.metadata.version("minifo")
    except importlib.metadata.PackageNotFoundError:
        return problem("minifo", f"{engine.VERSION} in {place}, but it is not installed", _AGAIN)
    if installed != engine.VERSION:
        return problem("minifo", f"{engine.VERSION} in {place}, but {installed} is installed", _AGAIN)
    return ok("minifo", f"{installed} ({place})")


def _package(name: str) -> Finding:
    try:
        return ok(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return problem(name, "not installed", _AGAIN if is_packaged() else f"{sys.executable} -m pip install {name}")


def _sqlite() -> Finding:
    def ask() -> str:
        import apsw

        return apsw.sqlite_lib_version()

    try:
        return ok("SQLite", f"{answer_of(ask)}, within apsw")
    except NoAnswer as error:
        return problem("SQLite", f"apsw cannot be loaded ({error.message})", _AGAIN)


def session_hook() -> Finding:
    """Say whether the C extension and libfuse fit each other; a child tries it, for it may crash."""
    name = "session hook"
    try:
        found = answer_of(probe, 20)
    except NoAnswer as error:
        remedy = f"install libfuse 3 (package fuse3); if it is there, {_AGAIN}"
        return problem(name, f"pyfuse3 and libfuse do not work here ({error.message})", remedy)
    fact = f"libfuse {found['libfuse']}"
    if not found["loaded"]:
        return problem(name, f"{fact}; the C extension cannot be loaded, so mounts are slower", _AGAIN)
    if not found["known"]:
        return problem(name, f"{fact}; the C extension was built for another one, so mounts are slower", _AGAIN)
    return ok(name, f"it fits libfuse {found['libfuse']}")


def helpers(directory: str) -> Finding:
    """Say which installation the helpers of mount(8), umount(8) and fsck(8) belong to.

    Args:
        directory: where mount(8) looks for them.
    """
    name = "helpers"
    paths = {helper: os.path.join(directory, helper) for helper in HELPERS}
    there = {helper: link_target(path) for helper, path in paths.items() if os.path.lexists(path)}
    if not there:
        return note(name, f"none in {directory}: mount(8), umount(8) and fstab do not know minifo", _INSTALL_HELPERS)
    foreign = [paths[helper] for helper, target in there.items() if target is None]
    if foreign:
        remedy = f"move it away, then: {_INSTALL_HELPERS}"
        return problem(name, f"{', '.join(foreign)} is no link of minifo", remedy)
    targets = [target for target in there.values() if target is not None]
    broken = [target for target in targets if not os.path.exists(target)]
    if broken:
        return problem(name, f"they lead to {broken[0]}, which is not there", _INSTALL_HELPERS)
    missing = [helper for helper in HELPERS if helper not in there]
    if missing:
        return problem(name, f"half installed: {', '.join(missing)} missing in {directory}", _INSTALL_HELPERS)
    places = sorted({os.path.dirname(target) for target in targets})
    if places != [find_scripts()]:
        told = ", ".join(f"{place} ({_version_at(place)})" for place in places)
        first = "remove that package, then: " if PACKAGED in places else "to link this one: "
        return note(name, f"they belong to another installation: {told}", f"{first}{_INSTALL_HELPERS}")
    path = changeable(what_runs(targets))
    if path is not None:
        remedy = "install minifo as root, for example in /opt/minifo"
        return problem(name, f"mount(8) runs them as root, but other users may change {path}", remedy)
    return ok(name, f"all in {directory}, of this installation")


def _version_at(scripts: str) -> str:
    """Return the version of the installation that a directory of scripts belongs to; nothing of it is run."""
    modules = "python3/dist-packages" if scripts == PACKAGED else "lib/python3*/site-packages"
    found = glob.glob(os.path.join(glob.escape(os.path.dirname(scripts)), modules, "minifo-*.dist-info"))
    versions = sorted(os.path.basename(path).removeprefix("minifo-").removesuffix(".dist-info") for path in found)
    return ", ".join(f"minifo {version}" for version in versions) or "version unknown"
