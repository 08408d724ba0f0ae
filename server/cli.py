"""The command line: `mcts-serve serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import structlog
import typer
from rich.console import Console

from server import __version__, logs
from server.app import build
from server.flags import EPILOG, given, with_flags
from server.listener import Listener, bind
from server.loading import LoadingLine, loader_of
from server.model import Watcher
from server.settings import Settings, SettingsError

app = typer.Typer(
    name="mcts-serve",
    help="An inference server that decodes by Monte-Carlo tree search, guided by critics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mcts-serve {__version__}")
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """An inference server that decodes by Monte-Carlo tree search, guided by critics."""


def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file with settings.", rich_help_panel="Server"),
    ] = None,
    **flags: Any,
) -> None:
    """Serve a model over an OpenAI-style API.

    Try: mcts-serve serve --model demo
    """
    try:
        settings = Settings.gather(given(flags), config)
        load = loader_of(settings)
        listening = bind(settings.host, settings.port)
    except SettingsError as error:
        _refuse(str(error))
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        _refuse(f"cannot listen on {where}: {error.strerror or error} (--host, --port)")
    # Libraries that load models would draw bars of their own across the log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logs.configure(settings.log_level, settings.log_format)
    log = structlog.get_logger("mcts-serve")
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    line = LoadingLine(Console(stderr=True), log)
    failures: list[Exception] = []

    def ready(_: object) -> None:
        line.close()
        log.info("ready", url=url, model=settings.name)
        if settings.log_format == "console":
            typer.echo(_greeting(url, settings.name), err=True)

    def failed(error: Exception) -> None:
        line.close()
        failures.append(error)
        listener.should_exit = True

    watcher = Watcher(progress=line.update, ready=ready, failed=failed)
    server = build(settings, load, watcher)

    def stop() -> None:
        server.model.drain()
        log.info("stopping", running=server.admission.running, waiting=server.admission.waiting)

    listener = Listener(server.app, settings.grace_seconds, stop)
    log.info("listening", url=url, model=settings.model, version=__version__)
    try:
        listener.run(sockets=[listening])
    finally:
        line.close()
    if failures:
        log.debug("loading failed", exc_info=failures[0])
        _refuse(f"cannot load the model '{settings.model}': {_one_line(failures[0])}")
    log.info("stopped")


app.command(epilog=EPILOG)(with_flags(serve))


def _greeting(url: str, model: str) -> str:
    body = f'{{"model": "{model}", "prompt": "Use 4 9 10 13 to make 24.\\n"}}'
    return (
        f"\n  {model} is served at {url}. Try:\n\n"
        f"  curl {url}/v1/completions -H 'Content-Type: application/json' \\\n"
        f"    -d '{body}'\n"
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _refuse(message: str) -> NoReturn:
    """One line and no traceback: what is wrong is not the program."""
    print(f"mcts-serve: {message}", file=sys.stderr)
    raise SystemExit(1)
