"""Finds and loads the model that the settings name, and shows how far that has come."""

from __future__ import annotations

import os
import time
from functools import partial

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from structlog.typing import FilteringBoundLogger

from mcts_core.models.hub import NotFound, locate
from mcts_core.query import Served
from server import collector, model
from server.settings import EMBEDDED, Settings, SettingsError


def loader_of(settings: Settings) -> model.Load:
    """What loads the model of these settings. Raises `SettingsError` when it is not there and may
    not be fetched.

    The heavy modules are imported by the loader, in its own thread.
    """
    reference = settings.model
    if reference == EMBEDDED:
        import demo

        reference = str(demo.checkpoint_path())
    if not settings.download:
        try:
            locate(reference)
        except NotFound as error:
            raise SettingsError(f"{error} (--model)") from None
    return partial(_load, settings, reference)


def _load(settings: Settings, reference: str, progress: model.Progress) -> Served:
    # Read when torch is loaded: threads that wait go to sleep soon. Those that spin on keep the
    # event loop from its core, and on a busy machine every step waits for the scheduler's time
    # slice; but a compiled step's threads meet every few microseconds, and are not put to sleep
    # for that. The count is some ten microseconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    progress("importing libraries", 0.0)
    from mcts_core import served

    progress("finding the model", 0.0)
    loaded = served.load(
        locate(reference, download=settings.download),
        name=settings.name,
        device=settings.device,
        dtype=settings.dtype,
        download=settings.download,
        pool_tokens=settings.pool_tokens,
        kv_memory_share=settings.kv_memory_share,
        threads=settings.threads,
        max_batch_rows=settings.max_batch_rows,
        prefix_cache=settings.prefix_cache,
        block_size=settings.block_size,
        attention=settings.attention,
        cuda_graphs=settings.cuda_graphs,
        on_progress=progress,
    )
    collector.settle()
    return loaded


class LoadingLine:
    """A progress line on a terminal; elsewhere, a log line for each stage."""

    def __init__(self, console: Console, log: FilteringBoundLogger) -> None:
        self._log = log
        self._began = time.monotonic()
        self._stage = ""
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("  loading"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%  {task.description}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def update(self, stage: str, share: float) -> None:
        """Called from the loading thread."""
        if self._bar is not None:
            self._bar.update(self._task, completed=share, description=stage)
        elif stage != self._stage:
            seconds = round(time.monotonic() - self._began, 1)
            self._log.info("loading", stage=stage, progress=f"{share:.0%}", seconds=seconds)
        self._stage = stage

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
