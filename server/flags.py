"""Command-line flags made from the settings, so that each is described in one place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from server.settings import ENV_PREFIX, Settings


def with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command that takes `**flags` one flag for every setting.

    Values stay text: the settings themselves check them, as they do for the environment.
    """
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    flags = [_flag(name) for name in Settings.model_fields]

    def run(**arguments: Any) -> None:
        command(**arguments)

    run.__name__ = command.__name__
    run.__doc__ = command.__doc__
    run.__annotations__ = {each.name: each.annotation for each in (*flags, *own)}
    run.__signature__ = inspect.Signature([*flags, *own])  # type: ignore[attr-defined]
    return run


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that are on the command line."""
    return {name: value for name, value in flags.items() if value is not None}


def _flag(name: str) -> inspect.Parameter:
    field = Settings.model_fields[name]
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    kind = field.annotation
    option = f"--{name.replace('_', '-')}"
    if kind is bool:
        option = f"{option}/--no-{name.replace('_', '-')}"
    default = "" if field.default is None else f" (default: {_said(field.default)})"
    info = typer.Option(
        option,
        help=f"{field.description}{default}",
        metavar=None if kind is bool else _metavar(kind),
        rich_help_panel=str(extra["group"]),
        show_default=False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[bool | None if kind is bool else str | None, info],
    )


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    members = [member for member in get_args(kind) or (kind,) if member is not NoneType]
    first = members[0]
    if get_origin(first) is Annotated:
        first = get_args(first)[0]
    return {int: "INTEGER", float: "NUMBER"}.get(first, "TEXT")


def _said(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default)


EPILOG = (
    f"Every setting can also be given in the environment ({ENV_PREFIX}MAX_RUNNING=8) or in the "
    "file of --config (max_running: 8). A flag goes before the environment, the environment "
    "before the file."
)
