"""The embedded model `demo`: small trained models for the Game of 24 and Countdown."""

from pathlib import Path

__all__ = ["checkpoint_path"]


def checkpoint_path() -> Path:
    """Return the folder with the shipped `policy`, `rollout`, `value`, `prm` and `orm` folders."""
    return Path(__file__).resolve().parent / "checkpoints"
