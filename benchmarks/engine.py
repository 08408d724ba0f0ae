"""The engine's throughput on random weights, beside its peers' and the machine's, in one run.

    python -m benchmarks.engine --shape small --json bench.json --plot bench.png

Prints a row for each workload; docs/performance.md says what each means. Figures are medians of
`--repeat` runs after one that is not counted.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.machine import Machine, measure
from benchmarks.peers import Generate, complete, served_name, serving
from benchmarks.plot import plot
from benchmarks.shapes import CONTEXT_LENGTH, SHAPES, Shape, prompts, write_checkpoint
from benchmarks.workloads import BLOCK_SIZE, Measured, Workbench
from mcts_core.models.precision import computes_bfloat16
from mcts_core.search.work import Sampling
from server import collector

_TOP_P = Sampling(temperature=0.8, top_p=0.95)


@dataclass(frozen=True, slots=True)
class Row:
    """A workload's medians; what was not measured for it is None."""

    workload: str
    variant: str
    rows: int
    prompt: int
    tokens: int
    tokens_per_second: float
    prefill_seconds: float | None = None
    whole_tokens_per_second: float | None = None
    """The prompts' computation included."""
    outside_forward: float | None = None
    matmul_share: float | None = None
    copy_share: float | None = None
    blocks_peak: int | None = None
    critic_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    trees: int = 4
    branches: int = 16
    suffix: int = 64
    short_prompt: int = 48
    critic_steps: int = 4
    matrix: int = 2048


QUICK = Sizes(trees=2, branches=2, suffix=8, short_prompt=16, critic_steps=2, matrix=64)


@dataclass(frozen=True, slots=True)
class Bench:
    """One run over one checkpoint."""

    shape: Shape
    folder: Path
    dtype: torch.dtype
    threads: int
    machine: Machine
    sizes: Sizes
    repeat: int

    def decode(self, rows: list[int]) -> Iterator[Row]:
        """So many prompts, a sequence under each."""
        length, suffix = self.sizes.short_prompt, self.sizes.suffix
        bench = self._workbench(max(rows) * (length + suffix))
        try:
            for variant, sampling in (("engine", Sampling()), ("engine, top-p", _TOP_P)):
                for count in rows:
                    yield self._measure(
                        "decode", variant, bench, count, 1, length, sampling=sampling
                    )
        finally:
            bench.close()

    def trees(self, lengths: list[int]) -> Iterator[Row]:
        """The same trees, with shared blocks read once, read by each row, and not shared at all."""
        count = self.sizes.trees * self.sizes.branches
        for variant, trunks, share in (
            ("shared, trunk read once", True, True),
            ("shared, read by each row", False, True),
            ("nothing shared", True, False),
        ):
            bench = self._workbench(count * (max(lengths) + self.sizes.suffix), trunks=trunks)
            try:
                for length in lengths:
                    yield self._measure(
                        "tree",
                        variant,
                        bench,
                        self.sizes.trees,
                        self.sizes.branches,
                        length,
                        share=share,
                    )
            finally:
                bench.close()

    def critic(self, length: int) -> Iterator[Row]:
        """A tree whose steps are scored by a model of the policy's size, or not scored."""
        branches, steps = self.sizes.branches, self.sizes.critic_steps
        pool = 2 * (branches + 1) * (length + self.sizes.suffix)
        for variant, critic, incremental in (
            ("no critic", False, True),
            ("incremental KV", True, True),
            ("whole sequence each step", True, False),
        ):
            bench = self._workbench(pool, critic=critic, incremental=incremental)
            try:
                yield self._measure("critic", variant, bench, 1, branches, length, steps=steps)
            finally:
                bench.close()

    def http(self, clients: list[int], url: str, model: str, variant: str) -> Iterator[Row]:
        """Requests for a sample each, all sent at once."""
        yield from self._completions(
            clients, variant, lambda ids: complete(url, model, ids, self.sizes.suffix)
        )

    def transformers(self, rows: list[int]) -> Iterator[Row]:
        generate = Generate(self.folder, self.dtype, self.threads)
        yield from self._completions(
            rows, "transformers generate", lambda ids: generate.run(ids, self.sizes.suffix)
        )

    def _completions(
        self, counts: list[int], variant: str, run: Callable[[list[list[int]]], tuple[int, float]]
    ) -> Iterator[Row]:
        """Prefill and decoding are timed together; no prompt comes twice."""
        length, vocabulary, seed = self.sizes.short_prompt, self.shape.vocabulary, 0
        for count in counts:
            found: list[tuple[int, float]] = []
            for _ in range(self.repeat + 1):
                seed += 1
                found.append(run(prompts(vocabulary, count, length, seed)))
            speed = statistics.median(tokens / seconds for tokens, seconds in found[1:])
            yield Row("completion", variant, count, length, found[-1][0], speed)

    def _workbench(
        self,
        pool_tokens: int,
        *,
        trunks: bool = True,
        critic: bool = False,
        incremental: bool = True,
    ) -> Workbench:
        """A tenth and 64 blocks more than `pool_tokens`: a run must never wait for room."""
        return Workbench(
            self.folder,
            dtype=self.dtype,
            threads=self.threads,
            pool_tokens=pool_tokens + pool_tokens // 10 + 64 * BLOCK_SIZE,
            trunks=trunks,
            critic=critic,
            incremental=incremental,
        )

    def _measure(
        self,
        workload: str,
        variant: str,
        bench: Workbench,
        trees: int,
        branches: int,
        prompt: int,
        *,
        steps: int = 1,
        share: bool = True,
        sampling: Sampling | None = None,
    ) -> Row:
        runs = [
            bench.run(
                trees=trees,
                branches=branches,
                prompt=prompt,
                suffix=self.sizes.suffix,
                steps=steps,
                share=share,
                sampling=replace(sampling or Sampling(), seed=seed),
                seed=seed,
            )
            for seed in range(self.repeat + 1)
        ][1:]
        lone = workload != "critic"  # two models' shares would have to be told apart
        return Row(
            workload,
            variant,
            trees * branches,
            prompt,
            runs[-1].tokens,
            statistics.median(each.tokens / each.decode_seconds for each in runs),
            prefill_seconds=statistics.median(each.prefill_seconds for each in runs),
            whole_tokens_per_second=statistics.median(
                each.tokens / (each.prefill_seconds + each.decode_seconds) for each in runs
            ),
            outside_forward=statistics.median(
                1 - each.forward_seconds / each.decode_seconds for each in runs
            ),
            matmul_share=statistics.median(map(self._matmul_share, runs)) if lone else None,
            copy_share=statistics.median(map(self._copy_share, runs)) if lone else None,
            blocks_peak=runs[-1].blocks_peak,
            critic_tokens=None if lone else runs[-1].critic_tokens,
        )

    def _matmul_share(self, run: Measured) -> float:
        """The weights' products for the drawn tokens alone: no attention, no padding."""
        products = 2 * self.shape.parameters * run.tokens
        return products / run.decode_seconds / self.machine.flops_per_second

    def _copy_share(self, run: Measured) -> float:
        """The weights once for each forward, and the KV blocks that were fetched."""
        item = self.dtype.itemsize
        weights = run.forwards * self.shape.parameters * item
        kv = run.blocks_read * BLOCK_SIZE * self.shape.kv_bytes(item)
        return (weights + kv) / run.decode_seconds / self.machine.copy_bytes_per_second


@contextmanager
def peer(vllm: str, folder: Path, dtype: str, log: Path) -> Iterator[str]:
    """The URL of an endpoint that is running already, or of one that runs from here on."""
    if vllm.startswith(("http://", "https://")):
        yield vllm
    else:
        with peers.vllm(Path(vllm), folder, dtype=dtype, log=log) as url:
            yield url


def table_of(rows: list[Row]) -> Table:
    table = Table(
        *("workload", "variant", "rows", "prompt", "tokens", "tokens/s", "prefill s", "whole"),
        *("outside forward", "of matmul", "of copy", "KV blocks", "critic tokens"),
    )
    for row in rows:
        shares = (row.outside_forward, row.matmul_share, row.copy_share)
        table.add_row(
            *(row.workload, row.variant, str(row.rows), str(row.prompt), str(row.tokens)),
            f"{row.tokens_per_second:,.0f}",
            "" if row.prefill_seconds is None else f"{row.prefill_seconds:.2f}",
            "" if row.whole_tokens_per_second is None else f"{row.whole_tokens_per_second:,.0f}",
            *("" if share is None else f"{share:.1%}" for share in shares),
            *(
                "" if count is None else str(count)
                for count in (row.blocks_peak, row.critic_tokens)
            ),
        )
    return table


def main(
    shape: Annotated[str, typer.Option(help="small (15.7M), large (387M) or tiny.")] = "small",
    rows: Annotated[list[int] | None, typer.Option(help="Rows or clients; repeatable.")] = None,
    prompt: Annotated[list[int] | None, typer.Option(help="Of the trees; repeatable.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Runs that the medians are of.")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="By default all cores.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, or auto for this CPU.")] = "auto",
    vllm: Annotated[
        str | None,
        typer.Option(help="A vllm executable to start, or the endpoint of one that is running."),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep the checkpoint here, for a peer to serve.")
    ] = None,
    only_checkpoint: Annotated[
        bool, typer.Option("--only-checkpoint", help="Write --checkpoint, measure nothing.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="A tiny shape and few tokens: does it run at all?")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw them (.png).")] = None,
) -> None:
    """Throughput on random weights of a given shape, on this machine's CPU."""
    shape = "tiny" if quick else shape
    if shape not in SHAPES:
        raise typer.BadParameter(f"{shape!r} is not one of {', '.join(SHAPES)}")
    if dtype not in ("auto", "float32", "bfloat16"):
        raise typer.BadParameter(f"{dtype!r} is not one of auto, float32, bfloat16")
    if only_checkpoint and checkpoint is None:
        raise typer.BadParameter("--only-checkpoint needs --checkpoint FOLDER")
    sizes = QUICK if quick else Sizes()
    rows = rows or ([1, 2] if quick else [1, 16, 64])
    lengths = prompt or ([16, 288] if quick else [64, 256, 1024])
    if min(rows) < 1 or min(lengths) < 1 or max(lengths) + sizes.suffix > CONTEXT_LENGTH:
        raise typer.BadParameter(
            f"rows are 1 or more, and prompts 1 to {CONTEXT_LENGTH - sizes.suffix} tokens"
        )
    if dtype == "auto":
        dtype = "bfloat16" if computes_bfloat16(torch.device("cpu")) else "float32"
    precision: torch.dtype = getattr(torch, dtype)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = threads or cores or 1
    found: list[Row] = []
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = checkpoint or Path(scratch) / "checkpoint"
        write_checkpoint(SHAPES[shape], precision, folder)
        if only_checkpoint:
            return
        machine = measure(precision, threads, sizes.matrix, max(repeat, 3))
        collector.settle()  # as the server does
        bench = Bench(SHAPES[shape], folder, precision, threads, machine, sizes, repeat)

        def take(part: Iterator[Row]) -> None:
            for row in part:
                console.print(
                    f"{row.workload}, {row.variant}: {row.rows} rows, {row.prompt} prompt"
                )
                found.append(row)

        take(bench.decode(rows))
        take(bench.trees(lengths))
        take(bench.critic(max(lengths)))
        log = Path(scratch) / "server.log"
        with serving(folder, dtype=dtype, clients=max(rows), threads=threads, log=log) as url:
            take(bench.http(rows, url, "benchmark:sample", "mcts-serve, HTTP"))
        take(bench.transformers(rows))
        if vllm is not None:
            with peer(vllm, folder, dtype, Path(scratch) / "vllm.log") as url:
                take(bench.http(rows, url, served_name(url), "vLLM, HTTP"))
    output = Console()
    if not output.is_terminal:
        output = Console(width=200)  # a file has no width that columns must fit into
    output.print(table_of(found))
    output.print(
        f"{shape}, {dtype}, {threads} threads: matrix products "
        f"{machine.flops_per_second / 1e9:,.1f} GFLOP/s, "
        f"copy {machine.copy_bytes_per_second / 1e9:.1f} GB/s"
    )
    if json_file is not None:
        report = {
            "shape": {"name": shape, **asdict(SHAPES[shape])},
            "dtype": dtype,
            "torch": torch.__version__,
            "repeat": repeat,
            "machine": asdict(machine),
            "rows": [asdict(row) for row in found],
        }
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if plot_file is not None:
        plot([asdict(row) for row in found], f"{shape}, {dtype}, {threads} threads", plot_file)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server is stopped on the way out
    typer.run(main)
