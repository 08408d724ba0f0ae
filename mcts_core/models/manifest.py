"""What a served model consists of: the file `served.yaml` in its folder."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mcts_core.search.parameters import SearchParameters

FILE = "served.yaml"


class ManifestError(ValueError):
    """The folder is not a served model; the message says what is wrong in which file."""


class Manifest(BaseModel):
    """A part is named by its folder, relative to that of the manifest, or by its id on the hub
    (`organisation/name`). A folder without the file is a plain checkpoint: a policy
    without critics, whose preset is `sample`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: str = "."
    rollout: str | None = None
    critics: dict[str, str] = {}
    """Folder of each critic, by the name that requests and responses call it."""
    search: SearchParameters = SearchParameters(method="sample", fallback=())
    """The preset."""

    @field_validator("critics")
    @classmethod
    def _names_no_model(cls, critics: dict[str, str]) -> dict[str, str]:
        taken = {"policy", "rollout"} & critics.keys()
        if taken:
            raise ValueError(f"{min(taken)!r} cannot be a critic's name")
        return critics

    @property
    def parts(self) -> dict[str, str]:
        """Folder or id of each part, by name."""
        rollout = {} if self.rollout is None else {"rollout": self.rollout}
        return {"policy": self.policy, **rollout, **self.critics}

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Raises `ManifestError`."""
        if not folder.is_dir():
            raise ManifestError(f"{folder} is not a folder")
        path = folder / FILE
        if not path.is_file():
            if not (folder / "config.json").is_file():
                raise ManifestError(f"{folder} holds neither {FILE} nor a checkpoint's config.json")
            return cls()
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
        except (ValidationError, yaml.YAMLError) as error:
            raise ManifestError(f"{path}: {error}") from None
