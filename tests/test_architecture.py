"""The house plan, held by machine: who may import whom, how files look, and what the package ships.

tools → fusefront → engine        tools → migrations → engine        nobody imports tools
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
#: The folder whose ``__init__.py`` is that of ``minifo`` itself.
PUBLIC = Path("engine/public")
ARROWS = {
    "engine": {"engine"},
    "fusefront": {"fusefront", "engine"},
    "migrations": {"migrations", "engine"},
    "tools": {"tools", "fusefront", "migrations", "engine"},
}
#: What a room (a folder within a package) may import of its own package; ``""`` is the files beside the rooms.  A name
#: with a dot is one file.
ROOMS = {
    "engine": {
        "errors": set(),
        "model": set(),
        "store": {"errors", "model"},
        "tree": {"errors", "model", "store"},
        "": {"errors", "model", "store", "tree"},
        "fsck": {"errors", "model", "store", "tree", ""},
        "rebase": {"errors", "model", "store", "tree", ""},
        "queries": {"errors", "model", "store", "tree", "", "rebase"},
        "api_values": {"errors", "model", "", "queries"},
        "api_files": {"errors", "model", "store", "", "api_values"},
        "api": {"store", "", "queries", "api_values", "api_files"},
        "public": {"errors", "", "queries", "api_values", "api"},
    },
    "fusefront": {
        "process": set(),
        "mount": {"process"},
        "extension": set(),
        "serve": {"process", "mount"},
        "control": {"process", "mount", "extension", "serve"},
        "": {"process", "mount", "extension", "serve", "control"},
        "sandbox": {"process", "mount", ""},
    },
    "migrations": {
        "": set(),
        "schema": {""},
        "exchange": {""},
        "bundle": {"", "exchange"},
        "backup": {"", "exchange"},
        "meta": {""},
        "merge": {""},
        "rebase": {""},
        "fleet": {"", "schema", "meta"},
    },
}
#: Functions that call themselves, each with the bound of its depth.
RECURSIVE = {
    "engine/fsck/raw_file.py:read",  # once: page by page
    "engine/fsck/session.py:repair",  # once: without the problem that was asked first
    "engine/reset_moves.py:_put_aside",  # not at all, as the next two
    "engine/reset_moves.py:_put_in_place",
    "engine/revert.py:remove",  # not at all: a generator yields the part, and a loop runs it
    "engine/store/backup_format.py:pack",  # halves the rows
    "tools/trust.py:_way_to",  # 40 symbolic links
}
#: How an open overlay is called outside the engine, as a variable or an attribute.
OVERLAY_NAMES = {"overlay", "_overlay", "ov", "_ov"}
#: What may be asked of one beside its methods and properties: plain attributes.
OVERLAY_ATTRIBUTES = {"base", "uuid"}
#: Modules with statements that change rows.
STATEMENTS = {"minifo.engine.store.statements", "minifo.engine.store.four_lists_statements"}
MAX_LINES = 520
#: Folders of tests in which each file is named after the module that it tests, in a folder of the same path.
MIRRORS = ("engine", "fusefront", "migrations", "tools")
TESTS = sorted(path for folder in MIRRORS for path in (ROOT / "tests" / folder).rglob("test_*.py"))
FILES = sorted(path for package in ARROWS for path in (ROOT / package).rglob("*.py"))


@dataclass(frozen=True)
class Import:
    """One imported module: its full dotted name, and where."""

    module: str
    path: Path
    line: int

    @property
    def top(self) -> str:
        """The first part of the name: a distribution's package, or ``minifo``."""
        return self.module.partition(".")[0]

    @property
    def package(self) -> str:
        """The package of ours that is imported, or an empty string."""
        parts = self.module.split(".")
        return parts[1] if parts[0] == "minifo" and len(parts) > 1 else ""

    @property
    def room(self) -> str:
        """The room of that package that is imported."""
        return room_of(tuple(self.module.split(".")[1:]))

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line} imports {self.module}"


def is_module(package: str, name: str) -> bool:
    """Return whether a name that is imported from a package of ours is a package or a file."""
    top, *folders = package.split(".")
    found = ROOT.joinpath(*folders, name)
    return top == "minifo" and (found.is_dir() or found.with_suffix(".py").is_file())


def package_of(path: Path) -> str:
    """Return the package of ours that a file belongs to."""
    return path.relative_to(ROOT).parts[0]


def room_of(parts: tuple[str, ...]) -> str:
    """Return the room of a module.

    Args:
        parts: its dotted name within minifo: a package, a folder or a file, a file.
    """
    rooms = ROOMS.get(parts[0], {})
    return parts[1] if len(parts) > 1 and parts[1] in rooms else ""


def imports_of(path: Path) -> Iterator[Import]:
    """Yield every import of a file, wherever in it, relative ones by their full name."""
    inside = ("minifo", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, path, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # ``from .tree import acl`` names a module in its second half.
            for alias in node.names:
                yield Import(f"{module}.{alias.name}" if is_module(module, alias.name) else module, path, node.lineno)


ALL_IMPORTS = [found for path in FILES for found in imports_of(path)]


def broken(rule: list[Import]) -> str:
    """Return the offending imports as text, one a line."""
    return "\n".join(str(found) for found in rule)


def test_files_were_found() -> None:
    """The other tests here look at something: every package has files, and imports are seen in them."""
    assert {package_of(path) for path in FILES} == set(ARROWS)
    assert any(found.package == "engine" for found in ALL_IMPORTS)


def test_packages_import_along_the_arrows_only() -> None:
    """An import of ours goes where an arrow goes; fusefront and migrations are strangers to each other."""
    wrong = [found for found in ALL_IMPORTS if found.package and found.package not in ARROWS[package_of(found.path)]]
    assert not wrong, broken(wrong)


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_in_order(package: str) -> None:
    """A room imports itself and the rooms below it, so that it can be read without those above."""
    wrong = []
    for found in ALL_IMPORTS:
        if found.package == package and package_of(found.path) == package:
            room = room_of(found.path.relative_to(ROOT).with_suffix("").parts)
            if found.room != room and found.room not in ROOMS[package][room]:
                wrong.append(found)
    assert not wrong, broken(wrong)


@functools.cache
def overlay_api() -> set[str]:
    """Return what ``Overlay`` offers: its public methods, its properties, and a few plain attributes."""
    found = set(OVERLAY_ATTRIBUTES)
    for name in ("overlay", "open_overlay"):
        for node in ast.walk(ast.parse((ROOT / "engine" / f"{name}.py").read_bytes())):
            if isinstance(node, ast.ClassDef):
                found |= {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
    return {name for name in found if not name.startswith("_")}


def reaches_into_overlays(source: bytes) -> Iterator[tuple[int, str]]:
    """Yield line and name of each attribute of an overlay in *source* that is none of its public ones."""
    api = overlay_api()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr not in api:
            name = getattr(node.value, "id", None) or getattr(node.value, "attr", None)
            if name in OVERLAY_NAMES:
                yield node.lineno, node.attr


def test_only_the_engine_reaches_into_an_overlay() -> None:
    """What others need of an overlay is a method of ``Overlay``, or of a class of the engine that takes one."""
    outside = [path for path in FILES if package_of(path) != "engine"]
    wrong = [
        f"{path.relative_to(ROOT)}:{line} reaches .{name}"
        for path in outside
        for line, name in reaches_into_overlays(path.read_bytes())
    ]
    assert not wrong, "\n".join(wrong)


def test_reaching_into_an_overlay_is_seen() -> None:
    """The test above sees an overlay's parts, however it is called, and lets its methods pass."""
    source = b"overlay.db.rows()\nself._ov.inodes\nov.commits = 1\nself.overlay.read()\nov.base.stat()\n"
    assert sorted(reaches_into_overlays(source)) == [(1, "db"), (2, "inodes"), (3, "commits")]


def test_only_the_engine_changes_rows() -> None:
    """Statements that change rows are written in the engine, beside the caches that must follow."""
    wrong = [found for found in ALL_IMPORTS if found.module in STATEMENTS and package_of(found.path) != "engine"]
    assert not wrong, broken(wrong)


def calls_of_itself(source: bytes) -> Iterator[str]:
    """Yield the name of each function in *source* that calls itself, as itself or as a method of its own object."""
    tree = ast.parse(source)
    methods = {id(method) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for method in node.body}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            is_method = id(function) in methods
            itself = {f"self.{function.name}", f"cls.{function.name}"} if is_method else {function.name}
            called = (ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call))
            yield from itself.intersection(called) and [function.name]


def test_recursion_is_bounded() -> None:
    """A storage can name paths of thousands of directories; Python allows a thousand calls within each other."""
    found = {f"{path.relative_to(ROOT)}:{name}" for path in FILES for name in calls_of_itself(path.read_bytes())}
    assert found == RECURSIVE


def test_recursion_is_seen() -> None:
    """The test above sees functions and methods that call themselves; a method may call a function of its name."""
    source = b"""
def walk(): walk()
class Tree:
    def walk(self): walk()
    def grow(self): self.grow()
"""
    assert sorted(calls_of_itself(source)) == ["grow", "walk"]


def test_packages_are_imported_as_minifo() -> None:
    """A bare ``import engine`` works in a checkout, loads a second copy, and fails once installed."""
    wrong = [found for found in ALL_IMPORTS if found.top in ARROWS]
    assert not wrong, broken(wrong)


def test_engine_needs_only_apsw_and_the_standard_library() -> None:
    """No FUSE, no async framework, no command line below the facade."""
    allowed = {*sys.stdlib_module_names, "apsw", "minifo"}
    wrong = [found for found in ALL_IMPORTS if package_of(found.path) == "engine" and found.top not in allowed]
    assert not wrong, broken(wrong)


def test_trio_and_pyfuse3_are_known_to_fusefront_only() -> None:
    """Whoever else wants a mount asks fusefront."""
    wrong = [f for f in ALL_IMPORTS if f.top in {"trio", "pyfuse3"} and package_of(f.path) != "fusefront"]
    assert not wrong, broken(wrong)


@pytest.mark.parametrize("module", ["minifo.tools.cli", "minifo.tools.mount_helper"])
def test_command_line_starts_without_trio_and_pyfuse3(module: str) -> None:
    """Commands that mount nothing start fast, and work where libfuse is not installed."""
    code = f"import {module}, sys; print(*sorted({{'trio', 'pyfuse3'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("verb", ["list", "log", "metrics", "status", "sync", "umount"])
def test_verbs_that_ask_a_daemon_start_without_the_engine(verb: str) -> None:
    """What they need beside it is imported here as well; SQLite and the engine take longer to load than to ask."""
    lazy = "minifo.fusefront.control.exposition, minifo.fusefront.control.sync, minifo.fusefront.mount.unmount"
    unused = "{'apsw', 'minifo.engine.overlay', 'minifo.fusefront.mount.options'}"
    code = f"import minifo.tools.{verb}, minifo.tools.cli, {lazy}, sys; print(*sorted({unused} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_pyproject_names_every_package() -> None:
    """An editable install finds a new folder by itself, a wheel only ships what is listed."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT) for path in FILES}
    folders.remove(PUBLIC)
    assert sorted(setuptools["packages"]) == ["minifo", *sorted(".".join(("minifo", *path.parts)) for path in folders)]
    assert setuptools["package-dir"] == {"minifo": str(PUBLIC), **{f"minifo.{package}": package for package in ARROWS}}


def test_pyproject_names_every_data_file() -> None:
    """A wheel has the files that are no Python only where a pattern names them."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    compiled = {".c", ".h", ".so", ".pyc"}
    data = [
        path for package in ARROWS for path in (ROOT / package).rglob("*.*") if path.suffix not in compiled | {".py"}
    ]
    found = set()
    for package, globs in patterns.items():
        folder = PUBLIC if package == "minifo" else Path(*package.split(".")[1:])
        found |= {path for pattern in globs for path in (ROOT / folder).glob(pattern)}
    missing = [str(path.relative_to(ROOT)) for path in data if path not in found]
    assert len(data) > 5
    assert not missing, ", ".join(missing)


def test_version_is_said_alike() -> None:
    """By a mounted overlay, which does not ask for the metadata of what is installed, and by the Debian package."""
    text = (ROOT / "engine" / "__init__.py").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f'VERSION = "{project["version"]}"' in text
    assert (ROOT / "debian" / "changelog").read_text().startswith(f"minifo ({project['version']})")


def test_typing_links_show_every_package_to_static_tools() -> None:
    """tests/_typing mirrors the installed layout, so mypy checks all of it; each package says that it is typed."""
    links = ROOT / "tests" / "_typing" / "minifo"
    top = {path.name: path for path in (ROOT / PUBLIC).iterdir() if path.suffix in (".py", ".typed")}
    assert {link.name: link.resolve() for link in links.iterdir()} == {**{name: ROOT / name for name in ARROWS}, **top}
    assert all((ROOT / package / "py.typed").is_file() for package in ARROWS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short_and_says_what_it_owns(path: Path) -> None:
    """Every file of the product opens with a docstring and stays readable in one sitting."""
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
    assert len(text.splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_carry_the_name_of_their_module(path: Path) -> None:
    """tests/engine/store/test_redo_log.py tests engine/store/redo_log.py; after a further underscore stands a topic."""
    folder = ROOT / path.relative_to(ROOT / "tests").parent
    modules = {module.stem for module in folder.iterdir() if module.suffix in (".py", ".c")}
    assert any(f"{path.stem}_".startswith(f"test_{module}_") for module in modules), f"no such module in {folder}"


def test_architecture_page_describes_every_source_file() -> None:
    """A file of the product is a link in docs/internals/architecture.md, with its duty beside it."""
    page = (ROOT / "docs" / "internals" / "architecture.md").read_text()
    suffixes = {".py", ".pyi", ".c", ".h", ".sql", ".varlink", ".css", ".js"}
    sources = [path for package in ARROWS for path in (ROOT / package).rglob("*") if path.suffix in suffixes]
    names = sorted(str(path.relative_to(ROOT)) for path in sources if path.name != "__init__.py")
    missing = [name for name in names if f"](../../{name})" not in page]
    assert not missing, f"add a row to docs/internals/architecture.md for: {', '.join(missing)}"
