"""What would break: an option that is none of the actions, an action that is never offered or
offered twice, or one whose probability is not the policy's."""

from __future__ import annotations

from math import exp

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcts_core.engine.actions import ActionFilter
from mcts_core.engine.sampler import Draw, sample
from mcts_core.search.work import (
    Actions,
    Extend,
    Extended,
    Open,
    Opened,
    Option,
    Sampling,
    Sibling,
)
from tests.mcts_core.engine.harness import END_TOKEN, Plan, Running
from tests.mcts_core.engine.test_engine import PROMPT
from tests.mcts_core.models_zoo import make

MOVES = ((5, 6), (5, 7, 8), (9,), (10, 11, 12))


def siblings(*taken: tuple[int, ...]) -> tuple[Sibling, ...]:
    return tuple(Sibling(tokens, (-1.0,) * len(tokens)) for tokens in taken)


def test_tokens_of_the_trie_are_allowed_and_those_to_what_is_taken_are_not_left() -> None:
    option = ActionFilter(Actions(MOVES), siblings((9,), (5, 6)), (0,))
    assert option.allowed() == (5, 9, 10)
    assert option.left(0) == (5, 10)
    other = option.copy()
    assert not option.follow(5)
    assert (option.allowed(), option.left(0)) == ((6, 7), (7,))
    assert not option.follow(7)
    assert option.follow(8)
    assert other.allowed() == (5, 9, 10), "a copy goes its own way"


def test_a_run_of_actions_begins_anew_after_each() -> None:
    option = ActionFilter(Actions(MOVES, count=2), (), (0,))
    assert [option.follow(token) for token in (5, 6)] == [False, False]
    assert option.allowed() == (5, 9, 10)
    assert option.follow(9)


def test_each_draw_takes_an_action_of_its_own() -> None:
    option = ActionFilter(Actions(MOVES, each=True), siblings((9,)), (4, 5, 6))
    assert [option.left(draw) for draw in (4, 5, 6)] == [(5,), (5,), (10,)]


@given(st.permutations(range(8)), st.floats(1e-9, 0.999), st.sets(st.integers(0, 7), max_size=7))
def test_only_what_is_left_is_drawn_however_unlikely(
    order: list[int], noise: float, taken: set[int]
) -> None:
    logits = torch.tensor([60.0 * place for place in order] + [900.0])
    left = [token for token in range(8) if token not in taken]
    factors = dict.fromkeys(taken, 0.0)
    for greedy in (True, False):
        draw = Draw(Sampling(), greedy, noise, factors, [], 0, list(range(8)), left)
        (drawn,) = sample([logits], [draw])
        assert drawn is not None
        assert drawn.logprob.token in left
        best = max(left, key=lambda token: order[token])
        assert drawn.logprob.token == best, "nothing else comes near it"
        among = 60.0 * (order[best] - 7)
        assert drawn.draw_logprob == pytest.approx(among, abs=1e-3), "among all that are allowed"
        assert drawn.logprob.logprob == pytest.approx(60.0 * order[best] - 900.0, abs=1e-3)


def draws(into: list[Extended], actions: Actions, count: int, *taken: tuple[int, ...]) -> Plan:
    (root,) = yield [Open(PROMPT)]
    assert isinstance(root, Opened)
    sampling = Sampling(seed=2, top_k=1)
    known = siblings(*taken)
    (outcome,) = yield [
        Extend(root.state, sampling, (0, 0), siblings=known, actions=actions, draws=count)
    ]
    assert isinstance(outcome, Extended)
    into.append(outcome)


def test_all_actions_are_scored_in_one_go_for_the_tokens_of_their_trie(running: Running) -> None:
    found: list[Extended] = []
    running.run(draws(found, Actions(MOVES, each=True), len(MOVES)))
    options = {option.tokens: option for option in found[0].options}
    assert set(options) == set(MOVES)
    prefixes = {action[: n + 1] for action in MOVES for n in range(len(action))}
    assert found[0].spent == len(prefixes)
    model = make("llama")
    for action, option in options.items():
        assert option.finish == "step"
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*PROMPT, *action]]), use_cache=False).logits[0]
        expected = logits.log_softmax(dim=-1)[len(PROMPT) - 1 : -1]
        own = [float(row[token]) for row, token in zip(expected, action, strict=True)]
        assert [each.logprob for each in option.logprobs] == pytest.approx(own, abs=1e-4)
    total = sum(exp(sum(option.draw_logprobs)) for option in options.values())
    assert total == pytest.approx(1.0, abs=1e-5), "of the actions, one is taken"
    running.idle()


def test_actions_are_drawn_until_none_is_left(running: Running) -> None:
    taken: list[tuple[int, ...]] = []
    for _ in MOVES:
        found: list[Extended] = []
        running.run(draws(found, Actions(MOVES), 1, *taken))
        (option,) = found[0].options
        assert option.tokens in MOVES
        assert option.tokens not in taken
        taken.append(option.tokens)
    running.idle()


def test_a_run_ends_with_its_last_action_a_stop_string_or_the_end_token(running: Running) -> None:
    found: list[Option] = []

    def plan(actions: Actions, stop: tuple[str, ...]) -> Plan:
        (root,) = yield [Open(PROMPT)]
        assert isinstance(root, Opened)
        work = Extend(root.state, Sampling(seed=1), (0, 0), stop=stop, actions=actions)
        (outcome,) = yield [work]
        assert isinstance(outcome, Extended)
        found.extend(outcome.options)

    one = ((20, 21),)
    running.run(plan(Actions(one, 3), ()))
    running.run(plan(Actions(one, 3), (chr(33 + 21) + chr(33 + 20),)))
    running.run(plan(Actions(((20, END_TOKEN),), 3), ()))
    assert [option.tokens for option in found] == [(20, 21) * 3, (20, 21, 20), (20, END_TOKEN)]
    assert [option.finish for option in found] == ["step", "stop", "eos"]
    running.idle()
