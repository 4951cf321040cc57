"""Changes as a patch: unified diffs of texts with git's extended headers, as patch(1) and ``git apply`` take them.

The form is that of git-diff(1), "Generating patch text with -p".  The lines that differ come from diff(1) of the GNU
diffutils, which reads the two texts from files in memory (memfd_create(2)), because they may be secret.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from hashlib import sha1

from ..engine import StateError
from ..engine.queries.file_pairs import FilePair, FilePairs, Version

_NOTHING = b"/dev/null"
_NO_BLOB = b"0" * 40
_NO_NEWLINE = b"\\ No newline at end of file\n"
_NAMED = {7: b"a", 8: b"b", 9: b"t", 10: b"n", 11: b"v", 12: b"f", 13: b"r", 34: b'"', 92: b"\\"}


class Patch:
    """Writes pairs of files as a patch.

    Args:
        pairs: reads the files.
        largest: bytes of the largest file whose lines are shown.

    Raises:
        StateError: there is no program diff.
    """

    def __init__(self, pairs: FilePairs, largest: int) -> None:
        found = shutil.which("diff")
        if found is None:
            raise StateError("a patch needs the program diff", "install the diffutils")
        self._program = found
        self._pairs = pairs
        self._largest = largest

    def of(self, pair: FilePair) -> bytes:
        """Return what the patch says of a pair; nothing where the versions are the same, as far as a patch can tell.

        Raises:
            OSError: a version cannot be read.
            StateError: diff failed.
        """
        before, after = pair.before, pair.after
        if not (_is_plain(before) and _is_plain(after)):
            # no patch has devices, FIFOs and sockets
            told = b"" if _same_special(before, after) else b"Special files %b and %b differ\n" % _labels(before, after)
            before, after = (version if _is_plain(version) else None for version in (before, after))
            return told + (self._plain(before, None) if before is not None else self._plain(None, after))
        if before is not None and after is not None and stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode):
            return self._plain(before, None) + self._plain(None, after)
        return self._plain(before, after)

    def _plain(self, before: Version | None, after: Version | None) -> bytes:
        """What the patch says of regular files and symlinks of one type."""
        lines = index = b""
        if (before is None) != (after is None) or (before and after and not self._pairs.same(before, after)):
            if max(version.size for version in (before, after) if version is not None) > self._largest:
                limit = b"larger than %d MiB, --max-file shows them" % (self._largest >> 20)
                return b"Files %b and %b differ: %b\n" % (*_labels(before, after), limit)
            texts = [self._bytes(version) for version in (before, after)]
            if any(b"\0" in text for text in texts):
                return b"Binary files %b and %b differ\n" % _labels(before, after)
            index = _index(before, after, *texts)
            lines = self._hunks(*texts)
        elif before and after and before.path != after.path and stat.S_ISLNK(after.mode):
            target = self._bytes(after)
            index = _index(before, after, target, target)  # or patch(1) would not know that it is a symlink
        head = _header(before, after) + index
        if not (head or lines):
            return b""
        if lines:
            head += b"--- %b\n+++ %b\n" % _labels(before, after)
        names = [_quoted(letter + version.path) for letter, version in _sides(before, after)]
        return b"diff --git %b %b\n" % tuple(names) + head + lines

    def _bytes(self, version: Version | None) -> bytes:
        return self._pairs.read(version, 0, version.size) if version is not None else b""

    def _hunks(self, before: bytes, after: bytes) -> bytes:
        if not (before and after):
            return _whole(b"-", before) + _whole(b"+", after)
        fds = []
        try:
            for text in (before, after):
                fd = os.memfd_create("text")
                fds.append(fd)
                with open(fd, "wb", closefd=False) as file:
                    file.write(text)
            names = [f"/proc/self/fd/{fd}" for fd in fds]
            done = subprocess.run(
                [self._program, "--unified", "--text", "--label=a", "--label=b", "--", *names],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        finally:
            for fd in fds:
                os.close(fd)
        if done.returncode > 1:
            raise StateError(f"diff failed: {done.stderr.decode(errors='replace').strip()}", "is there memory left?")
        return done.stdout.split(b"\n", 2)[2]  # the first two lines are its labels


def _is_plain(version: Version | None) -> bool:
    return version is None or stat.S_ISREG(version.mode) or stat.S_ISLNK(version.mode)


def _same_special(before: Version | None, after: Version | None) -> bool:
    if before is None or after is None:
        return False
    return (stat.S_IFMT(before.mode), before.rdev) == (stat.S_IFMT(after.mode), after.rdev)


def _whole(sign: bytes, text: bytes) -> bytes:
    """Return the hunk of a text that is new or gone as a whole."""
    if not text:
        return b""
    lines = text.split(b"\n")
    end = b"" if lines[-1] == b"" else _NO_NEWLINE
    if not end:
        lines.pop()
    place = b"1" if len(lines) == 1 else b"1,%d" % len(lines)
    head = b"@@ -%b +0,0 @@\n" if sign == b"-" else b"@@ -0,0 +%b @@\n"
    return head % place + b"".join(b"%b%b\n" % (sign, line) for line in lines) + end


def _header(before: Version | None, after: Version | None) -> bytes:
    """Return git's extended header lines."""
    if before is None:
        return b"new file mode %o\n" % _mode(after) if after is not None else b""
    if after is None:
        return b"deleted file mode %o\n" % _mode(before)
    head = b""
    if _mode(before) != _mode(after):
        head = b"old mode %o\nnew mode %o\n" % (_mode(before), _mode(after))
    if before.path != after.path:
        head += b"rename from %b\nrename to %b\n" % (_quoted(before.path[1:]), _quoted(after.path[1:]))
    return head


def _index(before: Version | None, after: Version | None, old: bytes, new: bytes) -> bytes:
    """Return git's index line: patch(1) takes from it that an empty file is new or gone, and what is a symlink."""
    names = [_blob(text) if version is not None else _NO_BLOB for version, text in ((before, old), (after, new))]
    both = before is not None and after is not None and _mode(before) == _mode(after)
    return b"index %b..%b%b\n" % (*names, b" %o" % _mode(before) if both else b"")


def _blob(text: bytes) -> bytes:
    """Return the name of a text in a git repository (gitformat-loose(5), SHA-1)."""
    return sha1(b"blob %d\0%b" % (len(text), text), usedforsecurity=False).hexdigest().encode()


def _mode(version: Version | None) -> int:
    """Return the mode as git has it: it knows one permission, and symlinks."""
    assert version is not None
    if stat.S_ISLNK(version.mode):
        return stat.S_IFLNK
    return stat.S_IFREG | (0o755 if version.mode & stat.S_IXUSR else 0o644)


def _sides(before: Version | None, after: Version | None) -> list[tuple[bytes, Version]]:
    known = before or after
    assert known is not None
    return [(b"a", before or known), (b"b", after or known)]


def _labels(before: Version | None, after: Version | None) -> tuple[bytes, bytes]:
    old, new = (
        _NOTHING if version is None else _quoted(letter + version.path)
        for letter, version in ((b"a", before), (b"b", after))
    )
    return old, new


def _quoted(name: bytes) -> bytes:
    """Return a name as git writes it: like a string in C where it holds what is no printable ASCII (core.quotePath).

    A blank is a reason, too: patch(1) takes one for the end of a name, or drops it.
    """
    if all(32 < byte < 127 and byte not in _NAMED for byte in name):
        return name
    parts = (
        b"\\" + _NAMED[byte] if byte in _NAMED else bytes((byte,)) if 32 <= byte < 127 else b"\\%03o" % byte
        for byte in name
    )
    return b'"' + b"".join(parts) + b'"'
