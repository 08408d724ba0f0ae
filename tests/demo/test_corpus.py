"""The generators: nothing held out, labels that agree with the solver."""

import itertools

import pytest

from demo.corpus import Corpus, Mixture, Part, multisets, part_of, validation_puzzles
from demo.judge import judge
from demo.puzzle import grade, is_held_out, reachable, winning_steps


@pytest.mark.parametrize("part", ["policy", "critics"])
@pytest.mark.parametrize("seed", [0, 1])
def test_training_never_emits_a_held_out_puzzle(part: Part, seed: int) -> None:
    corpus = Corpus(seed, part=part)
    for _ in range(1500):
        assert not is_held_out(corpus.puzzle().numbers)
    for sample in (*(corpus.walk() for _ in range(200)), *(corpus.solution() for _ in range(200))):
        assert not is_held_out(sample.puzzle.numbers)
        assert part_of(tuple(sorted(sample.puzzle.numbers))) == part


def test_the_parts_cover_every_multiset_once() -> None:
    counts = [len(multisets(4, part)) for part in ("policy", "critics", "held_out")]
    assert sum(counts) == 1820
    assert len(validation_puzzles()) > 100


def test_half_of_the_puzzles_ask_for_24() -> None:
    corpus = Corpus(2)
    asked = [corpus.puzzle() for _ in range(600)]
    assert 0.4 < sum(puzzle.target == 24 for puzzle in asked) / len(asked) < 0.6
    assert max(puzzle.target for puzzle in asked) <= 100
    assert all(puzzle.solvable for puzzle in asked)


def test_solutions_are_right_and_their_choices_are_distributions() -> None:
    corpus = Corpus(3)
    for _ in range(100):
        sample = corpus.solution()
        assert grade(sample.puzzle, "".join(sample.lines))
        assert set(sample.labels) == {1}
        assert judge(sample.puzzle, sample.lines) == sample.labels
        lefts = {
            str(step.left) for step in winning_steps(sample.puzzle.state, sample.puzzle.target)
        }
        for at, shares in sample.choices[0]:
            assert sum(shares.values()) == pytest.approx(1)
            assert at != 0 or set(shares) == lefts


def test_walk_labels_agree_with_the_solver() -> None:
    corpus = Corpus(4)
    seen = set()
    for _ in range(400):
        sample = corpus.walk()
        assert len(sample.labels) == len(sample.lines) + 1
        assert judge(sample.puzzle, sample.lines) == sample.labels
        assert sample.labels[0] == reachable(sample.puzzle.state, sample.puzzle.target)
        assert sample.labels[-1] == grade(sample.puzzle, sample.lines[-1])
        steps = sample.labels[:-1]
        assert all(a >= b for a, b in itertools.pairwise(steps))
        seen |= {("step", steps[1]), ("answer", sample.labels[-1])}
    assert len(seen) == 4


def test_three_number_puzzles_can_be_asked_for_alone() -> None:
    corpus = Corpus(5, Mixture(three_numbers=1.0, target_24=0.0))
    assert {len(corpus.puzzle().numbers) for _ in range(20)} == {3}


def test_early_lies_are_lies_that_lead_to_the_target() -> None:
    corpus = Corpus(5)
    samples = [corpus.early_lie() for _ in range(200)]
    assert all(0 in sample.labels for sample in samples)
    ends = [sample.lines[-1].endswith(f"= {sample.puzzle.target}") for sample in samples]
    assert all(ends), "they look right at the end"
    assert sum(sample.labels[1] == 0 for sample in samples) > 90, "most are in the first step"
