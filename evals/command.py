"""The whole of an evaluation: run what is missing, then report everything."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evals import plot, report, results
from evals.endpoint import Endpoint
from evals.ledger import Ledger, Record
from evals.runner import Plan, Runner
from evals.weights import Weights

LEDGER, CSV, JSON, PLOT = "ledger.jsonl", "results.csv", "results.json", "accuracy.png"
_FILE_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One call of `mcts-serve eval`."""

    plan: Plan
    output: Path
    """A folder; what its ledger has already is not run again."""
    name: str | None = None
    """The model's name at the server; None takes its first."""
    clients: int = 4
    chat: bool = False

    async def run(self, client: httpx.AsyncClient, console: Console) -> list[results.Row]:
        """Runs, prints the table to standard output and writes the files.

        Raises `EvalError`."""
        endpoint = Endpoint(client, chat=self.chat)
        served = await endpoint.served(self.name)
        weights = Weights(served.parameters)
        requests = self.plan.requests(served.limits)
        about: dict[str, Any] = {
            "task": self.plan.task.name,
            "template": self.plan.task.template,
            "model": served.name,
            "parameters": dict(served.parameters),
            "chat": self.chat,
            "fields": dict(self.plan.fields),
        }
        with Ledger(self.output / LEDGER, about) as ledger:
            runner = Runner(endpoint, served, ledger, self.clients)
            bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[errors]} errors"),
                console=console,
            )
            done = sum(ledger.done(request) for _, request in requests)
            with bar:
                shown = bar.add_task(
                    self.plan.task.name, total=len(requests), completed=done, errors=0
                )
                errors = 0

                def heard(record: Record) -> None:
                    nonlocal errors
                    errors += record.error is not None
                    bar.update(shown, advance=1, errors=errors)

                await runner.run(self.plan, requests, heard)
            graded = results.grade(self.plan.task, requests, ledger.records, weights)
        return self._report(graded, about)

    def _report(self, graded: list[results.Graded], about: Mapping[str, Any]) -> list[results.Row]:
        rows = results.rows(graded)
        title = f"{about['task']}, model {about['model']}, {len(self.plan.task.items)} items"
        seeds = {"seeds": list(self.plan.seeds), "stop_early": self.plan.stop_early}
        # A file has no width of its own: as wide as the table.
        out = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
        out.print(report.table(rows, title))
        report.write_csv(rows, self.output / CSV)
        report.write_json(rows, graded, {**about, **seeds}, self.output / JSON)
        plot.draw(rows, title, self.output / PLOT)
        return rows
