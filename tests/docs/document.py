"""Documents whose commands are run as they stand, one after the other, with what they say there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.mount.mount_sandbox import minifo_program

DOCS = Path(__file__).resolve().parents[2] / "docs"
#: Every document; the pages that are made of the commands' help texts (``docs/man/minifo-*.1.md``) are none.
DOCUMENTS = [
    *sorted(DOCS.parent.glob("*.md")),
    *(path for path in sorted(DOCS.rglob("*.md")) if not path.match("docs/man/minifo-*.1.md")),
]
_OURS = re.compile(r"(?<![\w./~-])/(?=(?:mnt|var/lib|etc)\b)")
#: What differs from run to run: times, ages, and estimated bytes with the blanks around them.
_VARIES = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d| +\d+ (?:s|min|h|bytes)(?= )|  +")


def steps(name: str) -> list[tuple[str, list[str]]]:
    """The commands of a document, each with the lines that it is to print; and what is said to happen, in italics."""
    found: list[tuple[str, list[str]]] = []
    pieces = re.findall(r"^```console\n(.*?)^```$|(\*[A-Z][^*]+\.\*)", (DOCS / name).read_text(), re.M | re.S)
    for block, event in pieces:
        if event:
            found.append((event, []))
        for line in block.splitlines():
            if line.startswith("# "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def check(root: Path, command: str, expected: list[str], lib: Path | None = None) -> None:
    """Run a command, with its paths moved into a directory, and compare what it says.

    Args:
        root: the directory.
        command: as the document has it.
        expected: the lines that it is to print.
        lib: what stands for /var/lib, if that is a symbolic link in *root*.
    """
    env = {**os.environ, "PATH": f"{Path(minifo_program()).parent}:{os.environ['PATH']}", "TZ": "UTC"}
    done = subprocess.run(
        ["sh", "-c", _OURS.sub(f"{root}/", command)],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, (command, done.stdout)
    said = done.stdout.replace(f"{lib}/", "/var/lib/").replace(f"{root}/", "/").splitlines()
    assert [plain(text) for text in said] == [plain(text) for text in expected], command


def plain(line: str) -> str:
    """A line without what varies."""
    return " ".join(_VARIES.sub(" ", line).split())
