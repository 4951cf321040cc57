"""Counts what pyfuse3's handlers served; what the C extension served it counts by itself (counters.c)."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

BUCKETS = 40  # as in counters.c


@dataclass
class Times:
    """How long some requests took.

    Attributes:
        total: sum of all times, in ns.
        buckets: how many took below 2^n ns and not below 2^(n-1); the last one also has what took longer.
    """

    total: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def add(self, ns: int) -> None:
        """Count one more, which took *ns*."""
        self.total += ns
        self.buckets[min(ns.bit_length(), BUCKETS - 1)] += 1

    def merge(self, total: int, buckets: list[int]) -> None:
        """Add what was counted elsewhere."""
        self.total += total
        self.buckets = [mine + other for mine, other in zip(self.buckets, buckets, strict=True)]


@dataclass
class Counters:
    """What was counted since the process began.

    Attributes:
        served: the times of requests by their kind.
        errors: replies by their errno.
    """

    served: defaultdict[str, Times] = field(default_factory=lambda: defaultdict(Times))
    errors: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


#: Of this process, which serves one mount.
counters = Counters()
