"""Whole evaluations by the command line, over a real socket, with the embedded model."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import Process

PLAN = ("--task", "game24:901-902", "--budget", "60", "--budget", "120", "--method", "mcts")
NARROW = ("--set", 'narrow={"width": {"inner": [1, 1]}}')
VARIANTS = {"mcts", "best_of_n", "self_consistency", "beam", "greedy", "sample", "narrow"}
RUNS = 2 * (5 * 2 + 2)
"""Two puzzles; five variants at two budgets, two without."""


def command(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "server", "eval", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell's background jobs ignore it, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(*arguments: str, status: int = 0) -> tuple[str, str]:
    process = command(*arguments)
    out, err = process.communicate(timeout=200)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out, err


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()[1:]]


def texts(folder: Path) -> dict[str, str]:
    return {json.dumps(record["key"]): record["text"] for record in records(folder)}


@pytest.fixture(scope="module")
def whole(server: Process, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run in one go, and its table."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    out, _ = run(*PLAN, *NARROW, "--url", f"{server.url}/v1", "--output", str(folder))
    return folder, out


def test_a_run_writes_its_table_its_files_and_its_plot(whole: tuple[Path, str]) -> None:
    folder, out = whole
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == VARIANTS
    assert len(rows) == 5 * 2 + 2
    assert all(variant in out for variant in VARIANTS)
    for row in rows:
        assert 0 <= float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) <= 1
        assert (row["items"], row["runs"], row["errors"]) == ("2", "2", "0")
        assert float(row["seconds"]) > 0
    results = json.loads((folder / "results.json").read_text())
    assert results["parameters"]["policy"] > results["parameters"]["rollout"]
    assert len(results["runs"]) == RUNS
    size = results["parameters"]
    by_key = {json.dumps(record["key"]): record for record in records(folder)}
    for each in results["runs"]:
        key = {name: each[name] for name in ("item", "variant", "budget", "seed")}
        tokens = by_key[json.dumps(key)]["report"]["tokens"]
        critics = sum(
            count["computed"] * size[name] / size["policy"]
            for name, count in tokens["critic"].items()
        )
        assert each["weighted_tokens"] == pytest.approx(tokens["policy"]["computed"] + critics)
        assert tokens["policy"]["computed"] + tokens["critics"]["computed"] == tokens["spent"]
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_budgets_are_what_ends_the_searches(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    for record in records(folder):
        if record["key"]["variant"] == "best_of_n":
            assert record["report"]["stop_reason"] == "tokens"


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_cut_short_goes_on_and_runs_nothing_twice(
    blow: signal.Signals, server: Process, whole: tuple[Path, str], tmp_path: Path
) -> None:
    arguments = (*PLAN, *NARROW, "--url", server.url, "--output", str(tmp_path), "--clients", "2")
    process = command(*arguments)
    deadline = time.monotonic() + 100
    ledger = tmp_path / "ledger.jsonl"
    while not ledger.exists() or ledger.read_bytes().count(b"\n") < 6:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(blow)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    if blow == signal.SIGINT:
        assert process.returncode == 130
        assert "goes on" in err
    before = ledger.read_bytes()
    assert 5 <= len(records(tmp_path)) < RUNS
    run(*arguments)
    assert ledger.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    counts = Counter(json.dumps(record["key"]) for record in records(tmp_path))
    assert set(counts.values()) == {1}
    assert texts(tmp_path) == texts(whole[0])


def test_a_busy_server_is_asked_again(server: Process, tmp_path: Path) -> None:
    arguments = ("--task", "game24:901-902", "--budget", "60", "--method", "beam")
    run(*arguments, "--url", server.url, "--output", str(tmp_path), "--clients", "10")
    assert 'reason="queue_full"' in metrics(server)
    assert len(records(tmp_path)) == 2 * 5
    assert all(record["error"] is None for record in records(tmp_path))


def test_in_process_it_is_the_same_search(whole: tuple[Path, str], tmp_path: Path) -> None:
    run("--model", "demo", *PLAN, *NARROW, "--output", str(tmp_path))
    assert texts(tmp_path) == texts(whole[0])


def test_an_item_that_fails_is_recorded_and_the_others_go_on(
    server: Process, tmp_path: Path
) -> None:
    task = tmp_path / "items.jsonl"
    rows = [{"prompt": prompt, "answer": "1"} for prompt in ("1 " * 3000, "Use 1 2 to make 3.\n")]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("--task", f"jsonl:{task}", "--budget", "60", "--method", "beam")
    output = tmp_path / "run"
    run(*arguments, "--url", server.url, "--output", str(output))
    errors = [record["error"] for record in records(output)]
    assert sum("context" in (error or "") for error in errors) == 5
    assert sum(error is None for error in errors) == 5
    with (output / "results.csv").open(newline="") as file:
        assert all(row["errors"] == "1" for row in csv.DictReader(file))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--request", '{"temperature": 9}'), "temperature"),
        (("--request", "[]"), "--request"),
        (("--request", '{"seed": 3}'), "--seed"),
        (("--request", '{"stream": true}'), "'stream'"),
        (("--budget", "1000000"), "max_spent_tokens"),
        (("--name", "gpt"), "gpt"),
        (("--template", "/no/such/file"), "/no/such/file"),
        (("--method", "guess"), "guess"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: tuple[str, ...], named: str, server: Process, tmp_path: Path
) -> None:
    where = ("--url", server.url, "--output", str(tmp_path))
    out, err = run("--task", "game24:901-901", *where, *arguments, status=1)
    assert named in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("mcts-serve: ")
    assert out == ""


def test_without_a_flag_the_settings_name_the_model(tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text("model: /no/such/model\n")
    _, err = run("--task", "game24:901-901", "--config", str(config), status=1)
    assert "/no/such/model" in err.splitlines()[-1]


def metrics(server: Process) -> str:
    return httpx.get(f"{server.url}/metrics").text
