"""Throughput over rows, and over the length of the prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot(rows: list[dict[str, Any]], title: str, file: Path) -> None:
    """`rows` as in the benchmark's JSON."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for axes, across, workloads in (
        (left, "rows", ("decode", "completion")),
        (right, "prompt", ("tree",)),
    ):
        mine = [row for row in rows if row["workload"] in workloads]
        for variant in dict.fromkeys(row["variant"] for row in mine):
            points = sorted(
                (row[across], row["tokens_per_second"]) for row in mine if row["variant"] == variant
            )
            axes.plot(*zip(*points, strict=True), marker="o", label=variant)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("rows or clients" if across == "rows" else "prompt tokens of each tree")
        axes.set_ylabel("tokens per second")
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(file, dpi=120)
