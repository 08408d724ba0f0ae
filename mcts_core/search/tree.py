"""The tree: nodes, what is known of them, and the counters of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import exp, inf
from types import MappingProxyType
from typing import Literal

from mcts_core.search.work import Option, Sibling, State, TokenLogprob

End = Literal["stop", "length"]
"""Why nothing follows a node: it is a terminal ("stop": end of sequence or a stop string), or a
limit of the request or the model cut it ("length": an unfinished end)."""


Backup = Literal["mean", "max"]
"""What becomes of the values that are backed up through a node; see `search.backup`."""


_LEAST_PRIOR = 1e-300
"""In place of probabilities that underflow."""

_UNSCORED: Mapping[str, float] = MappingProxyType({})


class Statistics:
    """What selection reads of every child, kept together in memory: a large tree does not fit into
    the processor's caches, and a node's other attributes would be read along with these."""

    __slots__ = ("blocked", "share", "solved", "value", "virtual", "visits")


class Passage(Statistics):
    """What selection and backup read of every node that they pass, likewise."""

    __slots__ = (
        "children",
        "closed",
        "elsewhere",
        "importance",
        "likelihood",
        "open",
        "parent",
        "pending",
        "priors",
        "total",
    )


class Node(Passage):
    """A state: the prompt and the options so far.

    Children that are drawn together have their own evaluation as a visit each, but are one visit
    of their parent, with the best of their values. So a node's visits are the sum of

    - its own evaluation, if it could be valued;
    - its children's visits, their own evaluations left out;
    - one for each simulation that valued new children here (in a beam and in the ladder, one for
      each new child);
    - those that ended here: draws that merged into it or led to states elsewhere in the tree and,
      once it is solved, absorbed visits.
    """

    __slots__ = (
        "avoid",
        "certainty",
        "cut",
        "depth",
        "draws",
        "embedding",
        "end",
        "finished",
        "id",
        "left",
        "length",
        "logprob",
        "logprobs",
        "merged",
        "origin",
        "partial",
        "pruned",
        "score",
        "scored",
        "scores",
        "scores_below",
        "seconds",
        "state",
        "text",
        "tokens",
    )

    def __init__(
        self,
        identifier: int,
        parent: Node | None,
        state: State,
        tokens: tuple[int, ...],
        logprobs: tuple[TokenLogprob, ...],
        text: str,
        end: End | None,
        origin: str,
        *,
        cut: int = 0,
        partial: bool = False,
        embedding: Sequence[float] | None = None,
    ) -> None:
        self.id = identifier
        self.parent = parent
        self.state: State | None = state
        """None once its KV was given back: the node cannot be extended any more."""
        self.tokens = tokens
        """Of the option that led here, as are `logprobs` and `text`."""
        self.logprobs = logprobs
        self.text = text
        self.cut = cut
        """Characters before `text` that a stop string has taken."""
        self.partial = partial
        """The option ends inside a character: what it says is known by its tokens only."""
        self.embedding = embedding
        """The option's, if embeddings were asked for."""
        self.end = end
        self.origin = origin
        """The method that drew the option."""
        own = sum([logprob.logprob for logprob in logprobs])
        self.likelihood = exp(own / len(logprobs)) if logprobs else 1.0
        """Geometric mean of the option's token probabilities: its prior before normalisation."""
        self.share = self.likelihood
        """`likelihood / (1 + visits)`: of its parent's bonus, by `puct`."""
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.length: int = len(tokens) if parent is None else parent.length + len(tokens)
        """Completion tokens from the root to here."""
        self.logprob: float = own if parent is None else parent.logprob + own
        """Of the whole completion."""
        self.certainty = 1.0
        """How sure the policy was of what is claimed on the way here, in (0, 1]."""
        self.scores: Mapping[str, float] = _UNSCORED
        """By critic."""
        self.score: float | None = None
        """The critics' mixed score; None when no critic scored this state."""
        self.scored = 0
        """Children that have one, and `scores_below` is their sum."""
        self.scores_below = 0.0
        self.visits = 0
        self.total = 0.0
        """Sum of the values backed up through here."""
        self.value = 0.0
        """Q, as `Tree.backup` makes it of them; 0 before the first."""
        self.virtual = 0
        """Simulations in flight through here; selection counts each as a visit of the lowest
        value (virtual loss)."""
        self.merged = 0
        """Further draws that were too much like this option, or led to this state."""
        self.children: tuple[Node, ...] = ()
        self.elsewhere = 0
        """Options that lead to states that other nodes stand for (`Transpositions`)."""
        self.open = 0
        """Children that are not solved."""
        self.pending = 0
        """Draws in flight."""
        self.draws = 0
        """Options drawn so far; the next draw's index."""
        self.avoid: dict[tuple[int, ...], Sibling] = {}
        """Options drawn already, by their tokens, for sampling without replacement (`drawn`)."""
        self.left = 1.0
        """Probability of all other options together, under the distribution that draws follow."""
        self.priors = 0.0
        """The children's likelihoods together."""
        self.importance = 0.0
        """AlphaLLM's I(s): the largest difference between a child's score and this one's."""
        self.closed = False
        """No further option can be drawn here."""
        self.blocked = False
        """Not selectable just now: it waits for its own evaluation or for its first children."""
        self.solved = end is not None
        """Nothing is left to be done at or below this node."""
        self.finished = end == "stop"
        """A terminal is at or below this node."""
        self.pruned = False
        """No longer part of the tree."""
        self.seconds = 0.0
        """From the request's admission to when the node was made."""

    @property
    def taken(self) -> int:
        """Room that is taken: by children, by options that lead elsewhere, by draws in flight."""
        return len(self.children) + self.elsewhere + self.pending

    @property
    def prior(self) -> float:
        """P: the policy's share of this option among its siblings.

        Proportional to the geometric mean of its token probabilities: the product itself would
        give all to the shortest option, and underflows for long ones. To the product where options
        come from a fixed list (`Tree.exact_priors`): there it is what the policy says of them.
        """
        return self.likelihood / self.parent.priors if self.parent is not None else 1.0

    @property
    def trajectory_likelihood(self) -> float:
        """Geometric mean of the token probabilities from the root to here, in (0, 1]."""
        return exp(self.logprob / self.length) if self.length else 1.0

    @property
    def completion(self) -> str:
        """The text from the root to here; a stop string that ended it is no part of it, even if it
        began in an earlier option."""
        *before, last = self.path()
        text = "".join(step.text for step in before)
        return text[: len(text) - last.cut] + last.text

    def rate(self, score: float) -> None:
        """The critics' mixed score is `score`, for now."""
        parent, before = self.parent, self.score
        self.score = score
        if parent is None:
            return
        if before is None:
            parent.scored += 1
            parent.scores_below += score
        else:
            parent.scores_below += score - before
        if parent.score is not None:
            importance = abs(score - parent.score)
            if importance > parent.importance:
                parent.importance = importance

    def drawn(self, option: Option) -> None:
        """Further draws avoid `option`."""
        self.avoid[option.tokens] = Sibling(option.tokens, option.draw_logprobs)
        self.left -= exp(sum(option.draw_logprobs))

    def path(self) -> list[Node]:
        """The nodes from the root to here, both included."""
        path: list[Node] = []
        node: Node | None = self
        while node is not None:
            path.append(node)
            node = node.parent
        path.reverse()
        return path


class Tree:
    """The root, the terminals found, and the range of the values seen."""

    __slots__ = (
        "_elapsed",
        "absorbed",
        "backup",
        "best",
        "depth",
        "exact_priors",
        "high",
        "length",
        "longest",
        "low",
        "merged",
        "nodes",
        "pruned",
        "root",
        "terminals",
    )

    def __init__(
        self,
        state: State,
        origin: str,
        backup: Backup = "mean",
        *,
        exact_priors: bool = False,
        elapsed: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`elapsed`: seconds since the request's admission."""
        self.backup: Backup = backup
        self._elapsed = elapsed
        self.exact_priors = exact_priors
        """Priors are the options' whole probabilities: they come from a fixed list."""
        self.root = Node(0, None, state, (), (), "", None, origin)
        self.root.seconds = elapsed()
        self.nodes = 1
        self.terminals: list[Node] = []
        """In the order in which they were found."""
        self.best: Node | None = None
        """The scored terminal with the highest mixed score; the first found of equals."""
        self.pruned: list[Node] = []
        """Nodes that are no longer part of the tree."""
        self.depth = 0
        self.length = 0
        """Completion tokens of the longest path that is not at its end."""
        self.longest = 0
        """Completion tokens of the longest trajectory that came to its end here or in a rollout."""
        self.merged = 0
        """Drawn options that were already there."""
        self.absorbed = 0
        """Visits that ended in a solved node, beside the simulations."""
        self.low, self.high = inf, -inf
        """Range of the values backed up so far."""

    @property
    def finished(self) -> bool:
        """Whether a terminal was found."""
        return self.root.finished

    def add(self, parent: Node, option: Option, end: End | None, origin: str) -> Node:
        """A new child for `option`."""
        child = Node(
            self.nodes,
            parent,
            option.state,
            option.tokens,
            option.logprobs,
            option.text,
            end,
            origin,
            cut=option.cut,
            partial=option.partial,
            embedding=option.embedding,
        )
        if self.exact_priors:
            child.likelihood = max(_LEAST_PRIOR, exp(child.logprob - parent.logprob))
            child.share = child.likelihood
        child.seconds = self._elapsed()
        self.nodes += 1
        self.depth = max(self.depth, child.depth)
        parent.children = (*parent.children, child)
        parent.priors += child.likelihood
        if end is None:
            self.length = max(self.length, child.length)
            parent.open += 1
            parent.blocked = False
            child.blocked = True
        elif end == "stop":
            self.terminals.append(child)
            self.longest = max(self.longest, child.length)
            above: Node | None = parent
            while above is not None and not above.finished:
                above.finished = True
                above = above.parent
        return child

    def settle(self, node: Node) -> None:
        """Marks `node` as solved if nothing is left to be done at or below it, and then its
        ancestors likewise."""
        while node.closed and not (node.open or node.pending or node.solved):
            node.solved = True
            if node.parent is None:
                return
            node = node.parent
            node.open -= 1

    def cut(self, node: Node) -> None:
        """Makes a childless node an unfinished end."""
        node.end = "length"
        node.closed = True
        self.settle(node)

    def prune(self, child: Node) -> list[Node]:
        """Re-roots the tree at `child`: its siblings and all below them are no longer part of it,
        and nothing more is drawn beside it. Returns them. Nothing may be in flight.

        What is above `child` keeps its statistics, those of the pruned included. So it keeps being
        `finished`, too: where a terminal is known, one must be at or below `child`.
        """
        parent = child.parent
        assert parent is not None
        pruned: list[Node] = []
        stack = [node for node in parent.children if node is not child]
        while stack:
            node = stack.pop()
            pruned.append(node)
            stack.extend(node.children)
        gone = set(pruned)
        kept = [node for node in self.terminals if node not in gone]
        self.terminals = kept
        scored = [(node.score, node) for node in kept if node.score is not None]
        self.best = max(scored, key=lambda each: each[0])[1] if scored else None
        for node in pruned:
            node.children = ()  # so that none of them stands for a state any more
            node.pruned = True
        self.pruned += pruned
        parent.children = (child,)
        parent.open = int(not child.solved)
        parent.closed = True
        self.settle(parent)
        self.length = max(node.length for node in self.walk() if node.end is None)
        return pruned

    def dissolve(self) -> None:
        """The nodes let go of each other, in both directions: a tree of cycles is freed only when
        Python's collector comes, which then takes as long as all such trees need together."""
        stack = [self.root, *self.pruned]
        while stack:
            node = stack.pop()
            stack += node.children
            node.children = ()
            node.parent = None

    def walk(self) -> Iterator[Node]:
        """Every node, parents before their children."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))
