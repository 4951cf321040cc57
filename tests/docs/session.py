"""A shell in which a document is done as a reader does it: one command after the other, at the paths that it names.

The shell has mounts and processes of its own.  ``/mnt``, ``/srv``, ``/media`` and ``/var/lib`` are empty directories
there, so a document may use them as on a machine that has nothing else to lose; what is left ends with the shell.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.docs.document import DOCS, plain
from tests.mount.mount_sandbox import minifo_program

ROOT = DOCS.parent
EMPTY = ("/mnt", "/srv", "/media", "/var/lib")
#: A fence of Markdown with what stands in it, and the line before it if that is a comment.
_BLOCK = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^```([\w-]*)\n(.*?)^```$", re.M | re.S)
_PROMPT = re.compile(r"[#$] ")
#: What else differs from run to run.
_COUNTS = re.compile(r"\b[\d,]+(?= operations)")


class Block(NamedTuple):
    """A block of a document that has commands.

    Attributes:
        language: ``console`` (prompts, commands, what they print), ``sh`` (commands only) or nothing.
        text: as it stands.
        reason: why it is not run; empty: it is.
    """

    language: str
    text: str
    reason: str

    def steps(self) -> list[tuple[str, list[str]]]:
        """Its commands, each with the lines that it is to print."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if found and found[-1][0].endswith("\\"):
                found[-1] = (f"{found[-1][0]}\n{line}", [])
            elif self.language == "sh":
                if line and not line.startswith("#"):
                    found.append((line, []))
            elif _PROMPT.match(line):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        return found


def blocks(document: Path) -> list[Block]:
    """The blocks of a document that have commands, in their order."""
    found = [Block(match[2], match[3], match[1] or "") for match in _BLOCK.finditer(document.read_text())]
    return [block for block in found if block.language in ("console", "sh") or _has_prompt(block)]


def _has_prompt(block: Block) -> bool:
    return not block.language and bool(_PROMPT.match(block.text))


class Session:
    """The shell; use it as a context manager."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="minifo-docs-", dir="/var/tmp"))
        self._mark = f"--{os.urandom(8).hex()}--"

    def __enter__(self) -> Session:
        kept = dict.fromkeys([str(ROOT), sys.prefix, sys.base_prefix])
        hidden = [path for path in kept if path.startswith(tuple(f"{empty}/" for empty in EMPTY))]
        lines = []
        for number, path in enumerate(hidden):
            (self._home / f"kept{number}").mkdir()
            lines.append(f"mount --bind {path} {self._home}/kept{number}")
        for empty in EMPTY:
            (self._home / empty.strip("/")).mkdir(parents=True)
            lines.append(f"mount --bind {self._home}{empty} {empty}")
        for number, path in enumerate(hidden):
            lines.append(f"mkdir -p {path} && mount --bind {self._home}/kept{number} {path}")
        env = {**os.environ, "PATH": f"{Path(minifo_program()).parent}:{os.environ['PATH']}"}
        alone = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._shell = subprocess.Popen(
            [*alone, "bash", "--norc"], env={**env, "TZ": "UTC", "LC_ALL": "C.UTF-8", "HOME": "/srv"}, cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        for line in lines:
            assert self.run(line) == (0, ""), line
        return self

    def __exit__(self, *_: object) -> None:
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.close()
        try:
            self._shell.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._shell.kill()  # unshare; with it go all processes of the shell
            self._shell.wait()
        self._shell.stdout.close()
        shutil.rmtree(self._home)

    def run(self, command: str, seconds: float = 120) -> tuple[int, str]:
        """Run a command of the shell; return its exit code and what it said, standard error among it."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        script = f"{{ {command}\n}} </dev/null\nprintf '%s%s\\n' {self._mark} $?\n"
        self._shell.stdin.write(script.encode())
        self._shell.stdin.flush()
        said, end = b"", time.monotonic() + seconds
        pattern = re.compile(f"{self._mark}(\\d+)\n".encode())
        while not (found := pattern.search(said)):
            ready, _, _ = select.select([self._shell.stdout], [], [], max(0, end - time.monotonic()))
            more = os.read(self._shell.stdout.fileno(), 65536) if ready else b""
            assert more, f"{command}: no end after {seconds} s, or the shell has ended: {said.decode()}"
            said += more
        return int(found[1]), said[: found.start()].decode()

    def do(self, block: Block) -> None:
        """Run the commands of a block; each must print what the document has, ``…`` for anything.

        Only a command whose error stands in the document may fail.
        """
        for command, expected in block.steps():
            code, said = self.run(command)
            assert code == 0 or set(expected) - {"…"}, f"{command}: exit {code}: {said}"
            if block.language == "sh":
                continue
            wanted = "\n".join(re.escape(_plain(line)).replace("…", ".*") for line in expected)
            told = "\n".join(_plain(line) for line in said.splitlines())
            assert re.fullmatch(wanted, told, re.S), f"{command}:\n{said}"


def _plain(line: str) -> str:
    return plain(_COUNTS.sub("N", line))


def read_along(document: Path) -> None:
    """Do a document from its beginning to its end."""
    with Session() as session:
        for block in blocks(document):
            if not block.reason:
                session.do(block)
