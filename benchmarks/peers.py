"""The same models behind HTTP, in our own server and in others, and in transformers' `generate`."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import AutoModelForCausalLM

STARTING_SECONDS = 600.0


@contextmanager
def serving(folder: Path, *, dtype: str, clients: int, threads: int, log: Path) -> Iterator[str]:
    """`mcts-serve serve` over the checkpoint, in a process of its own; yields its URL (`.../v1`).

    Raises `RuntimeError` with the server's log when it does not start.
    """
    flags = ["--model", str(folder), "--served-model-name", "benchmark", "--port", "0"]
    flags += ["--dtype", dtype, "--max-running", str(clients), "--threads", str(threads)]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MCTS_SERVE_")
    }
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server", "serve", *flags],
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        yield _ready(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + STARTING_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        found = re.search(r"(http://[\d.:]+)[^\d.:]", log.read_text(encoding="utf-8"))
        if found and httpx.get(f"{found[1]}/ready").status_code == 200:
            return f"{found[1]}/v1"
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text(encoding='utf-8')}")


def served_name(url: str) -> str:
    """The first model of an OpenAI endpoint (`.../v1`)."""
    answer = httpx.get(f"{url}/models")
    answer.raise_for_status()
    return str(answer.json()["data"][0]["id"])


def complete(url: str, model: str, prompts: list[list[int]], tokens: int) -> tuple[int, float]:
    """Each prompt is a client, all at once; returns completion tokens, as the server counted them,
    and seconds. Raises `RuntimeError` when an answer does not have `tokens` tokens."""

    async def ask(client: httpx.AsyncClient, prompt: list[int]) -> int:
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 1.0}
        answer = await client.post(f"{url}/completions", json=body)
        answer.raise_for_status()
        count = int(answer.json()["usage"]["completion_tokens"])
        if count != tokens:
            raise RuntimeError(f"{url} answered {count} tokens where {tokens} were asked for")
        return count

    async def ask_all() -> tuple[int, float]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=None, limits=limits) as client:
            began = time.perf_counter()
            counts = await asyncio.gather(*(ask(client, prompt) for prompt in prompts))
            return sum(counts), time.perf_counter() - began

    return asyncio.run(ask_all())


class Generate:
    """transformers' `generate` over static batches."""

    def __init__(self, folder: Path, dtype: torch.dtype, threads: int) -> None:
        model: Any = AutoModelForCausalLM
        self._model = model.from_pretrained(folder, dtype=dtype).eval()
        self._threads = threads

    @torch.inference_mode()
    def run(self, prompts: list[list[int]], tokens: int) -> tuple[int, float]:
        """Prompts of one length; returns new tokens and seconds."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            ids = torch.tensor(prompts)
            began = time.perf_counter()
            found = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=True,
                top_k=0,
            )
            return int(found[:, ids.shape[1] :].numel()), time.perf_counter() - began
        finally:
            torch.set_num_threads(before)
