"""The `search` object of a request: what a client may ask of the search.

One definition serves the HTTP schema, the served model's preset and the search itself. Every
field is optional; a preset fills what a request leaves out (see `SearchParameters.over`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from mcts_core.patterns import compiled

Method = Literal[
    "mcts", "beam", "dvts", "best_first", "best_of_n", "self_consistency", "sample", "greedy"
]
"""The search methods; `mcts_core.search.methods` registers one class for each."""

COMMITTING: frozenset[Method] = frozenset(("mcts", "beam", "dvts", "best_first"))
"""Methods that take steps, and can settle one after the other (`SearchParameters.commit`)."""

Rung = Literal["beam", "sample"]
"""What a ladder may fall back to."""


class Strict(BaseModel):
    """Frozen; an unknown field is an error that names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _refusal(field: str, message: str) -> ValidationError:
    """What a validator of a whole object raises when the fault is one of its fields'."""
    error = PydanticCustomError("value_error", "{message}", {"message": message})
    return ValidationError.from_exception_data(
        field, [InitErrorDetails(type=error, loc=(field,), input=None)]
    )


class Budget(Strict):
    """Whichever limit is reached first ends the search."""

    simulations: Annotated[int, Field(ge=1)] | None = None
    """Of `mcts`, and expansions of `best_first`; the other methods make none."""
    tokens: Annotated[int, Field(ge=1)] | None = None
    """Spent tokens: policy, rollout and critics together. Never exceeded, work in flight included,
    but for the prompt; for the ladder's finishing of one trajectory where none is, up to the cost
    of the prompt and `max_tokens`; and for what critics with a model of their own have to read of
    what is returned."""
    deadline_ms: Annotated[float, Field(gt=0)] | None = None
    """Wall time from the request's admission, in milliseconds."""
    nodes: Annotated[int, Field(ge=1)] | None = None


def _compiled(value: str) -> str:
    compiled(value)
    return value


class Step(Strict):
    """Where an option ends."""

    until: Literal["newline", "paragraph", "sentence", "token"] | StepPattern = "newline"
    min_tokens: Annotated[int, Field(ge=1)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 64
    """Neither this nor `min_tokens` applies where `until` counts tokens."""

    @property
    def tokens(self) -> int:
        """The length of every option, where `until` gives one; else 0."""
        if self.until == "token":
            return 1
        return (self.until.tokens or 0) if isinstance(self.until, StepPattern) else 0

    @property
    def limit(self) -> int:
        """Most tokens of an option."""
        return self.tokens or self.max_tokens


class StepPattern(Strict):
    """An option ends after any of `strings`, after a match of `regex`, or after `tokens` tokens."""

    strings: (
        Annotated[
            tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(max_length=16)
        ]
        | None
    ) = None
    regex: Annotated[str, Field(max_length=256), AfterValidator(_compiled)] | None = None
    tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        given = (self.strings, self.regex, self.tokens)
        if sum(each is not None for each in given) != 1:
            raise ValueError("give one of 'strings', 'regex' and 'tokens'")
        if self.strings is not None and not self.strings:
            raise _refusal("strings", "'strings' must name at least one string")
        return self


Bounds = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], "[min, max]"]


class Width(Strict):
    """Importance-based adaptive branching, and the widths of the flat methods.

    A node may have `max(min, min(floor(alpha * importance) + 1, max))` children
    (AlphaLLM, arXiv 2404.12253, importance-based adaptive branching).
    """

    root: Bounds = (4, 16)
    inner: Bounds = (2, 6)
    rule: Literal["importance", "progressive"] = "importance"
    """Between `min` and `max`: `importance` grants children by `alpha` and grows them first;
    `progressive` lets the next one compete with those that are there (`mcts`)."""
    alpha: Annotated[float, Field(ge=0)] = 10.0
    beam: Annotated[int, Field(ge=1)] = 4
    """Beams kept by `beam`, and its draws below each; draws in each subtree's step of `dvts`."""
    subtrees: Annotated[int, Field(ge=1)] = 4
    """Independent subtrees of `dvts`."""
    samples: Annotated[int, Field(ge=1)] = 8
    """Trajectories drawn by `best_of_n` and `self_consistency`."""

    @field_validator("root", "inner")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] > value[1]:
            raise ValueError("the minimum is above the maximum")
        return value


class Select(Strict):
    """The tree policy; values are min-max normalised over the tree before they meet the bonus."""

    rule: Literal["uct", "puct"] = "puct"
    c: Annotated[float, Field(ge=0)] = 1.0


class StatePattern(Strict):
    """What the first match of `regex` in an option's text captures (all of the match, where it has
    no groups) says all that matters about the state that the option leads to."""

    regex: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_compiled)]


class Merge(Strict):
    """When a new option counts as a sibling that is there already; it is then drawn again."""

    by: Literal["edit", "embedding", "exact", "none"] = "edit"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Merge at a distance of at most this; 0: the same text. `edit`: normalised edit distance.
    `embedding`: 1 - cosine similarity of the options' mean hidden states in the policy."""
    redraws: Annotated[int, Field(ge=0)] = 2
    state: StatePattern | None = None
    """Which options lead to one state, wherever in the tree: it is then grown once."""


class Claims(Strict):
    """Options that choose nothing: what they say follows from what is before them, as the result of
    a calculation does. A policy that is unsure of such an option is as likely to be wrong."""

    after: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(min_length=1, max_length=16),
    ]
    """An option is a claim if the one before it ends with one of these; so `step` has to end
    options there."""
    least: Annotated[float, Field(gt=0, le=1)] = 0.9
    """A claim of at least this probability is believed, and no other drawn beside it; a less
    probable one lowers the mixed scores of all that is built on it, by its share of this."""


class Rollouts(Strict):
    """Fast completions of a new node by the rollout model, scored by the outcome critic."""

    count: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=1)] = 128
    temperature: Annotated[float, Field(ge=0)] = 1.0


class StopWhen(Strict):
    """Early stops, beside the budget."""

    score: float | None = None
    """Stop once a terminal's mixed score reaches this, and `n` terminals are found."""
    converged: bool = True
    """Stop once the readout can no longer change within the budget left."""


class SearchParameters(Strict):
    """Everything a request may say about its search."""

    method: Method = "mcts"
    budget: Budget = Budget(simulations=64)
    step: Step = Step()
    max_depth: Annotated[int, Field(ge=1)] = 32
    width: Width = Width()
    select: Select = Select()
    backup: Literal["mean", "max"] = "mean"
    """A node's value: the mean of what was backed up through it, or the best of its children's."""
    merge: Merge = Merge()
    rollouts: Rollouts = Rollouts()
    critics: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Weight of each critic in the mixed score; critics that are not named are not asked."""
    claims: Claims | None = None
    """Which options say what must be so, rather than what to do next, and how far the policy's own
    doubts about them count."""
    process: Literal["last", "min"] = "last"
    """What a process reward critic says of a state: its score there, or the lowest on the way."""
    parallel: Annotated[int, Field(ge=1)] = 8
    """Simulations in flight within one tree (virtual loss)."""
    stop_when: StopWhen = StopWhen()
    readout: Literal["best", "visits", "value", "vote"] = "best"
    """`visits` and `value` are `mcts`'s own; `self_consistency` always votes."""
    fallback: tuple[Rung, ...] = ("beam", "sample")
    temperature: Annotated[float, Field(ge=0)] = 0.8
    """Of expansion; the first child of a node is greedy. `sample`, `best_of_n` and
    `self_consistency` draw whole trajectories at the request's own temperature instead."""
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of expansion: tokens less likely than this share of the likeliest are no options. Drawing
    without replacement gets to the far tail of the policy, where critics were never trained."""
    actions: (
        Annotated[
            tuple[Annotated[str, Field(min_length=1, max_length=1024)], ...],
            Field(min_length=1, max_length=256),
        ]
        | None
    ) = None
    """Every option is one of these texts; they take the place of `step`."""
    progress: bool = False
    """Of a stream: say now and then how far the search is."""
    commit: bool = False
    """A method that takes steps settles one after the other within its share of the budget, and
    re-roots the tree there; not with `n` above 1, nor with a vote."""
    include: tuple[Literal["candidates", "root", "tree"], ...] = ()

    @field_validator("actions")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for index, action in enumerate(value or ()):
            if action in (value or ())[:index]:
                raise ValueError(f"{action!r} stands there twice")
        return value

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.actions is not None and "step" in self.model_fields_set:
            raise _refusal("step", "'actions' say what an option is: leave 'step' out")
        return self

    def commits(self, n: int) -> bool:
        """Whether a search for `n` trajectories settles its steps one by one."""
        return self.commit and self.method in COMMITTING and n == 1 and self.readout != "vote"

    def over(self, preset: SearchParameters) -> SearchParameters:
        """This request's own fields laid over `preset`; nested objects are merged field by field.

        `critics` is replaced whole: a request that names critics names all that it wants. `actions`
        and `step` replace each other.
        """
        below = preset.model_dump(exclude_unset=True)
        above = self.model_dump(exclude_unset=True)
        if self.actions is not None:
            below.pop("step", None)
        elif "step" in above:
            below.pop("actions", None)
        merged = _merge(below, above)
        return SearchParameters.model_validate(merged)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        beneath = merged.get(name)
        if name != "critics" and isinstance(value, dict) and isinstance(beneath, dict):
            replaced = name == "until"
            merged[name] = value if replaced else _merge(beneath, value)
        else:
            merged[name] = value
    return merged
