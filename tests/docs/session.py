"""A shell in which a document is done as a reader does it: one command after the other, at the paths that it names.

The shell of a ``Session`` has mounts and processes of its own.  ``/mnt``, ``/srv``, ``/media`` and ``/var/lib`` are
empty directories there, so a document may use them as on a machine that has nothing else to lose; what is left ends
with the shell.  A ``Shell`` may be one of another system.
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
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from tests.docs.document import DOCS, plain
from tests.mount.mount_sandbox import minifo_program

ROOT = DOCS.parent
EMPTY = ("/mnt", "/srv", "/media", "/var/lib")
#: A heading; or a fence of Markdown with what stands in it, and the line before it if that is a comment.
_BLOCK = re.compile(
    r"^#+ (?P<heading>[^\n]+)$"
    r"|(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>[\w-]*)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
#: Languages of blocks with commands: with prompts, and without.
_WITH_COMMANDS = ("console", "sh")
_PROMPT = re.compile(r"[#$] ")
#: What else differs from run to run: how many operations and checks, parts of a second, numbers of processes and of
#: inodes, identities, what the machine has free, and what a database and a daemon take.
_COUNTS = re.compile(
    r"\b[\d,]+(?= operations| ok$)|\d+ notes?(?=, )|[\d.]+ [KMG]iB(?= free in)|^\.\d{3}\b"
    r"|(?<= root )\d+|(?<=process )\d+|(?<=^inode: )\d+"
    r"|[\da-f]{8}-[\da-f-]{27}|(?<= changes, )\d+\.\d KiB$"
    r"|(?:(?<=^free: )|(?<=^memory: )|(?<=database ))[\d.]+ [KMG]iB"
)
#: For preparations: ``writable DIR`` lets commands write to a directory of the machine, which is not changed by it.
_WRITABLE = """writable() {
    local upper; upper=$(mktemp -d -p "$WRITABLE") && mkdir "$upper/up" "$upper/work" &&
    mount -t overlay -o "lowerdir=$1,upperdir=$upper/up,workdir=$upper/work" overlay "$1"
}"""


class Block(NamedTuple):
    """A block of a document that has commands.

    Attributes:
        language: ``console`` (prompts, commands, what they print), ``sh`` (commands only), another one, or nothing.
        text: as it stands.
        reason: why it is not run; empty: it is.
        heading: what it stands below.
    """

    language: str
    text: str
    reason: str
    heading: str

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


def every_block(document: Path) -> list[Block]:
    """The blocks of a document, in their order."""
    found, heading = [], ""
    for match in _BLOCK.finditer(document.read_text()):
        heading = match["heading"] or heading
        if not match["heading"]:
            found.append(Block(match["language"], match["text"], match["reason"] or "", heading))
    return found


def blocks(document: Path) -> list[Block]:
    """The blocks of a document that have commands, in their order."""
    return [block for block in every_block(document) if block.language in _WITH_COMMANDS]


class Shell:
    """A shell that goes on from command to command; use it as a context manager.

    Args:
        words: the command that starts it.
        environment: its variables.

    Attributes:
        seconds: how long each command took, by its text.
    """

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self._words, self._environment = words, environment
        self._mark = f"--{os.urandom(8).hex()}--"
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._shell = subprocess.Popen(
            self._words, env=self._environment, cwd="/",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
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

    def run(self, command: str, seconds: float = 120) -> tuple[int, str]:
        """Run a command of the shell; return its exit code and what it said, standard error among it."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        script = f"{{ {command}\n}} </dev/null\nprintf '%s%s\\n' {self._mark} $?\n"
        self._shell.stdin.write(script.encode())
        self._shell.stdin.flush()
        said, begin = b"", time.monotonic()
        pattern = re.compile(f"{self._mark}(\\d+)\n".encode())
        while not (found := pattern.search(said)):
            ready, _, _ = select.select([self._shell.stdout], [], [], max(0, begin + seconds - time.monotonic()))
            more = os.read(self._shell.stdout.fileno(), 65536) if ready else b""
            assert more, f"{command}: no end after {seconds} s, or the shell has ended: {said.decode()}"
            said += more
        self.seconds[command] = time.monotonic() - begin
        return int(found[1]), said[: found.start()].decode()

    def do(self, block: Block, seconds: float = 120) -> None:
        """Run the commands of a block; each must print what the document has, ``…`` for anything.

        Only a command whose error stands in the document may fail.

        Args:
            block: what is done.
            seconds: the longest time for one of its commands.
        """
        for command, expected in block.steps():
            code, said = self.run(command, seconds)
            assert code == 0 or set(expected) - {"…"}, f"{command}: exit {code}: {said}"
            if block.language == "sh":
                continue
            wanted = "\n".join(re.escape(_plain(line)).replace("…", ".*") for line in expected)
            told = "\n".join(_plain(line) for line in said.splitlines())
            assert re.fullmatch(wanted, told, re.S), f"{command}:\n{said}"


class Session(Shell):
    """A shell of this system, with the directories of ``EMPTY``."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="minifo-docs-", dir="/var/tmp"))
        alone = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
        env = {**os.environ, "PATH": f"{Path(minifo_program()).parent}:{os.environ['PATH']}"}
        env["WRITABLE"] = f"{self._home}/writable"
        super().__init__([*alone, "bash", "--norc"], {**env, "TZ": "UTC", "LC_ALL": "C.UTF-8", "HOME": "/srv"})

    def __enter__(self) -> Self:
        super().__enter__()
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
        lines += [f"mkdir {self._home}/writable && mount -t tmpfs writable {self._home}/writable", _WRITABLE]
        lines.append("cd /srv")
        for line in lines:
            assert self.run(line) == (0, ""), line
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        shutil.rmtree(self._home)


def _plain(line: str) -> str:
    return _COUNTS.sub("N", plain(line))


def read_along(document: Path, preparations: Mapping[str, str]) -> None:
    """Do a document from its beginning to its end.

    Args:
        document: the document.
        preparations: commands that the document takes as done, by the heading at whose first block they are given.
    """
    missing = dict(preparations)
    with Session() as session:
        for block in blocks(document):
            if block.reason:
                continue
            if prepare := missing.pop(block.heading, ""):
                code, said = session.run(f"(set -e\n{prepare}\n)")
                assert code == 0, said
            session.do(block)
    assert not missing, f"{document.name} has no commands below these headings: {', '.join(missing)}"
