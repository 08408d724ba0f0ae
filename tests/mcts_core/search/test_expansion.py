from __future__ import annotations

from collections.abc import Callable

import pytest

from mcts_core.search.budget import Meter
from mcts_core.search.evaluation import Evaluation
from mcts_core.search.expansion import Expansion
from mcts_core.search.flow import Steps, T, WorkFailed
from mcts_core.search.parameters import Merge, SearchParameters, Width
from mcts_core.search.task import Task
from mcts_core.search.tree import Node, Tree
from mcts_core.search.width import AdaptiveWidth
from mcts_core.search.work import Extend, Extended, Failed, Outcome, Release, Sampling, Work
from tests.mcts_core.search.test_tree import new_tree, option
from tests.mcts_core.search.world import Clock, WorldState


class Desk:
    """An expansion, and answers for it."""

    def __init__(self, *, max_tokens: int = 100, **parameters: object) -> None:
        search = SearchParameters.model_validate(parameters)
        task = Task((1,), search, Sampling(seed=5), max_tokens, (), 1, False, frozenset(), False)
        self.outbox: list[Work] = []
        self.tree: Tree = new_tree()
        self.extended: list[Extend] = []
        width = AdaptiveWidth(search.width)
        evaluation = Evaluation(task, self.outbox)
        meter = Meter(search, Clock(), 0.0)
        self.expansion = Expansion(task, width, evaluation, meter, self.outbox)

    def expand(self, *answers: Outcome, at: Node | None = None) -> tuple[Node, bool] | None:
        return self.answer(self.expansion.expand(self.tree, at or self.tree.root, "mcts"), *answers)

    def answer(self, steps: Steps[T], *answers: Outcome) -> T:
        """Answers each piece of work by the next of `answers`."""
        left = list(answers)
        try:
            works = next(steps)
            while True:
                self.extended.extend(work for work in works if isinstance(work, Extend))
                works = steps.send(tuple(left.pop(0) for _ in works))
        except StopIteration as stop:
            assert not left, "fewer draws than expected"
            result: T = stop.value
            return result

    @property
    def released(self) -> list[str]:
        states = [work.state for work in self.outbox if isinstance(work, Release)]
        return ["".join(map(chr, state.tokens)) for state in states]


def test_the_first_option_is_greedy_and_the_rest_are_drawn() -> None:
    desk = Desk(temperature=0.6)
    desk.expand(option("a"))
    desk.expand(option("b"))
    assert [work.sampling.temperature for work in desk.extended] == [0.0, 0.6]
    assert [work.key for work in desk.extended] == [(0, 0), (0, 1)]
    assert {work.sampling.seed for work in desk.extended} == {5}


def test_a_draw_is_told_what_was_drawn_before() -> None:
    desk = Desk()
    for text in "abc":
        desk.expand(option(text))
    told = [[sibling.tokens for sibling in work.siblings] for work in desk.extended]
    assert told == [[], [(97,)], [(97,), (98,)]]


def test_a_copy_of_a_sibling_is_given_back_and_drawn_again() -> None:
    desk = Desk()
    steps = desk.expansion.expand(desk.tree, desk.tree.root, "mcts")
    next(steps)  # begun before its sibling is there: it cannot be told to avoid it
    desk.expand(option("a"))
    (again,) = steps.send((option("a"),))
    assert isinstance(again, Extend)
    assert [sibling.tokens for sibling in again.siblings] == [(97,)]
    with pytest.raises(StopIteration) as stop:
        steps.send((option("b"),))
    assert stop.value.value[0].text == "b"
    assert desk.released == ["a"]
    assert desk.tree.merged == 1


def test_a_draw_that_stays_a_copy_merges_into_its_sibling_and_closes_the_node() -> None:
    desk = Desk(merge={"redraws": 2})
    grown = desk.expand(option("a"))
    assert grown is not None
    merged = desk.expand(option("a"))
    assert merged == (grown[0], False)
    assert desk.tree.root.closed, "it was told to avoid the only thing that it can say"
    assert len(desk.tree.root.children) == 1
    assert desk.released == ["a"]


def test_of_draws_that_are_all_alike_the_most_distant_is_kept() -> None:
    desk = Desk(merge={"redraws": 2, "threshold": 0.5})
    desk.expand(option("aaaaaa"))
    grown = desk.expand(option("aaaaab"), option("aaaabb"), option("aaaaac"))
    assert grown is not None
    child, new = grown
    assert new
    assert child.text == "aaaabb"
    assert desk.released == ["aaaaab", "aaaaac"]
    assert desk.tree.merged == 3


def test_without_merging_copies_are_children() -> None:
    desk = Desk(merge=Merge(by="none"))
    desk.expand(option("a"))
    desk.expand(option("a"))
    assert [child.text for child in desk.tree.root.children] == ["a", "a"]


def test_options_are_cut_to_what_is_left_of_the_trajectory() -> None:
    desk = Desk(max_tokens=10, step={"max_tokens": 6})
    grown = desk.expand(option("aaaaaa"))
    assert grown is not None
    assert grown[0].end is None, "the option's own limit ends the option, not the trajectory"
    grown = desk.expand(option("bbbb"), at=grown[0])
    assert [work.max_tokens for work in desk.extended] == [6, 4]
    assert grown is not None
    assert grown[0].end == "length"
    assert grown[0].solved


def finished(text: str, finish: str) -> Extended:
    given = option(text)
    return Extended(
        given.state,
        given.tokens,
        given.logprobs,
        given.draw_logprobs,
        given.text,
        finish,  # type: ignore[arg-type]
        {},
    )


def test_ends_are_told_from_steps() -> None:
    ends = {}
    for finish in ("step", "eos", "stop", "length"):
        desk = Desk(step={"max_tokens": 1})
        grown = desk.expand(finished("a", finish))
        assert grown is not None
        ends[finish] = grown[0].end
    assert ends == {"step": None, "eos": "stop", "stop": "stop", "length": None}


def test_an_option_cut_before_its_limit_has_filled_the_context() -> None:
    desk = Desk(step={"max_tokens": 5})
    grown = desk.expand(finished("abc", "length"))
    assert grown is not None
    assert grown[0].end == "length"


def test_the_depth_limit_ends_a_trajectory_but_not_a_terminal() -> None:
    for finish, end in (("step", "length"), ("eos", "stop")):
        desk = Desk(max_depth=1)
        grown = desk.expand(finished("a", finish))
        assert grown is not None
        assert grown[0].end == end


def test_a_full_context_makes_the_node_an_unfinished_end() -> None:
    desk = Desk()
    grown = desk.expand(option("a"))
    assert grown is not None
    node = grown[0]
    assert desk.expand(Failed("context_length", "full"), at=node) is None
    assert node.end == "length"
    assert node.solved
    assert desk.tree.root.open == 0


def test_a_failure_of_the_node_closes_it_and_is_remembered() -> None:
    desk = Desk()
    failed = Failed("numeric", "not finite")
    assert desk.expand(failed) is None
    assert desk.tree.root.solved
    assert desk.expansion.failure == failed


def test_a_full_pool_is_not_the_nodes_fault() -> None:
    desk = Desk()
    with pytest.raises(WorkFailed, match="full"):
        desk.expand(Failed("kv_exhausted", "full"))
    assert not desk.tree.root.closed
    assert desk.tree.root.pending == 0


def test_expansions_in_flight_take_room_and_give_it_back() -> None:
    desk = Desk(width=Width(root=(2, 2)))
    root = desk.tree.root
    begun = [desk.expansion.expand(desk.tree, root, "mcts") for _ in range(2)]
    keys = [next(steps)[0].key for steps in begun]  # type: ignore[union-attr]
    assert keys == [(0, 0), (0, 1)]
    assert root.blocked
    close: list[Callable[[], None]] = [steps.close for steps in begun]
    for closing in close:
        closing()
    assert not root.blocked
    assert root.pending == 0


def test_states_made_by_the_engine_are_kept_for_their_children() -> None:
    desk = Desk()
    grown = desk.expand(option("a"))
    assert grown is not None
    assert isinstance(grown[0].state, WorldState)
    desk.expand(option("b"), at=grown[0])
    assert desk.extended[1].state is grown[0].state
