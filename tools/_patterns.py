"""What PATH arguments that limit a list mean: wildcards as in .gitignore, from the root of the overlay."""

from __future__ import annotations

import os


class Patterns:
    """Limits a list to some paths and what is below them.

    Args:
        patterns: as the user wrote them; none of them means all paths.
    """

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._spec = None
        if patterns:
            import pathspec  # only where it is needed

            self._spec = pathspec.GitIgnoreSpec.from_lines(map(_anchored, patterns))

    def match(self, *paths: bytes | None) -> bool:
        """Return whether one of some paths is among those wanted; None is no path."""
        if self._spec is None:
            return True
        return any(self._spec.match_file(os.fsdecode(path).lstrip("/")) for path in paths if path is not None)


def _anchored(pattern: str) -> str:
    """A pattern with a slash stands for a path from the root of the overlay, as in .gitignore at its top."""
    bare = pattern.strip("/")
    return f"/{bare}" if "/" in bare or pattern.startswith("/") else bare
