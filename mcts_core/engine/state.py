"""Nodes as the engine sees them: token ids, and a seat in every model that has computed them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from mcts_core.engine.pending import Pending
from mcts_core.kv.branch import Branch


@dataclass(slots=True, eq=False, weakref_slot=True)
class Seat(Pending):
    """A state's place in one model. Settled once the state's last token was computed there.

    Its KV may be evicted when the pool is full, and its logits with it, or alone (`KeptLogits`):
    they are computed again when something goes on from the state. The hidden state stays.
    """

    length: int = 0
    """Tokens of the state."""
    branch: Branch | None = None
    """None before the state is computed, and while its KV is evicted."""
    hidden: torch.Tensor | None = None
    """[hidden] of the last token, after the final norm."""
    logits: torch.Tensor | None = None
    """[vocabulary] after the last token; None in a model without a language head, and while they,
    or its KV, are evicted."""
    scores: dict[str, float] = field(default_factory=dict)
    """By critic, as far as they were asked."""
    released: bool = False

    def occupy(self, branch: Branch, hidden: torch.Tensor) -> None:
        """The state is computed: `branch` holds its KV from now on."""
        if self.released:
            branch.release()
        else:
            self.hidden = hidden
            self.restore(branch)
        self.settle()

    @property
    def evicted(self) -> bool:
        """Whether it was computed and has no KV now."""
        return self.branch is None and self.hidden is not None

    def restore(self, branch: Branch) -> None:
        """`branch` holds the state's KV."""
        assert self.branch is None
        self.branch = branch
        branch.give_up = self.evict

    def evict(self) -> None:
        if self.branch is not None:
            self.branch.release()
        self.branch = self.logits = None

    def release(self) -> None:
        self.released = True
        self.evict()
        self.hidden = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class NodeState:
    """Implements `search.work.State`."""

    tokens: list[int]
    parent: NodeState | None
    prompt_length: int
    text: str = ""
    """Of the option that led here."""
    cut: bool = False
    """That option was ended by its limit: its step goes on in the next one."""
    seats: dict[str, Seat] = field(default_factory=dict)
    """By model name."""
    released: bool = False

    def ancestry(self) -> Iterator[NodeState]:
        """This state, its parent, and so on up to the root."""
        state: NodeState | None = self
        while state is not None:
            yield state
            state = state.parent

    def tail(self, count: int) -> str:
        """The last `count` characters of the completion so far."""
        text = ""
        for state in self.ancestry():
            if len(text) >= count:
                break
            text = state.text + text
        return text[-count:] if count > 0 else ""

    def begun(self) -> str:
        """The text of the step that goes on here; empty where a new one begins."""
        text = ""
        for state in self.ancestry():
            if not state.cut:
                break
            text = state.text + text
        return text

    def release(self) -> None:
        self.released = True
        for seat in self.seats.values():
            seat.release()
