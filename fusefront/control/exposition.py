"""Metrics in the text format of Prometheus (prometheus.io/docs/instrumenting/exposition_formats), version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..process.printable import printable

Metric = dict[str, Any]


def exposition(mounts: Iterable[tuple[str, list[Metric]]]) -> Iterator[str]:
    """Yield the lines of the text format of Prometheus, version 0.0.4.

    Args:
        mounts: the mount point and the metrics of each mount; all samples of one name must stand together.
    """
    found: dict[str, tuple[Metric, list[str]]] = {}
    for mountpoint, metrics in mounts:
        for metric in metrics:
            _, lines = found.setdefault(metric["name"], (metric, []))
            for sample in metric["samples"]:
                lines += _lines(metric, sample, {"mountpoint": printable(mountpoint), **sample["labels"]})
    for name, (metric, lines) in found.items():
        yield f"# HELP {name} {_escaped(metric['help'], quoted=False)}"
        yield f"# TYPE {name} {metric['kind']}"
        yield from lines


def _lines(metric: Metric, sample: Metric, labels: Mapping[str, str]) -> Iterator[str]:
    name = metric["name"]
    if metric["kind"] != "histogram":
        yield f"{name}{_labels(labels)} {_number(sample['value'])}"
        return
    count = 0
    for bound, more in zip([*metric["bounds"], None], sample["buckets"], strict=True):
        count += more
        limit = "+Inf" if bound is None else f"{bound:.12g}"
        yield f"{name}_bucket{_labels({**labels, 'le': limit})} {count}"
    yield f"{name}_sum{_labels(labels)} {_number(sample['value'])}"
    yield f"{name}_count{_labels(labels)} {count}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.15g}"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(text: str, *, quoted: bool = True) -> str:
    """Return text as the format wants it, on one line."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quoted else text
