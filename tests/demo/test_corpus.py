"""The generators: nothing held out, labels that agree with the solver."""

import itertools

import pytest

from demo.batches import Encoder
from demo.corpus import Corpus, Sample
from demo.judge import is_sound, judge, parse_step
from demo.pool import Mixture, Part, part_of
from demo.practice import has_fractions
from demo.puzzle import Puzzle, Step, grade, is_held_out, reachable, winning_steps
from demo.tokenizer import build_tokenizer


@pytest.mark.parametrize("part", ["policy", "critics"])
@pytest.mark.parametrize("seed", [0, 1])
def test_training_never_emits_a_held_out_puzzle(part: Part, seed: int) -> None:
    corpus = Corpus(seed, part=part)
    for _ in range(1500):
        assert not is_held_out(corpus.puzzle().numbers)
    for sample in (*(corpus.walk() for _ in range(200)), *(corpus.solution() for _ in range(200))):
        assert not is_held_out(sample.puzzle.numbers)
        assert part_of(tuple(sorted(sample.puzzle.numbers))) == part


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


def test_early_lies_are_lies_that_lead_to_the_target() -> None:
    corpus = Corpus(5)
    samples = [corpus.early_lie() for _ in range(200)]
    assert all(0 in sample.labels for sample in samples)
    ends = [sample.lines[-1].endswith(f"= {sample.puzzle.target}") for sample in samples]
    assert all(ends), "they look right at the end"
    assert sum(sample.labels[1] == 0 for sample in samples) > 90, "most are in the first step"


def test_dead_ends_are_true_to_the_last_line_and_mostly_miss_the_target() -> None:
    corpus = Corpus(6, Mixture(target_24=0.2))
    missed = 0
    for _ in range(200):
        sample = corpus.dead_end()
        *lines, answer = sample.lines
        assert sample.results == len(sample.lines)
        assert judge(sample.puzzle, sample.lines) == sample.labels
        state = sample.puzzle.state
        for line in lines:
            step = parse_step(line)
            assert step is not None
            assert is_sound(step, state), "a false result would be learned"
            state = step.state
        missed += state != (sample.puzzle.target,)
        assert answer.startswith("Answer:")
        assert answer.endswith(f" = {state[0]}"), "it says what the steps come to"
    assert missed > 100


def test_late_lies_are_true_until_the_last_step_or_the_answer() -> None:
    corpus = Corpus(7, Mixture(target_24=0.2))
    ends = {"step": 0, "answer": 0, "right way": 0}
    for _ in range(300):
        sample = corpus.late_lie()
        *lines, last, _ = sample.lines
        assert judge(sample.puzzle, sample.lines) == sample.labels
        assert sample.labels[-1] == 0
        state = sample.puzzle.state
        for line in lines:
            step = parse_step(line)
            assert step is not None
            assert is_sound(step, state)
            state = step.state
        assert last.endswith(f"(left: {sample.puzzle.target})\n"), "it looks right"
        ends["answer" if sample.labels[-2] else "step"] += 1
        ends["right way"] += not sample.labels[-2] and sample.labels[-3]
    assert ends["answer"] > 50
    assert ends["step"] > 150
    assert ends["right way"] > 50, "a lie where the truth could have been told"


def followed(puzzle: Puzzle, lines: list[str]) -> tuple[list[Step], list[int]]:
    """The steps that `lines` say, and the places of those that are false."""
    steps: list[Step] = []
    lies: list[int] = []
    for place, line in enumerate(lines):
        step = parse_step(line)
        assert step is not None
        if not is_sound(step, steps[-1].state if steps else puzzle.state):
            lies.append(place)
        steps.append(step)
    return steps, lies


def test_drawn_lies_have_one_false_result_and_true_steps_to_the_target() -> None:
    corpus = Corpus(9, Mixture(target_24=0.2))
    at, fractions = [0, 0, 0], 0
    for _ in range(300):
        sample = corpus.drawn_lie()
        *lines, answer = sample.lines
        assert judge(sample.puzzle, sample.lines) == sample.labels
        assert sample.puzzle.solvable
        assert answer.endswith(f" = {sample.puzzle.target}")
        steps, lies = followed(sample.puzzle, lines)
        fractions += any(steps[place].result.denominator > 1 for place in lies)
        assert len(lies) == 1
        assert steps[-1].state == (sample.puzzle.target,), "it looks right"
        assert sample.labels[lies[0] + 1 :] == (0,) * (len(lines) - lies[0] + 1)
        at[lies[0]] += 1
    assert min(at) > 15
    assert fractions > 30


def test_drills_are_true_steps_of_which_what_they_come_to_is_learned_alone() -> None:
    tokenizer = build_tokenizer()
    corpus = Corpus(11, Mixture(wide=0.5))
    fractions = results = 0
    for _ in range(300):
        sample = corpus.drill()
        state, learned = sample.puzzle.state, ""
        for line in sample.lines:
            step = parse_step(line)
            assert step is not None
            assert is_sound(step, state)
            fractions += has_fractions(step)
            results += 1
            learned += line.partition(" =")[2]
            state = step.state
        batch = Encoder(tokenizer).encode([sample])
        assert tokenizer.decode(batch.ids[0, batch.at + 1].tolist()) == learned
        assert not len(batch.judged_at)
    assert 0.4 < fractions / results < 0.8


@pytest.mark.parametrize("lie", [False, True])
def test_chance_ends_are_right_but_for_one_false_result(lie: bool) -> None:
    corpus = Corpus(12, Mixture(wide=0.2))
    fractions, at = 0, [0, 0, 0]
    for _ in range(200):
        sample = corpus.chance_end(lie)
        *lines, answer = sample.lines
        assert judge(sample.puzzle, sample.lines) == sample.labels
        assert sample.labels[-1] != lie
        assert answer.endswith(f" = {sample.puzzle.target}")
        steps, lies = followed(sample.puzzle, lines)
        fractions += sum(map(has_fractions, steps))
        assert steps[-1].state == (sample.puzzle.target,)
        assert len(lies) == lie
        for place in lies:
            at[place] += 1
    assert fractions > 150
    assert not lie or min(at) > 20


def test_many_dead_ends_have_a_truth_that_one_would_wish_away() -> None:
    """The same places as in the lies: else who writes results would learn from the target."""
    corpus = Corpus(10, Mixture(target_24=0.2))
    lost = 0
    for _ in range(300):
        labels = corpus.dead_end().labels
        lost += labels[0] == 1 and labels[-1] == 0
    assert lost > 150


def test_of_a_solution_the_choices_and_the_answer_are_learned() -> None:
    """What a step comes to could be guessed from the target, by who cannot tell it."""
    tokenizer = build_tokenizer()
    sample = Corpus(4).solution()
    batch = Encoder(tokenizer).encode([sample])
    learned = tokenizer.decode(batch.ids[0, batch.at + 1].tolist())
    *lines, answer = sample.lines
    choices = "".join(line.partition(" =")[0] + " =" for line in lines)
    assert learned == choices + answer + "</s>"


def test_some_puzzles_are_missed_by_a_little_and_some_are_hit() -> None:
    corpus = Corpus(8, Mixture(target_24=0.2))
    by = [0, 0, 0]
    for _ in range(400):
        sample = corpus.dead_end()
        step = parse_step(sample.lines[-2])
        assert step is not None
        miss = abs(step.result - sample.puzzle.target)
        by[0 if not miss else 1 if miss <= 10 else 2] += 1
        assert sample.puzzle.solvable
    assert min(by) > 60, "the target says nothing of what the last step comes to"


def test_of_a_dead_end_results_are_learned_and_what_follows_the_wrong_choice() -> None:
    tokenizer = build_tokenizer()
    sample = Sample(
        Puzzle((2, 7, 7, 8), 24),
        ("2 + 7 = 9 (left: 7 8 9)\n", "8 * 9 = 72 (left: 7 72)\n", "Answer: 72 = 72"),
        (1, 0, 0, 0),
        results=3,
    )
    batch = Encoder(tokenizer).encode([sample])
    learned = [ids[0] for ids in batch.target_ids.tolist()]
    written = " 9 (left: 7 8 9)\n8 * 9 = 72 (left: 7 72)\nAnswer: 72 = 72</s>"
    assert tokenizer.decode(learned) == written
    assert tokenizer.decode(batch.ids[0, batch.at[:1]].tolist()) == " ="
    assert sample.first(1).results == 1
