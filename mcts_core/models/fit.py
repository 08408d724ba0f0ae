"""Whether the parts of a served model fit together: one vocabulary, and heads on their trunks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from critics.card import CriticError
from critics.critic import Critic
from mcts_core.engine.resident import Resident
from mcts_core.engine.seating import POLICY, ROLLOUT
from mcts_core.models.manifest import ManifestError
from mcts_core.models.tokenizer import ModelTokenizer

_TOKENIZER = "tokenizer.json"


def check_tokens(tokenizer: ModelTokenizer, folders: Mapping[str, Path]) -> None:
    """Compares the token maps of the other models' tokenizers with the policy's: all of them are
    fed the policy's ids.

    `folders` holds those of the rollout model and of critics with a trunk of their own. One
    without a tokenizer is taken at its word. A critic may know tokens that the policy does not.
    Raises `ManifestError` or `CriticError` for the first token that means something else.
    """
    ids = tokenizer.ids
    for part, folder in folders.items():
        if not (folder / _TOKENIZER).is_file():
            continue
        theirs = ModelTokenizer.load(folder).ids
        wrong = [token for token, index in ids.items() if theirs.get(token) != index]
        if part == ROLLOUT:
            wrong += [token for token in theirs if token not in ids]
        if wrong:
            first = min(wrong)
            who = "the rollout model" if part == ROLLOUT else f"critic {part!r}"
            message = (
                f"{who} does not share the policy's tokenizer: {len(wrong)} tokens differ, among "
                f"them {first!r}, which is {_said(theirs.get(first))} to it and "
                f"{_said(ids.get(first))} to the policy; use a model of the policy's family"
            )
            raise ManifestError(message) if part == ROLLOUT else CriticError(message)


def check_sizes(residents: Mapping[str, Resident], critics: Mapping[str, Critic]) -> None:
    """Compares the vocabularies' sizes and the heads' widths. Raises `ManifestError` or
    `CriticError`."""
    vocabulary = residents[POLICY].decoder.vocabulary
    rollout = residents.get(ROLLOUT)
    if rollout is not None and rollout.decoder.vocabulary != vocabulary:
        raise ManifestError(
            f"the rollout model's vocabulary of {rollout.decoder.vocabulary} tokens is not the "
            f"policy's of {vocabulary}: they must share their tokenizer"
        )
    for name, critic in critics.items():
        trunk = residents[POLICY if critic.card.trunk == "policy" else name]
        if critic.head.hidden != trunk.decoder.hidden:
            raise CriticError(
                f"critic {name!r} reads hidden states of width {critic.head.hidden}, its trunk's "
                f"have {trunk.decoder.hidden}"
            )
        if trunk.decoder.vocabulary < vocabulary:
            raise CriticError(
                f"critic {name!r} knows {trunk.decoder.vocabulary} tokens, the policy "
                f"{vocabulary}: they must share their tokenizer"
            )


def _said(index: int | None) -> str:
    return "no token" if index is None else f"token {index}"
