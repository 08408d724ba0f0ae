"""The report: a table on the terminal, results.csv and results.json."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from evals.results import Graded, Row


def table(rows: Sequence[Row], title: str) -> Table:
    """Variants by budgets."""
    drawn = Table(title=title, title_justify="left", box=SIMPLE)
    drawn.add_column("variant", no_wrap=True)
    for name in ("budget", "accuracy", "95% CI", "weighted tokens", "seconds", "errors"):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("ended by")
    for row in rows:
        drawn.add_row(
            Text(row.variant),
            "-" if row.budget is None else str(row.budget),
            f"{row.accuracy:.1%}",
            f"{row.low:.1%} to {row.high:.1%}",
            _number(row.weighted_tokens, 0),
            _number(row.seconds, 2),
            str(row.errors),
            ", ".join(f"{reason} {count}" for reason, count in sorted(row.stops.items())),
        )
    return drawn


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line a row; the stop reasons as JSON."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for row in rows:
            writer.writerow({**asdict(row), "stops": json.dumps(row.stops, sort_keys=True)})


def write_json(
    rows: Sequence[Row], graded: Sequence[Graded], about: Mapping[str, Any], path: Path
) -> None:
    """`about` the run, its rows, and every run's grade, tokens and seconds."""
    runs = [
        {
            **asdict(each.record.key),
            "correct": each.correct,
            "weighted_tokens": each.weighted,
            "seconds": each.record.seconds,
            "error": each.record.error,
        }
        for each in graded
    ]
    content = {**about, "rows": [asdict(row) for row in rows], "runs": runs}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
