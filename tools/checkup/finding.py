"""What a check of ``minifo doctor`` finds: a verdict, a fact and, unless all is well, a remedy."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ...engine.errors import StateError

Verdict = Literal["ok", "note", "problem"]
VERDICTS: tuple[Verdict, ...] = ("ok", "note", "problem")  # each is worse than the one before
_AS_ROOT = "check its permissions, or run minifo doctor as root"
_INSTALL_IT = "install what is missing: see the findings about software"
_REPORT_IT = "report it, with what minifo doctor --json prints"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at, in a word or two.
        verdict: ``ok``; ``note``: minifo works, but something is slower or missing; ``problem``: it does not work well.
        fact: what is there, in one line.
        remedy: what to do; empty exactly if the verdict is ``ok``.
    """

    check: str
    verdict: Verdict
    fact: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.verdict == "ok") == bool(self.remedy):
            raise ValueError(f"{self.check}: {self.verdict} with remedy {self.remedy!r}")


class Check(NamedTuple):
    """A check: its name, and a function that looks; what the function raises becomes a finding, too."""

    name: str
    look: Callable[[], Finding]


def ok(check: str, fact: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check, "ok", fact)


def note(check: str, fact: str, remedy: str) -> Finding:
    """Return a finding that minifo can live with."""
    return Finding(check, "note", fact, remedy)


def problem(check: str, fact: str, remedy: str) -> Finding:
    """Return a finding that needs a remedy."""
    return Finding(check, "problem", fact, remedy)


def found_by(check: Check) -> Finding:
    """Return what a check finds; an error of the check is a finding, for the others still have something to say."""
    try:
        return check.look()
    except StateError as error:
        return problem(check.name, error.message, error.hint or _REPORT_IT)
    except OSError as error:
        path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        told = f"{path or 'it'} could not be looked at ({error.strerror or error})"
        is_proc = path.startswith("/proc/")
        return problem(check.name, told, "mount /proc: mount -t proc proc /proc" if is_proc else _AS_ROOT)
    except ImportError as error:
        return problem(check.name, f"minifo cannot look at it ({error})", _INSTALL_IT)
    except Exception as error:
        return problem(check.name, f"the check failed ({type(error).__name__}: {error})", _REPORT_IT)


def worst(findings: list[Finding]) -> Verdict:
    """Return the worst verdict of some findings; ``ok`` of none."""
    return VERDICTS[max((VERDICTS.index(finding.verdict) for finding in findings), default=0)]
