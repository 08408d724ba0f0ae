"""What would break: a search over a fixed list of options that leaves some out, offers others, or
does not know when it has seen them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcts_core.search.methods import METHODS
from mcts_core.search.methods.base import TreeSearch
from mcts_core.search.parameters import Budget, Method, SearchParameters, StopWhen, Width
from mcts_core.search.search import SearchResult
from mcts_core.search.tree import Tree
from mcts_core.search.work import (
    Actions,
    Extend,
    Extended,
    Finish,
    Option,
    Outcome,
    RolledOut,
    Rollout,
    Sampling,
    TokenLogprob,
    Work,
)
from tests.mcts_core.search.driver import build, drive
from tests.mcts_core.search.world import EOS, World, WorldState, noise, text

MOVES = tuple(tuple(map(ord, move)) for move in ("up\n", "down\n", "left\n"))


class Moves(World):
    """Walks; the more it goes up the better. The policy likes some moves better than others."""

    @property
    def prompt(self) -> tuple[int, ...]:
        return tuple(map(ord, "go\n"))

    def _score(self, state: WorldState, critic: str) -> float:
        lines = text(state.tokens[len(self.prompt) :]).split("\n")
        return lines.count("up") / max(4, len(lines))

    def _extend(self, work: Extend) -> Outcome:
        base = self._tokens(work.state)
        actions = work.actions
        assert actions is not None, "every option is an action"
        taken = {sibling.tokens for sibling in work.siblings}
        left = [action for action in actions.tokens if action not in taken] or actions.tokens
        node, first = work.key
        agreed: dict[tuple[int, ...], list[int]] = {}
        for index, draw in enumerate(range(first, first + work.draws)):
            if actions.each:
                option = left[index]
            else:
                option = self._run(work.sampling, base, left, (node, draw), actions.count)
            agreed.setdefault(option, []).append(draw)
        options: list[Option] = []
        for tokens, draws in agreed.items():
            finish: Finish = "eos" if tokens[-1] == EOS else "step"
            if finish == "step" and len(tokens) > work.max_tokens:
                tokens, finish = tokens[: work.max_tokens], "length"
            state = self._state((*base, *tokens))
            each = log(self._weight(base, tokens)) / len(tokens)
            logprobs = tuple(TokenLogprob(token, each) for token in tokens)
            scores = self._scores(state, work.critics)
            own = (each,) * len(tokens)
            options.append(
                Option(state, tokens, logprobs, own, text(tokens), finish, scores, tuple(draws))
            )
        return Extended(tuple(options), self._pay(sum(map(len, agreed))))

    def _complete(self, work: Rollout, base: tuple[int, ...]) -> tuple[tuple[int, ...], Finish]:
        actions = work.actions
        assert actions is not None, "rollouts keep to the actions"
        tokens = self._run(work.sampling, base, actions.tokens, work.key, actions.count)
        if len(tokens) > work.max_tokens:
            return tokens[: work.max_tokens], "length"
        return tokens, "eos" if tokens[-1] == EOS else "step"

    def _run(
        self,
        sampling: Sampling,
        base: tuple[int, ...],
        left: Sequence[tuple[int, ...]],
        key: tuple[int, int],
        count: int,
    ) -> tuple[int, ...]:
        made: tuple[int, ...] = ()
        for step in range(count):
            weights = [self._weight((*base, *made), action) for action in left]
            at = noise(sampling.seed, key, step) * sum(weights)
            index = 0
            while at >= weights[index] and index < len(weights) - 1:
                at -= weights[index]
                index += 1
            made = (*made, *left[index])
            if made[-1] == EOS:
                break
        return made

    @staticmethod
    def _weight(base: tuple[int, ...], action: tuple[int, ...]) -> float:
        return 0.01 + 0.9 * noise(base, action)


def run(
    method: Method,
    actions: tuple[tuple[int, ...], ...] = MOVES,
    *,
    shuffle: int | None = None,
    seed: int = 0,
    max_tokens: int = 200,
    world: Moves | None = None,
    **fields: Any,
) -> tuple[SearchResult, Tree, Moves]:
    world = world or Moves()
    parameters = SearchParameters.model_validate(
        {
            "method": method,
            "critics": {"value": 1.0},
            "max_depth": 4,
            "stop_when": StopWhen(converged=False),
            **fields,
        }
    )
    search = build(world, parameters, max_tokens=max_tokens, seed=seed, actions=actions)
    result = drive(search, world, shuffle=shuffle)
    assert isinstance(result, SearchResult), result
    assert isinstance(search, TreeSearch)
    tree = search._tree
    assert tree is not None
    return result, tree, world


@pytest.mark.parametrize("method", METHODS)
def test_every_trajectory_is_made_of_actions_and_finished_at_the_depth_limit(
    method: Method,
) -> None:
    result, tree, _ = run(method)
    best = result.trajectories[0]
    lines = best.text.splitlines()
    assert set(lines) <= {"up", "down", "left"}
    assert (len(lines), best.finish_reason) == (4, "stop")
    assert result.fallback is None
    if method in ("mcts", "beam", "best_first"):
        assert lines == ["up"] * 4
        assert {node.text for node in tree.walk() if node.depth} <= {"up\n", "down\n", "left\n"}


def test_all_actions_of_a_node_are_drawn_at_once_with_the_policys_priors() -> None:
    _, tree, world = run("mcts", budget=Budget(simulations=5))
    for node in tree.walk():
        if node.children:
            assert [child.tokens for child in node.children] == list(MOVES)
            assert node.closed
            assert node.draws == len(MOVES)
            priors = [exp(child.logprob - node.logprob) for child in node.children]
            total = sum(priors)
            for child, prior in zip(node.children, priors, strict=True):
                assert child.prior == pytest.approx(prior / total)
    assert all(w.actions is not None and w.actions.each for w in world.done if type(w) is Extend)


def test_an_exhausted_tree_has_seen_every_run_of_actions() -> None:
    result, tree, _ = run("mcts", max_depth=3, budget=Budget(simulations=10_000))
    assert result.stop_reason == "exhausted"
    assert len(tree.terminals) == len(MOVES) ** 3


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from(["mcts", "beam", "dvts", "best_first"]),
    root=st.tuples(st.integers(1, 3), st.integers(0, 3)),
    inner=st.tuples(st.integers(1, 3), st.integers(0, 3)),
    parallel=st.integers(1, 8),
    count=st.integers(1, 5),
    seed=st.integers(0, 3),
    order=st.integers(0, 2**32),
)
def test_no_action_is_offered_twice_below_a_node(
    method: Method,
    root: tuple[int, int],
    inner: tuple[int, int],
    parallel: int,
    count: int,
    seed: int,
    order: int,
) -> None:
    actions = tuple((65 + index, 10) for index in range(count))
    width = Width(root=(root[0], sum(root)), inner=(inner[0], sum(inner)), beam=2)
    result, tree, _ = run(method, actions, shuffle=order, seed=seed, width=width, parallel=parallel)
    for node in tree.walk():
        tokens = [child.tokens for child in node.children]
        assert len(tokens) == len(set(tokens)) <= count
        assert set(tokens) <= set(actions)
        assert node.pending == 0
        if len(tokens) == count:
            assert node.closed
    again, _, _ = run(method, actions, seed=seed, width=width, parallel=parallel)
    assert again == result


def test_an_action_that_ends_the_sequence_ends_the_trajectory() -> None:
    _, tree, _ = run("mcts", (*MOVES, (EOS,)), budget=Budget(simulations=200))
    assert any(node.depth < 4 for node in tree.terminals)
    assert all(node.end == "stop" for node in tree.terminals)


def test_an_action_that_finds_no_room_is_an_unfinished_end() -> None:
    result, tree, _ = run("mcts", max_tokens=5, fallback=())
    assert all(node.end == "length" for node in tree.walk() if node.length == 5)
    assert result.trajectories[0].finish_reason == "length"


class Watched(Moves):
    """Keeps what its rollouts came to."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[tuple[tuple[int, ...], RolledOut]] = []

    def do(self, work: Work) -> Outcome:
        outcome = super().do(work)
        if isinstance(work, Rollout):
            assert isinstance(outcome, RolledOut)
            self.ends.append((self._tokens(work.state), outcome))
        return outcome


@pytest.mark.parametrize("method", ["mcts", "beam", "dvts", "best_first"])
def test_rollouts_complete_the_trajectory_with_actions(method: Method) -> None:
    fields: dict[str, Any] = {"critics": {"orm": 1.0}, "rollouts": {"count": 2}}
    world = Watched()
    result, tree, _ = run(method, world=world, **fields)
    assert world.ends
    for state, outcome in world.ends:
        lines = text((*state, *outcome.tokens)[len(world.prompt) :]).splitlines()
        assert set(lines) <= {"up", "down", "left"}
        assert (len(lines), outcome.finish) == (4, "step"), "max_depth of them in all"
    inner = [node for node in tree.walk() if node.depth and node.end is None]
    assert inner
    assert all("orm" in node.scores for node in inner), "that is what rollouts are for"
    again, _, _ = run(method, shuffle=5, **fields)
    assert again == result


def test_a_rollout_ends_with_an_action_that_ends_the_sequence_or_at_its_limit() -> None:
    world = Watched()
    fields: dict[str, Any] = {"critics": {"orm": 1.0}}
    rollouts = {"count": 4, "max_tokens": 7}
    run("mcts", (*MOVES, (EOS,)), world=world, rollouts=rollouts, **fields)
    assert {outcome.finish for _, outcome in world.ends} == {"eos", "length", "step"}
    for _, outcome in world.ends:
        assert (len(outcome.tokens) == 7) >= (outcome.finish == "length")
        assert (outcome.tokens[-1] == EOS) == (outcome.finish == "eos")


def test_a_threshold_does_not_merge_actions() -> None:
    _, tree, _ = run("mcts", merge={"by": "edit", "threshold": 1.0})
    assert len(tree.root.children) == len(MOVES)


def test_the_least_likely_action_still_has_a_prior() -> None:
    class Sure(Moves):
        @staticmethod
        def _weight(base: tuple[int, ...], action: tuple[int, ...]) -> float:
            return 1e-320

    tree = Tree(WorldState(()), "mcts", exact_priors=True)
    work = Extend(WorldState(()), Sampling(), (0, 0))
    world = Sure()
    outcome = world._extend(replace(work, actions=Actions(MOVES, each=True), draws=3))
    assert isinstance(outcome, Extended)
    for option in outcome.options:
        tree.add(tree.root, option, None, "mcts")
    assert sum(child.prior for child in tree.root.children) == pytest.approx(1.0)
