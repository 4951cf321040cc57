"""A medium that goes bad under the database: real blocks of a real file system that answer EIO."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from minifo.engine.fsck.session import FsckSession
from minifo.tools import fsck_helper
from tests.fsck.sample_storage import SampleStorage, without_lost_found, wrong

_BLOCK = 4096
_SIZE = 32 << 20


class Medium:
    """A file system in an image file, mounted."""

    def __init__(self, top: str) -> None:
        self.image = os.path.join(top, "image")
        self.path = os.path.join(top, "medium")
        os.mkdir(self.path)
        with open(self.image, "wb") as file:
            file.truncate(_SIZE)
        _run("mkfs.ext4", "-q", "-F", "-b", str(_BLOCK), "-O", "^has_journal", self.image)
        self.loop = _run("losetup", "-f", "--show", self.image)
        _run("mount", self.loop, self.path)

    def close(self) -> None:
        """Unmount it."""
        _run("umount", "-l", self.path)
        _run("losetup", "-d", self.loop)

    def lose_from_the_middle_of(self, path: str) -> None:
        """From the middle of a file that was written last, no block of the image can be read any more."""
        with open(path, "rb") as file:
            data = file.read()
            os.fsync(file.fileno())
            middle = len(data) // _BLOCK // 2 * _BLOCK
            with open(self.image, "rb") as image:
                at = image.read().find(data[middle : middle + _BLOCK])
            assert at > 0
            assert at % _BLOCK == 0
            os.truncate(self.image, at)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with pytest.raises(OSError, match="Input/output error"):
                os.pread(file.fileno(), _BLOCK, middle)


def _run(*command: str, code: int = 0) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout.strip()


@contextmanager
def _on_bad_blocks(sample: SampleStorage) -> Iterator[None]:
    """Move the storage to a medium of which the blocks behind the middle of the database are bad."""
    medium = Medium(sample.top)
    try:
        storage = os.path.join(medium.path, "sto")
        shutil.copytree(sample.storage, storage, ignore=shutil.ignore_patterns("minifo.db"))
        _run("sync", "-f", medium.path)
        shutil.copyfile(sample.database, os.path.join(storage, "minifo.db"))
        _run("sync", "-f", medium.path)
        sample.storage = storage
        medium.lose_from_the_middle_of(sample.database)
        yield
    finally:
        medium.close()


@pytest.mark.usefixtures("fuse_required")
def test_database_on_bad_blocks_is_salvaged(sample: SampleStorage) -> None:
    """What those blocks held comes from the copy of names; the old database is kept as far as it can be read."""
    with _on_bad_blocks(sample):
        with FsckSession(sample.storage, write=False) as examination:
            assert wrong(examination.check()) == ["E102"]
        assert fsck_helper.main(["-y", sample.storage]) == 1
        assert fsck_helper.main(["-f", sample.storage]) == 0
        assert without_lost_found(sample.look()) == sample.healthy
        assert any(name.startswith("minifo.db.bak-") for name in os.listdir(sample.storage))


@pytest.mark.parametrize("damaged", [False, True])
def test_database_of_a_terabyte_that_is_a_hole_takes_little_memory(sample: SampleStorage, damaged: bool) -> None:
    """The maker of a storage may make its files as long as the file system allows; fsck reads only what they hold."""
    with open(sample.database, "r+b") as file:
        if damaged:
            file.write(b"damaged!")
        file.truncate(1 << 40)
    program = "import sys; from minifo.tools.fsck_helper import main; sys.exit(main(sys.argv[1:]))"
    limited = ["prlimit", f"--as={1 << 30}", sys.executable, "-c", program]
    rescued = os.path.join(sample.top, "rescued")
    _run(*limited, "--rescue", rescued, "--base", sample.base, sample.storage, code=4 if damaged else 0)
    assert os.listdir(rescued)
    _run(*limited, "-y", sample.storage, code=1 if damaged else 0)
    assert sample.look() == sample.healthy
