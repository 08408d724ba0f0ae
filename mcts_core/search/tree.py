"""The tree: nodes, what is known of them, and the counters of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, inf
from typing import Literal

from mcts_core.search.work import Option, Sibling, State, TokenLogprob

End = Literal["stop", "length"]
"""Why nothing follows a node: it is a terminal ("stop": end of sequence or a stop string), or a
limit of the request or the model cut it ("length": an unfinished end)."""


class Node:
    """A state: the prompt and the options so far.

    Children that are drawn together have their own evaluation as a visit each, but are one visit
    of their parent, with the best of their values. So a node's visits are the sum of

    - its own evaluation, if it could be valued;
    - its children's visits, their own evaluations left out;
    - one for each simulation that valued new children here (in a beam and in the ladder, one for
      each new child);
    - those that ended here: draws that merged into it and, once it is solved, absorbed visits.
    """

    __slots__ = (
        "avoid",
        "blocked",
        "children",
        "closed",
        "depth",
        "draws",
        "end",
        "finished",
        "id",
        "importance",
        "length",
        "likelihood",
        "logprob",
        "logprobs",
        "merged",
        "open",
        "origin",
        "parent",
        "pending",
        "priors",
        "score",
        "scores",
        "solved",
        "state",
        "text",
        "tokens",
        "total",
        "unseen",
        "virtual",
        "visits",
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
    ) -> None:
        self.id = identifier
        self.parent = parent
        self.state: State | None = state
        """None once its KV was given back: the node cannot be extended any more."""
        self.tokens = tokens
        """Of the option that led here, as are `logprobs` and `text`."""
        self.logprobs = logprobs
        self.text = text
        self.end = end
        self.origin = origin
        """The method that drew the option."""
        own = sum(logprob.logprob for logprob in logprobs)
        self.likelihood = exp(own / len(logprobs)) if logprobs else 1.0
        """Geometric mean of the option's token probabilities: its prior before normalisation."""
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.length: int = len(tokens) if parent is None else parent.length + len(tokens)
        """Completion tokens from the root to here."""
        self.logprob: float = own if parent is None else parent.logprob + own
        """Of the whole completion."""
        self.scores: dict[str, float] = {}
        self.score: float | None = None
        """The critics' mixed score; None when no critic scored this state."""
        self.visits = 0
        self.total = 0.0
        """Sum of the values backed up through here."""
        self.virtual = 0
        """Simulations in flight through here; selection counts each as a visit of the lowest
        value (virtual loss)."""
        self.merged = 0
        """Further draws that were too much like this option."""
        self.children: list[Node] = []
        self.open = 0
        """Children that are not solved."""
        self.pending = 0
        """Draws in flight."""
        self.draws = 0
        """Options drawn so far; the next draw's index."""
        self.avoid: tuple[Sibling, ...] = ()
        """Options drawn already, for sampling without replacement (`drawn`)."""
        self.unseen = 1.0
        """The probability mass of all others, under the distribution that is drawn from."""
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

    @property
    def mean(self) -> float:
        """Q: the mean of the values backed up through here; 0 before the first."""
        return self.total / self.visits if self.visits else 0.0

    @property
    def prior(self) -> float:
        """P: the policy's share of this option among its siblings.

        Proportional to the geometric mean of its token probabilities: the product itself would
        give all to the shortest option, and underflows for long ones.
        """
        return self.likelihood / self.parent.priors if self.parent is not None else 1.0

    @property
    def trajectory_likelihood(self) -> float:
        """Geometric mean of the token probabilities from the root to here, in (0, 1]."""
        return exp(self.logprob / self.length) if self.length else 1.0

    def drawn(self, option: Option) -> None:
        """Further draws avoid `option`."""
        self.avoid = (*self.avoid, Sibling(option.tokens, option.draw_logprobs))
        self.unseen = max(0.0, self.unseen - exp(sum(option.draw_logprobs)))

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
        "absorbed",
        "best",
        "depth",
        "high",
        "low",
        "merged",
        "nodes",
        "pruned_terminals",
        "root",
        "terminals",
    )

    def __init__(self, state: State, origin: str) -> None:
        self.root = Node(0, None, state, (), (), "", None, origin)
        self.nodes = 1
        self.terminals: list[Node] = []
        """In the order in which they were found."""
        self.best: Node | None = None
        """The scored terminal with the highest mixed score; the first found of equals."""
        self.pruned_terminals = 0
        """Terminals that were found, but are no longer part of the tree."""
        self.depth = 0
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
        )
        self.nodes += 1
        self.depth = max(self.depth, child.depth)
        parent.children.append(child)
        parent.priors += child.likelihood
        if end is None:
            parent.open += 1
            parent.blocked = False
            child.blocked = True
        elif end == "stop":
            self.terminals.append(child)
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

        What is above `child` keeps its statistics, those of the pruned included.
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
        self.pruned_terminals += len(self.terminals) - len(kept)
        self.terminals = kept
        scored = [(node.score, node) for node in kept if node.score is not None]
        self.best = max(scored, key=lambda each: each[0])[1] if scored else None
        parent.children = [child]
        parent.open = int(not child.solved)
        parent.closed = True
        self.settle(parent)
        return pruned

    def walk(self) -> Iterator[Node]:
        """Every node, parents before their children."""
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))
