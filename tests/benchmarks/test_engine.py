"""What would break: a benchmark that leaves out rows, counts tokens that were not drawn, or
compares workloads that are not the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.engine import QUICK, main
from benchmarks.shapes import SHAPES, write_checkpoint
from benchmarks.workloads import BLOCK_SIZE, Measured, Workbench

RUN = {"trees": 2, "branches": 3, "prompt": 272, "suffix": 8}
PROMPT_BLOCKS = 272 // BLOCK_SIZE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmark") / "checkpoint"
    write_checkpoint(SHAPES["tiny"], torch.float32, folder)
    return folder


@pytest.fixture
def run(folder: Path) -> Iterator[Callable[..., Measured]]:
    """Runs a workload on an engine of its own."""

    def run(*, trunks: bool = True, critic: bool = False, incremental: bool = True, **work: Any):  # noqa: ANN202
        bench = Workbench(
            folder,
            dtype=torch.float32,
            threads=1,
            pool_tokens=8192,
            trunks=trunks,
            critic=critic,
            incremental=incremental,
        )
        try:
            return bench.run(**{**RUN, **work})
        finally:
            bench.close()

    return run


def test_the_table_and_the_file_have_all_rows_and_the_tokens_that_were_drawn(
    tmp_path: Path,
) -> None:
    app = typer.Typer()
    app.command()(main)
    report, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    flags = ["--quick", "--repeat", "1", "--threads", "1", "--dtype", "float32"]
    flags += ["--json", str(report), "--plot", str(picture)]
    done = CliRunner().invoke(app, flags, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(report.read_text())["rows"]
    each, trees = QUICK.suffix, QUICK.trees * QUICK.branches
    expected = [
        ("decode", variant, n, n * each) for variant in ("engine", "engine, top-p") for n in (1, 2)
    ]
    expected += [
        ("tree", variant, trees, trees * each)
        for variant in ("shared, trunk read once", "shared, read by each row", "nothing shared")
        for _ in (16, 288)
    ]
    expected += [
        ("critic", variant, QUICK.branches, QUICK.branches * each)
        for variant in ("no critic", "incremental KV", "whole sequence each step")
    ]
    expected += [
        ("completion", variant, n, n * each)
        for variant in ("mcts-serve, HTTP", "transformers generate")
        for n in (1, 2)
    ]
    assert [(r["workload"], r["variant"], r["rows"], r["tokens"]) for r in found] == expected
    for row in found:
        assert row["variant"] in done.output
        assert row["tokens_per_second"] > 0
        assert row["outside_forward"] is None or 0 < row["outside_forward"] < 1
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_trunks_the_same_blocks_are_held_and_more_are_read(
    run: Callable[..., Measured],
) -> None:
    trunks, flat = run(), run(trunks=False)
    assert trunks.tokens == flat.tokens == 2 * 3 * 8
    assert trunks.forwards == flat.forwards
    assert trunks.blocks_peak == flat.blocks_peak
    layers = SHAPES["tiny"].layers
    assert flat.blocks_read == 2 * 3 * 8 * layers * (PROMPT_BLOCKS + 1)
    saved = 2 * (3 - 1) * 8 * layers * (PROMPT_BLOCKS // 8 * 8)
    assert trunks.blocks_read == flat.blocks_read - saved


def test_without_sharing_each_branch_holds_its_own_prompt(run: Callable[..., Measured]) -> None:
    shared, alone = run(), run(share=False)
    assert shared.tokens == alone.tokens
    assert shared.blocks_peak == 2 * (PROMPT_BLOCKS + 3)
    assert alone.blocks_peak == 2 * 3 * (PROMPT_BLOCKS + 1)


def test_a_critic_without_kv_computes_whole_sequences_and_scores_the_same(
    run: Callable[..., Measured],
) -> None:
    work = {"critic": True, "trees": 1, "steps": 2}
    kept, anew = run(**work), run(**work, incremental=False)
    assert kept.critic_tokens == 272 + 3 * 8
    assert anew.critic_tokens == 3 * (272 + 4) + 3 * (272 + 8)
    assert len(kept.scores) == 2 * 3
    assert kept.scores == pytest.approx(anew.scores, abs=1e-4)
    assert len({round(score, 6) for score in kept.scores}) > 1


def test_the_parameters_are_those_of_the_model() -> None:
    """Norms and biases aside, which are no matrix products."""
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM(SHAPES["tiny"].config)
    counted = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert counted == SHAPES["tiny"].parameters
