"""The command line: `mcts-serve serve` and `mcts-serve eval`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

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

if TYPE_CHECKING:
    from httpx import AsyncClient

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

    def leave() -> None:
        server.model.leave()
        log.info("leaving", seconds=settings.drain_seconds)

    listener = Listener(
        server.app,
        grace_seconds=settings.grace_seconds,
        drain_seconds=settings.drain_seconds,
        on_leave=leave,
        on_stop=stop,
    )
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


@app.command("eval")
def evaluate(
    task: Annotated[
        str,
        typer.Option(
            help="game24[:FIRST-LAST], countdown:SEED:COUNT, gsm8k:FILE, math:FILE or jsonl:FILE."
        ),
    ],
    budget: Annotated[
        list[int] | None, typer.Option(min=1, help="Spent tokens; repeatable.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; all by default. The baselines are always run."),
    ] = None,
    variants: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME='{search fields}': one more variant; repeatable."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable (default: 0).")] = None,
    url: Annotated[str | None, typer.Option(help="A running server's; ends in /v1.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Without --url: 'demo' (the default) or a model's folder, in-process."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Without --url: YAML file with the server's settings.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name at the server.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="First items of the task.")] = None,
    template: Annotated[
        Path | None, typer.Option(help="Text file: the prompt, with {question} in it.")
    ] = None,
    request: Annotated[
        str, typer.Option(help="JSON: more fields of each request, such as max_tokens and stop.")
    ] = "{}",
    chat: Annotated[bool, typer.Option("--chat", help="Ask through chat completions.")] = False,
    stop_early: Annotated[
        bool, typer.Option(help="Whether the preset's stop_when.score may end a search.")
    ] = True,
    output: Annotated[
        Path, typer.Option(help="Folder; what its ledger has already is not run again.")
    ] = Path("evaluation"),
) -> None:
    """Measure accuracy over spent tokens and seconds, by method and budget.

    Try: mcts-serve eval --task game24 --limit 10 --budget 200 --budget 400
    """
    try:
        from evals import task as tasks
        from evals import variant
        from evals.command import Evaluation
        from evals.endpoint import over_http
        from evals.errors import EvalError
        from evals.runner import Plan
        from server.inside import UNCAPPED, inside
    except ModuleNotFoundError as error:
        _refuse(f"eval needs {error.name}: pip install '.[eval]' in the folder of the sources")
    console = Console(stderr=True)
    try:
        try:
            text = None if template is None else template.read_text(encoding="utf-8")
            fields = json.loads(request)
        except (OSError, ValueError) as error:
            raise EvalError(f"{_one_line(error)} (--template, --request)") from None
        if not isinstance(fields, dict):
            raise EvalError("give a JSON object (--request)")
        plan = Plan(
            task=tasks.read(task, template=text, limit=limit),
            variants=variant.gather(method or (), variants or ()),
            budgets=sorted(set(budget or (200, 400, 800))),
            seeds=list(dict.fromkeys(seed or (0,))),
            stop_early=stop_early,
            fields=fields,
        )
        evaluation = Evaluation(plan, output, name, clients, chat)

        def opened() -> AbstractAsyncContextManager[AsyncClient]:
            if url is not None:
                return over_http(url)
            flags = {"model": model} if model is not None else {}
            return inside(Settings.gather({**flags, **UNCAPPED}, config))

        async def run() -> None:
            async with opened() as client:
                await evaluation.run(client, console)

        logs.configure("warning", "console")
        asyncio.run(run())
    except (EvalError, SettingsError) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        print(f"mcts-serve: stopped; the same command goes on from {output}", file=sys.stderr)
        raise SystemExit(130) from None


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
