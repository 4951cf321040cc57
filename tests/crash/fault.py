"""What a seeded fault is: one step of the engine that is done wrong meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

Patch = tuple[Any, str, Callable[..., Any]]


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        what: what the engine does wrong.
        workload: one that shows it.
        patches: what is replaced: class, method, and a function that gets the true method and gives the wrong one.
        every: cut the power at every such point only.
    """

    what: str
    workload: str
    patches: tuple[Patch, ...]
    every: int = 1

    @contextmanager
    def plant(self) -> Iterator[None]:
        """Do it wrong meanwhile."""
        with ExitStack() as stack:
            for owner, name, wrong in self.patches:
                change: AbstractContextManager[Any] = patch.object(owner, name, wrong(getattr(owner, name)))
                stack.enter_context(change)
            yield
