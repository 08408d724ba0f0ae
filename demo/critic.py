"""The head of a critic and its files: `critic.json` and `head.safetensors`."""

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional


class Head(nn.Module):
    """logit = down(silu(up(hidden))): one score a position."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, width)
        self.down = nn.Linear(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., H] float32 after the trunk's final norm -> logits [...]."""
        logits: Tensor = self.down(functional.silu(self.up(hidden)))
        return logits.squeeze(-1)


def save_head(head: Head, folder: Path, kind: str, trunk: str, read: str) -> None:
    """Write the two files of a critic; `trunk` is "policy" or "own", `read` "step_end" or
    "last"."""
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "kind": kind,
        "trunk": trunk,
        "read": read,
        "activation": "sigmoid",
        "hidden": head.up.in_features,
        "width": head.up.out_features,
    }
    (folder / "critic.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    tensors = {name: value.detach().float().contiguous() for name, value in head.named_parameters()}
    save_file(tensors, folder / "head.safetensors", metadata={"format": "pt"})


def load_head(folder: Path) -> tuple[Head, dict[str, str | int]]:
    """Read a critic's head and its card; raises FileNotFoundError or KeyError on a broken one."""
    card = json.loads((folder / "critic.json").read_text(encoding="utf-8"))
    head = Head(int(card["hidden"]), int(card["width"]))
    head.load_state_dict(load_file(folder / "head.safetensors"))
    head.train(False)
    return head, card
