"""Settings: flags, before the environment, before a YAML file, before the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

ENV_PREFIX = "MCTS_SERVE_"
EMBEDDED = "demo"
"""The name under which the embedded model is asked for."""

Positive = Annotated[int, Field(ge=1)]


class SettingsError(Exception):
    """A setting that cannot be used; the message is one line that names it."""


def _field(group: str, default: Any, description: str) -> Any:
    return Field(default=default, description=description, json_schema_extra={"group": group})


class Settings(BaseSettings):
    """Everything that an operator can set. `group` is the panel of `--help`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, extra="forbid", frozen=True, env_ignore_empty=True
    )

    model: str = _field(
        "Model", EMBEDDED, "'demo' (the embedded model), a model's folder or a hub id."
    )
    download: bool = _field(
        "Model", False, "Fetch what the hub's local cache lacks. Default: offline."
    )
    served_model_name: str | None = _field(
        "Model", None, "Name in the API. Default: 'demo', or the folder's name."
    )
    device: str = _field("Model", "cpu", "'cpu', 'cuda', 'cuda:1' or 'auto': CUDA if there is any.")
    dtype: str = _field("Model", "auto", "'auto', 'float32', 'bfloat16' or 'float16'.")
    pool_tokens: Positive | None = _field(
        "Model", None, "Tokens of KV cache for each model. Default: as the memory allows."
    )
    kv_memory_share: Annotated[float, Field(gt=0, le=1)] | None = _field(
        "Model",
        None,
        "Share of the memory beside the models for KV. Default: 0.9 on CUDA, else 0.5.",
    )
    threads: Positive | None = _field(
        "Model",
        None,
        "CPU threads of the engine. Default: by the cores; 1 for small models of modules.",
    )
    max_batch_rows: Positive = _field("Model", 2048, "Most tokens in one forward of a model.")
    prefix_cache: bool = _field(
        "Model", True, "Keep the KV of prompts, for later ones that begin alike."
    )
    block_size: Positive = _field("Model", 16, "Tokens of a KV block; 'flash' takes 256.")
    attention: Literal["auto", "native", "cpu", "triton", "flash"] = _field(
        "Model",
        "auto",
        "'native' (CPUs with AVX2 or AVX-512), 'triton' or 'flash' (NVIDIA GPUs), 'cpu' (any "
        "device), or 'auto'.",
    )
    cuda_graphs: bool = _field(
        "Model", True, "Capture decode steps as CUDA graphs, with 'triton' and 'flash'."
    )

    host: str = _field("Server", "127.0.0.1", "Address to listen on.")
    port: Annotated[int, Field(ge=0, le=65535)] = _field(
        "Server", 8000, "Port to listen on; 0 picks a free one."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _field(
        "Server", "info", "Least severe lines to log."
    )
    log_format: Literal["console", "json"] = _field("Server", "console", "Form of the log.")
    keep_alive_seconds: Annotated[float, Field(gt=0)] = _field(
        "Server", 5.0, "Silence in a stream after which a comment is sent."
    )
    heartbeat_seconds: Annotated[float, Field(gt=0)] = _field(
        "Server", 60.0, "Silence of the engine after which /health fails."
    )
    grace_seconds: Positive = _field(
        "Server", 30, "Time for the requests under way when the server is told to stop."
    )
    drain_seconds: Annotated[float, Field(ge=0)] = _field(
        "Server", 0.0, "Time after SIGTERM in which /ready fails and requests are still taken."
    )
    docs: bool = _field("Server", False, "Serve the API's description under /docs.")

    max_running: Positive = _field("Queue", 32, "Searches at once; each is one tree.")
    max_waiting: Annotated[int, Field(ge=0)] = _field(
        "Queue", 512, "Searches that may wait for their turn; more are answered 503."
    )

    max_body_bytes: Positive = _field("Limits", 4 * 2**20, "Bytes of a request's body.")
    max_prompts: Positive = _field("Limits", 64, "Prompts of one request.")
    max_prompt_tokens: Positive | None = _field(
        "Limits", None, "Tokens of a prompt. Default: what the model's context allows."
    )
    max_tokens: Positive = _field(
        "Limits", 4096, "'max_tokens' of a request, and its default where the context allows it."
    )
    max_n: Positive = _field("Limits", 32, "'n' of a request.")
    max_best_of: Positive = _field(
        "Limits", 64, "'best_of', and what a search draws together by its widths."
    )
    max_logprobs: Annotated[int, Field(ge=0)] = _field(
        "Limits", 20, "'logprobs' and 'top_logprobs' of a request."
    )
    max_simulations: Positive = _field("Limits", 2048, "'search.budget.simulations'.")
    max_spent_tokens: Positive = _field("Limits", 200_000, "'search.budget.tokens'.")
    max_deadline_ms: Annotated[float, Field(gt=0, lt=600_000)] = _field(
        "Limits", 120_000.0, "'search.budget.deadline_ms'; OpenAI's client gives up at 600000."
    )
    max_nodes: Positive = _field("Limits", 16_384, "'search.budget.nodes'.")
    max_rollouts: Annotated[int, Field(ge=0)] = _field("Limits", 32, "'search.rollouts.count'.")
    max_parallel: Positive = _field("Limits", 64, "'search.parallel'.")

    @property
    def name(self) -> str:
        """The served model's name."""
        if self.served_model_name is not None:
            return self.served_model_name
        return EMBEDDED if self.model == EMBEDDED else Path(self.model).resolve().name

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """`gather` reads the environment, between the file and the flags."""
        return (init_settings,)

    @classmethod
    def gather(cls, flags: Mapping[str, Any], config: Path | None = None) -> Settings:
        """Flags that were given, the environment, and the YAML file `config`.

        Raises `SettingsError`.
        """
        file = {} if config is None else _read(config)
        unknown = [key for key in file if key not in cls.model_fields]
        if unknown:
            raise SettingsError(f"{config}: there is no setting '{unknown[0]}'")
        try:
            environment = EnvSettingsSource(cls)()
            if str(environment.get("port", "")).startswith("tcp://"):
                # Of a Service named mcts-serve: Kubernetes tells its pods so where to find it.
                del environment["port"]
            return cls(**{**file, **environment, **flags})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0])
            raise SettingsError(
                f"bad value {first['input']!r} for the setting '{name}' "
                f"(--{name.replace('_', '-')}, {ENV_PREFIX}{name.upper()}): {first['msg']}"
            ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold settings as 'name: value'")
    return {str(key).replace("-", "_"): value for key, value in content.items()}
