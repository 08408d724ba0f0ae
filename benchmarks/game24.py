"""Solves the 100 Game of 24 puzzles of rank 901 to 1000 through a running server's HTTP API.

    mcts-serve serve --model demo &
    python benchmarks/game24.py --model demo --model demo:greedy --clients 1 --clients 16

An answer counts when the expression of its `Answer:` line uses exactly the four numbers and makes
24 (`demo.puzzle.grade`). Prints a row for each model and number of clients: solved, medians of
spent tokens and latency, puzzles per second; `--json FILE` writes the same and every answer.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from openai import AsyncOpenAI
from rich.console import Console
from rich.progress import track
from rich.table import Table

from demo.puzzle import Puzzle, grade, test_puzzles


async def solve(client: AsyncOpenAI, model: str, puzzle: Puzzle, seed: int) -> dict[str, Any]:
    """One request, timed and graded."""
    began = time.perf_counter()
    answer = await client.completions.create(model=model, prompt=puzzle.prompt, seed=seed)
    seconds = time.perf_counter() - began
    search = (answer.model_extra or {})["search"]
    text = answer.choices[0].text
    return {
        "prompt": puzzle.prompt,
        "text": text,
        "solved": grade(puzzle, text),
        "seconds": seconds,
        "spent": search["tokens"]["spent"],
        "search": search,
    }


async def run(url: str, model: str, clients: int, seed: int, repeat: int) -> list[dict[str, Any]]:
    """All puzzles `repeat` times, `clients` requests at a time."""
    waiting = [(puzzle, seed + n) for n in range(repeat) for puzzle in test_puzzles()]
    progress = iter(track(range(len(waiting)), description=f"{model} x {clients}", transient=True))
    answers: list[dict[str, Any]] = []

    async def worker() -> None:
        while waiting:
            puzzle, own_seed = waiting.pop(0)
            answers.append(await solve(client, model, puzzle, own_seed))
            next(progress, None)

    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        await solve(client, model, test_puzzles()[0], seed)
        await asyncio.gather(*(worker() for _ in range(clients)))
    return answers


def main(
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8000/v1",
    model: Annotated[list[str] | None, typer.Option(help="Served names; repeatable.")] = None,
    clients: Annotated[list[int] | None, typer.Option(help="At once; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first pass.")] = 0,
    repeat: Annotated[int, typer.Option(help="Passes over the puzzles, each a seed.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all answers.")] = None,
) -> None:
    """Game of 24, ranks 901 to 1000, through the HTTP API."""
    table = Table("model", "clients", "solved", "median spent", "median s", "p95 s", "puzzles/s")
    rows: list[dict[str, Any]] = []
    for name in model or ["demo", "demo:greedy"]:
        for count in clients or [1]:
            began = time.perf_counter()
            answers = asyncio.run(run(url, name, count, seed, repeat))
            seconds = time.perf_counter() - began
            latencies = sorted(answer["seconds"] for answer in answers)
            solved = sum(answer["solved"] for answer in answers)
            row = {
                "model": name,
                "clients": count,
                "solved": f"{solved}/{len(answers)}",
                "median_spent": statistics.median(answer["spent"] for answer in answers),
                "median_seconds": statistics.median(latencies),
                "p95_seconds": latencies[int(0.95 * (len(latencies) - 1))],
                "puzzles_per_second": len(answers) / seconds,
            }
            rows.append({**row, "answers": answers})
            table.add_row(
                *(
                    f"{value:.3g}" if isinstance(value, float) else str(value)
                    for value in row.values()
                )
            )
    Console().print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
