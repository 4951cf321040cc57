"""``minifo diff -u`` after random operations: patch(1) makes the merged tree out of a copy of the base."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import invariant

from minifo.engine import Ino
from minifo.engine.queries.changes import changes
from minifo.engine.queries.file_pairs import FilePairs
from minifo.tools._patch import Patch
from tests.model.state_machine import AttributeRules, LifeRules
from tests.model.state_machine_unnamed import UnnamedRules
from tests.model.test_changes import Walk, without_access_times
from tests.shared import file_trees

pytestmark = [
    pytest.mark.logs("operations of a killed daemon were replayed", always=False),
    pytest.mark.root,  # owners and devices are compared
    pytest.mark.skipif(
        file_trees.scratch_root() is None, reason="needs a tmpfs at /dev/shm that takes user attributes"
    ),
]

_MOST = 1 << 16  # bytes of a file here, at most


def patched(base: bytes, patch: bytes, program: str) -> dict[bytes, tuple[int, bytes]]:
    """The files and symlinks of a copy of a tree to which a patch was applied, with what git knows of their modes."""
    copy = file_trees.scratch()
    try:
        # without links: patch(1) knows files by their inode numbers
        shutil.copytree(os.fsdecode(base), copy / "tree", symlinks=True)
        tree = copy / "tree"
        command = ["patch", "-p1", "--batch", "--no-backup-if-mismatch"]
        if program == "git":
            command = ["git", "apply", "--whitespace=nowarn", "--allow-empty"]
        if b"diff --git" in patch:  # with nothing to do, patch(1) fails
            env = {**os.environ, "GIT_CEILING_DIRECTORIES": os.fsdecode(copy), "LC_ALL": "C"}
            done = subprocess.run(command, cwd=tree, input=patch, capture_output=True, check=False, env=env)
            assert done.returncode == 0, (done.stdout, done.stderr, patch)
        found = {}
        for path in file_trees.walk(os.fsencode(tree)):
            mode = os.lstat(path).st_mode
            name = path[len(os.fsencode(tree)) :]
            if stat.S_ISLNK(mode):
                found[name] = stat.S_IFLNK, os.readlink(path)
            elif stat.S_ISREG(mode):
                found[name] = mode & 0o100, Path(os.fsdecode(path)).read_bytes()
        return found
    finally:
        shutil.rmtree(copy)


class Patches(UnnamedRules, AttributeRules, LifeRules):
    """Rules about names and attributes, and after some steps a patch of what they did."""

    build = staticmethod(file_trees.build_small)
    pool = (b"a", b"b", b"c d", b"e\n\xff")
    full_every = 1000

    @invariant()
    def patch_makes_the_tree(self) -> None:
        """Both programs come to the same files, with the same bytes."""
        if self.steps % 10 != 9:
            return
        base = without_access_times(os.fsencode(self.t.base))
        walk = Walk(base, self.t.ov)
        pairs = FilePairs(self.t.ov)
        writer = Patch(pairs, _MOST)
        told = [writer.of(pair) for pair in pairs.of(changes(self.t.ov, recursive=True))]
        expected: dict[bytes, tuple[int, bytes]] = {}
        for path, attr in walk.attrs.items():
            if attr.ino in walk.linked:
                continue
            if stat.S_ISLNK(attr.mode):
                expected[path] = stat.S_IFLNK, self.t.ov.readlink(Ino(attr.ino))
            elif stat.S_ISREG(attr.mode):
                expected[path] = attr.mode & 0o100, self.t.ov.read(Ino(attr.ino), 0, _MOST)
        # what a patch cannot have is left as it is in the base, and git refuses it
        odd = [part for part in told if part.startswith((b"Binary", b"Files"))]
        texts = b"".join(part for part in told if part not in odd)
        # patch(1) deletes files at its end, so it makes no directory in the place of one
        became_directory = any(
            path in walk.attrs and stat.S_ISDIR(walk.attrs[path].mode)
            for path in walk.stats
            if not stat.S_ISDIR(walk.stats[path].st_mode)
        )
        for program in ("git",) if became_directory else ("git", "patch"):
            found = patched(base, texts, program)
            for path, (mode, data) in expected.items():
                if not any(path.split(b"/")[-1] in part for part in odd):
                    assert found.get(path) == (mode, data), self.t.told(f"{program}: {path!r}")
            shown = {path for path, attr in walk.attrs.items() if not stat.S_ISDIR(attr.mode)}
            left = {path for path in set(found) - shown if walk.stats[path].st_ino not in walk.linked}
            assert not left, self.t.told(f"{program}: {left} should be gone")


TestPatches = Patches.TestCase
# each patch is applied by two programs
TestPatches.settings = settings(stateful_step_count=40, max_examples=settings.default.max_examples // 4)
