"""The plot: accuracy over weighted spent tokens and over seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from evals.results import Row


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Writes `path`: a line for each variant through its budgets, a point for those without, both
    with their confidence intervals."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, rows, lambda row: row.weighted_tokens)
    _panel(right, rows, lambda row: row.seconds)
    left.set_xlabel("weighted spent tokens (median; 1 = one policy token)")
    right.set_xlabel("seconds (median)")
    left.set_ylabel("accuracy, 95% confidence")
    left.set_ylim(-0.02, 1.02)
    right.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _panel(axes: Any, rows: Sequence[Row], cost: Callable[[Row], float | None]) -> None:
    groups: dict[str, list[tuple[float, Row]]] = defaultdict(list)
    for row in rows:
        x = cost(row)
        if x is not None:
            groups[row.variant].append((x, row))
    for index, (variant, points) in enumerate(groups.items()):
        points.sort(key=lambda point: point[0])
        xs = [x for x, _ in points]
        accuracy = [row.accuracy for _, row in points]
        low, high = [row.low for _, row in points], [row.high for _, row in points]
        color = f"C{index % 10}"
        line = "--" if index >= 10 else "-"
        axes.plot(xs, accuracy, marker="o", linestyle=line, color=color, label=variant)
        if len(points) > 1:
            axes.fill_between(xs, low, high, color=color, alpha=0.12, linewidth=0)
        else:
            axes.vlines(xs, low, high, color=color, alpha=0.4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, alpha=0.3)
