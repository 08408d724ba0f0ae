"""Where a model's files lie: a local folder, or a repository of the Hugging Face hub's cache."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

_FILES = ["*.json", "*.safetensors", "*.jinja", "*.yaml", "*.txt", "tokenizer.model"]
"""What is fetched: weights as safetensors only, and no code."""


class NotFound(ValueError):
    """There are no such files here; the message says how to get them."""


def locate(reference: str, base: Path | None = None, *, download: bool = False) -> Path:
    """The folder of a model named by its path, under `base` if that is given and the path is
    relative, or by its id on the hub (`organisation/name`).

    An id is looked up in the local cache only, and nothing leaves this machine, unless `download`
    says that what is missing may be fetched. Raises `NotFound`.
    """
    folder = Path(reference).expanduser()
    if base is not None:
        folder = base / folder
    if folder.is_dir():
        return folder
    # A name without an organisation could be meant for a folder.
    if reference.count("/") != 1 or reference.startswith((".", "~", "/")):
        raise NotFound(f"there is no model folder {folder}")
    try:
        return Path(
            snapshot_download(reference, allow_patterns=_FILES, local_files_only=not download)
        )
    except HFValidationError:
        raise NotFound(f"there is no model folder {folder}") from None
    except LocalEntryNotFoundError as error:
        if download:
            raise NotFound(f"{reference} cannot be fetched from the hub: {error}") from None
        raise NotFound(
            f"there is no model folder {folder}, and the hub's model {reference} is not in the "
            "local cache: --download fetches it"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise NotFound(f"{reference} cannot be fetched from the hub: {error}") from None
