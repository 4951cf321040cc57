"""The file of a bundle: a tar archive of four parts, in this order, each a plain file.

    bundle.json        what it is: the two states, and size and SHA-256 of the parts below
    bundle.json.sig    a signature of bundle.json, as ssh-keygen -Y sign makes it; may be missing
    paths.jsonl.gz     what each path has before and after, sorted by path, one JSON object in a line
    layer.tar.gz       what is new, and whiteouts for what is gone: a layer of OCI

The last two end in .zst or nothing if they are compressed so.  Whoever trusts bundle.json can trust all of it: no byte
of the parts is used that was not part of their digests.  A bundle is read in one pass, also from a pipe.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO, NamedTuple, cast

from ...engine import StateError
from ...engine.errors import NewerFormat
from ...engine.tree.row_checks import is_name
from ..exchange.compression import DAMAGES, Compression, compressed, decompressed
from ..exchange.entries import Entry
from ..exchange.formats import Format
from ..exchange.tar_reader import TarReader
from .delta import PathChange, path_change

HEADER, SIGNATURE = "bundle.json", "bundle.json.sig"
PATHS, LAYER = "paths.jsonl", "layer.tar"
FORMAT, VERSION = "minifo-bundle", 1
_HEADER_MAX = 1 << 20  # bytes
_LINE_MAX = 1 << 16  # bytes of one path
_PATHS_MAX = 10_000_000
_BLOCK = tarfile.BLOCKSIZE
_COPY = 1 << 20  # bytes
_SUFFIXES = {Compression.NONE: "", Compression.GZIP: ".gz", Compression.ZSTD: ".zst"}
_HINT = "nothing was changed; fetch it again"


class Part(NamedTuple):
    """What the header says of a part.

    Attributes:
        name: its name in the archive.
        size: bytes.
        sha256: of these bytes, in hexadecimal.
    """

    name: str
    size: int
    sha256: str

    def told(self) -> dict[str, Any]:
        """Return it as JSON; the digest is written as OCI does."""
        return {"name": self.name, "size": self.size, "digest": f"sha256:{self.sha256}"}

    @classmethod
    def of(cls, told: Any, name: str) -> Part:
        """Return what JSON says of the part with a name.

        Raises:
            ValueError, TypeError, KeyError: it is none of ``told``.
        """
        algorithm, _, digest = told["digest"].partition(":")
        if told["name"] not in [name + suffix for suffix in _SUFFIXES.values()]:
            raise ValueError(f"{told['name']!r:.60} in the place of {name}")
        if algorithm != "sha256" or len(bytes.fromhex(digest)) != hashlib.sha256().digest_size:
            raise ValueError(f"{told['digest']!r:.80} is no digest")
        if type(told["size"]) is not int or told["size"] < 0:
            raise ValueError(f"{told['size']!r:.40} is no size")
        return cls(told["name"], told["size"], digest)


class Written(NamedTuple):
    """A part in a file of its own.

    Attributes:
        part: what the header says of it.
        file: the bytes.
        plain: SHA-256 of the bytes before they were compressed, in hexadecimal.
    """

    part: Part
    file: IO[bytes]
    plain: str


@contextmanager
def written(file: IO[bytes], name: str, compression: Compression) -> Iterator[tuple[BinaryIO, list[Written]]]:
    """Yield a stream for the bytes of a part, and a list that has the part when the block has ended.

    Args:
        file: an empty file with a descriptor.
        name: of the part, without the ending.
        compression: how it is compressed.
    """
    found: list[Written] = []
    with compressed(file, compression) as packed:  # type: ignore[arg-type]  # it is a file
        plain = _Hashed(packed)
        yield plain, found  # type: ignore[misc]  # it is written to alone
    file.flush()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
    part = Part(name + _SUFFIXES[compression], file.seek(0, io.SEEK_END), digest.hexdigest())
    found.append(Written(part, file, plain.sha256.hexdigest()))


class _Hashed:
    """A stream that hashes what is written to it."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write all of *data*."""
        self.sha256.update(data)
        return self._out.write(data)


def write_bundle(out: BinaryIO, header: bytes, signature: bytes | None, parts: list[Written]) -> None:
    """Write a bundle.

    Raises:
        OSError: it cannot be written.
    """
    _write_part(out, HEADER, len(header), io.BytesIO(header))
    if signature is not None:
        _write_part(out, SIGNATURE, len(signature), io.BytesIO(signature))
    for part, file, _ in parts:
        file.seek(0)
        _write_part(out, part.name, part.size, file)
    out.write(bytes(2 * _BLOCK))


def _write_part(out: BinaryIO, name: str, size: int, file: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    out.write(info.tobuf(tarfile.GNU_FORMAT))
    shutil.copyfileobj(file, out, _COPY)
    out.write(bytes(-size % _BLOCK))


class BundleReader:
    """Reads one bundle, in order: the header is there at once, then ``paths``, then ``layer``.

    Args:
        stream: its bytes.
        source: its name, for messages.

    Attributes:
        header: bundle.json.
        header_bytes: its bytes, which the signature is of.
        signature: of these; None if there is none.

    Raises:
        StateError: it is no bundle, or a damaged one.
        NewerFormat: another version of minifo made it.
        OSError: it cannot be read.
    """

    def __init__(self, stream: BinaryIO, source: str) -> None:
        self._stream, self._source = stream, source
        name, size = self._next()
        if name != HEADER:
            raise self._damaged(f"it does not begin with {HEADER}")
        self.header_bytes = self._small(name, size)
        self.header = self._header()
        self.signature: bytes | None = None
        name, size = self._next()
        if name == SIGNATURE:
            self.signature = self._small(name, size)
            name, size = self._next()
        self._waiting = name, size

    def _damaged(self, why: str) -> StateError:
        return StateError(f"{self._source} is no bundle, or a damaged one ({why})", _HINT)

    def _next(self) -> tuple[str, int]:
        """Return name and size of the next part."""
        block = self._stream.read(_BLOCK)
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise self._damaged(str(error) or "it is cut short") from error
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.size < 0:
            raise self._damaged(f"{info.name!r:.60} is no plain file")
        return info.name, info.size

    def _small(self, name: str, size: int) -> bytes:
        data = self._stream.read(size + -size % _BLOCK) if size <= _HEADER_MAX else b""
        if len(data) < size or size > _HEADER_MAX:
            raise self._damaged(f"{name} has {size:,} bytes")
        return data[:size]

    def _header(self) -> dict[str, Any]:
        try:
            found = json.loads(self.header_bytes)
            if found["format"] != FORMAT:
                raise ValueError(f"its format is {found['format']!r:.60}")
            if found["version"] != VERSION:
                raise NewerFormat(
                    f"{self._source} is a bundle of version {found['version']!r:.20}, and this minifo knows {VERSION}",
                    "use a newer minifo",
                )
            self._paths, self._layer = Part.of(found["paths"], PATHS), Part.of(found["layer"], LAYER)
            self._count = found["paths"]["count"]
            if type(self._count) is not int or not 0 <= self._count <= _PATHS_MAX:
                raise ValueError(f"{self._count!r:.40} paths")
            for key in ("from", "to"):
                if not all(
                    isinstance(found[key][name], str | int | None) for name in ("overlay", "checkpoint", "time")
                ):
                    raise ValueError(f"its {key!r}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._damaged(f"{HEADER}: {error}") from error
        return dict(found)

    # -- the parts

    def paths(self) -> list[PathChange]:
        """Return all paths, sorted.

        Raises:
            StateError: they are not as the header says.
        """
        found: list[PathChange] = []
        with self._part(self._paths) as plain:
            while line := plain.readline(_LINE_MAX):
                if not line.endswith(b"\n") or len(found) >= self._count:
                    raise self._damaged(f"{self._paths.name} has other lines than it may")
                try:
                    told = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise self._damaged(f"{self._paths.name}: {error}") from error
                change = path_change(told)
                if not _is_place(change.path) or (found and change.path <= found[-1].path):
                    raise self._damaged(f"{self._paths.name} has {change.path!r:.200}")
                found.append(change)
        if len(found) != self._count:
            raise self._damaged(f"{self._paths.name} has {len(found):,} paths, and should have {self._count:,}")
        return found

    def layer(self) -> Iterator[Entry]:
        """Yield the entries of the layer; the bytes of one can be read until the next one is asked for.

        Raises:
            StateError: it is damaged, or says what is impossible.
        """
        with self._part(self._layer) as plain:
            yield from TarReader(plain, self._source, Format.OCI).entries()

    def copy_parts(self, take: Callable[[Part, BinaryIO], object]) -> None:
        """Call *take* with each part that is left and a stream of its bytes, checked."""
        for part in (self._paths, self._layer):
            with self._raw(part) as raw:
                take(part, cast(BinaryIO, raw))

    @contextmanager
    def _raw(self, part: Part) -> Iterator[_Bytes]:
        """Yield the bytes of the next part; when the block ends, they are what the header says."""
        name, size = self._waiting
        if (name, size) != (part.name, part.size):
            raise self._damaged(f"{name!r:.60} with {size:,} bytes in the place of {part.name}")
        raw = _Bytes(self._stream, size)
        yield raw
        while raw.read(_COPY):
            pass
        if raw.left:
            raise self._damaged("it is cut short")
        if raw.sha256.hexdigest() != part.sha256:
            raise self._damaged(f"{part.name} has other bytes than {HEADER} says")
        self._stream.read(-size % _BLOCK)
        if part is self._paths:
            self._waiting = self._next()

    @contextmanager
    def _part(self, part: Part) -> Iterator[BinaryIO]:
        """Yield the bytes of the next part, not compressed any more."""
        try:
            with self._raw(part) as raw, decompressed(io.BufferedReader(raw, _COPY)) as plain:
                yield plain
        except DAMAGES as error:
            raise self._damaged(f"{part.name}: {error}") from error
        except StateError as error:
            raise StateError(error.message, _HINT if "import" in error.hint else error.hint) from error


class _Bytes(io.RawIOBase):
    """So many bytes of a stream, hashed."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.left = stream, size
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read as much as fits; nothing at the end."""
        data = self._stream.read(min(len(buffer), self.left))
        buffer[: len(data)] = data
        self.left -= len(data)
        self.sha256.update(data)
        return len(data)


def _is_place(path: bytes) -> bool:
    """Return whether a path is one of a merged tree: absolute, of names that a file system takes."""
    return path == b"/" or (path.startswith(b"/") and all(map(is_name, path[1:].split(b"/"))))
