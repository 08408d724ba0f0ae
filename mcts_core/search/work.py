"""Work: the one vocabulary that the search and the engine share.

A search asks for work and is handed outcomes; it knows no batch, no model and no tensor. The
engine carries out the work of all searches together; it knows no tree. Everything here is plain
Python.

Token counts, the clock and the states belong to the engine; the search reads them through
`Account` and `State`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Critics = tuple[str, ...]
"""Names of the critics that are to score the state that a piece of work ends in."""

Finish = Literal["step", "eos", "stop", "length"]
"""Why an option ended: its step rule, the end-of-sequence token, a stop string of the request, or
a token limit (the option's own, the request's or the model's context)."""

FailureReason = Literal["kv_exhausted", "critic_error", "numeric", "context_length", "internal"]


class State(Protocol):
    """A node's token ids and its KV in every model that has seen it. Opaque to the search."""

    @property
    def tokens(self) -> Sequence[int]:
        """All token ids: the prompt's and those of the options so far."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn from a model's distribution, as in the OpenAI and vLLM APIs."""

    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int = 0
    """With the work's `key` and the position it keys the noise, whatever else is in the batch."""
    logprobs: int = 0
    """How many of the most likely tokens to report beside each sampled one."""

    @property
    def edits(self) -> bool:
        """Whether logits are changed by bias or penalties before anything else."""
        penalised = self.presence_penalty or self.frequency_penalty
        return bool(self.logit_bias or penalised or self.repetition_penalty != 1.0)


@dataclass(frozen=True, slots=True)
class Boundary:
    """Where an option ends. With no strings, no regex and no `tokens`, only at the end of the
    sequence, a stop string or a limit."""

    strings: tuple[str, ...] = ()
    regex: str | None = None
    tokens: int = 0
    """End after so many tokens, unless it is 0."""
    min_tokens: int = 1


@dataclass(frozen=True, slots=True)
class Actions:
    """The option is one of these. They take the place of a boundary; top-k, top-p and min-p do not
    apply to them."""

    tokens: tuple[tuple[int, ...], ...]
    """Of each action; none begins with another."""
    count: int = 1
    """The option is so many actions, one after the other."""
    each: bool = False
    """The draws do not choose: each takes an action of its own, of those that no sibling is, in
    their order. Drawing them all together computes what they have in common once."""


@dataclass(frozen=True, slots=True)
class Sibling:
    """An option that was already drawn from the same state: new draws avoid it.

    `draw_logprobs[i]` is the log-probability of `tokens[i]` under the distribution that was sampled
    from. Sampling without replacement: a token's probability is reduced by the mass of the sibling
    that goes on through it (Shi et al., "Incremental sampling without replacement", 2020).
    """

    tokens: tuple[int, ...]
    draw_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Open:
    """Compute the prompt and make the root's state."""

    tokens: tuple[int, ...]
    critics: Critics = ()


@dataclass(frozen=True, slots=True)
class Extend:
    """Grow new states from `state` with the policy, each by one option; answered by `Extended`.

    The `draws` options are drawn independently of each other. As long as draws agree they are one
    sequence, computed once, and draws that agree to the end are one option: drawing several
    options together costs the tokens in which they differ.
    """

    state: State
    sampling: Sampling
    key: tuple[int, int]
    """(node, first draw): with the seed and the token's position they key the noise. The next
    draws count on from the first."""
    boundary: Boundary = Boundary()
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    critics: Critics = ()
    siblings: tuple[Sibling, ...] = ()
    stream: int | None = None
    """When set, every token is announced to the request's listener under this choice index."""
    draws: int = 1
    greedy_first: bool = False
    """The first draw takes the most likely tokens, whatever the temperature of the others."""
    actions: Actions | None = None
    embed: bool = False
    """Give each option's embedding."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Complete `state` with the rollout model, score the completion, and throw it away."""

    state: State
    sampling: Sampling
    key: tuple[int, int]
    max_tokens: int = 128
    stop: tuple[str, ...] = ()
    critics: Critics = ()
    actions: Actions | None = None
    """The completion is a run of these."""


@dataclass(frozen=True, slots=True)
class Score:
    """Ask critics about a state that is there already."""

    state: State
    critics: Critics


@dataclass(frozen=True, slots=True)
class Release:
    """Give a state's KV back; nothing is answered. States that are never released are given back
    when the search ends."""

    state: State


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the request's listener that the answer goes on with this option, whatever else is
    found; nothing is answered."""

    text: str
    logprobs: tuple[TokenLogprob, ...]


Work = Open | Extend | Rollout | Score | Release | Announce


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A sampled token's log-probability under the policy's own distribution (temperature 1, no
    penalty, no bias), and the most likely tokens beside it."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    state: State
    scores: Mapping[str, float]
    spent: int = 0
    """Tokens of all models that this piece of work is charged for; see `Account.spent`."""


@dataclass(frozen=True, slots=True)
class Option:
    """One new state, and the run of tokens that led there."""

    state: State
    tokens: tuple[int, ...]
    """Token ids, the end-of-sequence token included when it was sampled."""
    logprobs: tuple[TokenLogprob, ...]
    draw_logprobs: tuple[float, ...]
    text: str
    """Whole characters; one that ends in the next option is that option's. With `finish == "stop"`
    it ends before the stop string."""
    finish: Finish
    scores: Mapping[str, float]
    draws: tuple[int, ...] = ()
    """The draws that came to this option, counted as in `Extend.key`."""
    cut: int = 0
    """Characters of the text before this option that belong to the stop string that ended it."""
    partial: bool = False
    """Its last tokens are part of a character."""
    embedding: Sequence[float] | None = None
    """The mean of the policy's last hidden states over the option's tokens, scaled to length 1;
    None if it was not asked for."""


@dataclass(frozen=True, slots=True)
class Extended:
    options: tuple[Option, ...]
    """The distinct options, by their first draw; at least one."""
    spent: int = 0


@dataclass(frozen=True, slots=True)
class RolledOut:
    tokens: tuple[int, ...]
    text: str
    finish: Finish
    scores: Mapping[str, float]
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    scores: Mapping[str, float]
    spent: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The work could not be done; nothing of it is left behind."""

    reason: FailureReason
    message: str
    spent: int = 0


Outcome = Opened | Extended | RolledOut | Scored | Failed


@dataclass(slots=True)
class Tally:
    """Tokens of one kind of model."""

    computed: int = 0
    """Tokens that went through the model for this request."""
    cached: int = 0
    """Tokens of context whose KV was found, along the tree or by the prompt's beginning, instead of
    being computed again."""


@dataclass(slots=True)
class Account:
    """What a request has used so far: counted by the engine, read by the search."""

    policy: Tally = field(default_factory=Tally)
    rollout: Tally = field(default_factory=Tally)
    critic: dict[str, Tally] = field(default_factory=dict)
    """By critic: those with a model of their own. A head on the policy's trunk computes none."""
    spent: int = 0
    """Tokens that the request pays for, the sum of what its pieces of work spent: those computed by
    all models, and those of a prompt whose KV an earlier request had left; but not those that were
    computed again because a pool was full. It does not depend on other requests."""
    prompt_cached: int | None = None
    """Tokens of the prompt whose policy KV an earlier request had left; None before it was looked
    for. They are part of `policy.cached`."""
    model_seconds: float = 0.0
    """Wall time of the engine steps that this request took part in."""
    blocks_peak: int = 0
    """Most KV blocks held at once, over all models' pools; filled in when the search ends."""
    shared_peak: float = 0.0
    """`1 - held / references` of those blocks: the share that is not stored again for each state
    that needs it."""

    @property
    def critics(self) -> Tally:
        """The sum over all critics."""
        tallies = self.critic.values()
        return Tally(sum(each.computed for each in tallies), sum(each.cached for each in tallies))
