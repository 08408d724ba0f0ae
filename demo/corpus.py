"""Training data: solutions for the policy, labelled walks (right and wrong) for the critics."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from demo.judge import is_sound, judge
from demo.mistakes import (
    claimed_expression,
    corrupt,
    false_end,
    false_results,
    mistake,
    near_end,
    tempting_lie,
)
from demo.pool import Mixture, Part, Pool
from demo.practice import has_fractions, practice_steps
from demo.puzzle import (
    MAX_TARGET,
    Puzzle,
    State,
    Step,
    completion,
    grade,
    is_held_out,
    random_solution,
    reachable,
    steps,
    targets,
    winning_steps,
)

Choice = tuple[int, dict[str, float]]
"""The n-th operand or operator of a step (0, 1, 2) and the probability of each of its texts."""


@dataclass(frozen=True)
class Sample:
    """A trajectory as lines; `labels[0]` judges the prompt, `labels[i]` the state after
    `lines[i-1]`; the label of an `Answer:` line says whether the answer is right.

    `choices[i]` (solutions only) spreads line i's free choices over every step that wins.
    `results`: of so many of its first lines, true ones, the policy learns to write the results
    (of an `Answer:` line, and where nothing could win any more: all of it). Without `labels`
    critics are not asked about it."""

    puzzle: Puzzle
    lines: tuple[str, ...]
    labels: tuple[int, ...]
    choices: tuple[tuple[Choice, ...], ...] = ()
    results: int = 0

    @property
    def text(self) -> str:
        """Prompt and completion."""
        return self.puzzle.prompt + "".join(self.lines)

    def first(self, count: int) -> "Sample":
        """The same trajectory cut after `count` lines."""
        return Sample(
            self.puzzle,
            self.lines[:count],
            self.labels[: count + 1],
            self.choices[:count],
            min(self.results, count),
        )


_MISSES = (0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 8, 10)
"""By how much a target that is drawn to what steps come to differs from it."""
_TEMPTED = (4, 5, 1)
"""How often the step whose truth leads astray is the last, the second last, the third last."""
_FRACTIONS = 0.5
"""How often it is a step with fractions."""
_DRILLED = 0.8
"""How often drills are about fractions, where their numbers are those of puzzles."""
_LARGE = 0.3
"""How often drills begin with larger numbers than puzzles do: what others only come to is rarely
added up in a puzzle."""
_LIE_AT = (2, 4, 3)
"""How often a result that is false by chance is the first, the second, the third."""


class Corpus:
    """An endless stream of samples from one seed and one part of the puzzles; only the part
    `held_out` (for measurements) ever emits a held-out puzzle."""

    def __init__(self, seed: int, mixture: Mixture | None = None, part: Part = "policy") -> None:
        self._random = random.Random(seed)
        self._mixture = mixture or Mixture()
        self._pool = Pool(self._random, self._mixture, part)

    def puzzle(self) -> Puzzle:
        """A solvable puzzle, its numbers in random order."""
        return self._pool.puzzle()

    def solution(self) -> Sample:
        """A random solution of a random puzzle; every label is 1."""
        puzzle = self.puzzle()
        taken = random_solution(puzzle, self._random)
        states = (puzzle.state, *(step.state for step in taken))
        choices = tuple(
            spread(winning_steps(state, puzzle.target), step)
            for state, step in zip(states[:-1], taken, strict=True)
        )
        text = completion(puzzle, taken)
        lines = tuple(text.splitlines(keepends=True))
        return Sample(puzzle, lines, (1,) * (len(lines) + 1), (*choices, ()))

    def walk(self) -> Sample:
        """Random steps, some winning, some not, some wrong, exactly labelled.

        A label after a mistake (wrong arithmetic, numbers that are not left) is 0 for good; the
        label of the answer is its grade."""
        rng, puzzle = self._random, self.puzzle()
        if rng.random() < 0.15:
            goal = 24 if rng.random() < 0.3 else rng.randint(1, self._mixture.largest_target)
            puzzle = Puzzle(puzzle.numbers, goal)
        state, sound = puzzle.state, True
        taken: list[Step] = []
        labels = [int(puzzle.solvable)]
        while len(state) > 1 and len(taken) < len(puzzle.numbers) + 1:
            step = self._step(state, puzzle.target)
            if rng.random() < 0.12 or (
                len(state) == 2 and step.result != puzzle.target and rng.random() < 0.6
            ):
                step = mistake(step, state, puzzle.target, rng)
            sound = sound and is_sound(step, state)
            taken.append(step)
            state = step.state
            labels.append(int(sound and reachable(state, puzzle.target)))
        lines = [step.text for step in taken]
        lines.append(self._answer(puzzle, taken))
        labels.append(int(grade(puzzle, lines[-1])))
        return Sample(puzzle, tuple(lines), tuple(labels))

    def near_miss(self) -> Sample:
        """A trajectory that ends in the target, with at most one lie: half of them are right.

        The lie is of the tempting kind: after it the target can be made."""
        rng = self._random
        puzzle = self.puzzle()
        lie_at = rng.randrange(len(puzzle.numbers) + 1) if rng.random() < 0.7 else -1
        return self._with_lie(puzzle, lie_at, 0.5)

    def early_lie(self) -> Sample:
        """A trajectory that is right but for a number in one of its first steps that was not left:
        what fools a critic that has learned to follow the steps."""
        while True:
            lie_at = self._random.choices((0, 1, 2), (6, 3, 1))[0]
            sample = self._with_lie(self.puzzle(), lie_at, 0.8)
            if 0 in sample.labels:  # some mistakes come out true by chance
                return sample

    def dead_end(self) -> Sample:
        """True steps that come near the target, and an answer that says what they come to: what
        there is to write after a wrong choice.

        Who learns from solutions alone has only ever seen last lines that hit the target, writes
        the target behind any last `=`, and finds no end after another number. Many have a step
        whose true result leads astray, where a false one would have led to the target."""
        if self._random.random() < 0.6:
            puzzle, taken = self._before_the_last()
        else:
            puzzle, taken, true, _ = self._tempted()
            taken.append(true)
            taken += self._true_steps(true.state, puzzle.target, 0.6)
        if len(state := taken[-1].state) > 1:
            taken.append(near_end(state, puzzle.target, self._random))
        lines = self._lines(puzzle, taken, str(taken[-1].result))
        return Sample(puzzle, lines, judge(puzzle, lines), results=len(lines))

    def drill(self) -> Sample:
        """True steps from any numbers to any others, for what they come to alone: the target says
        nothing of it, and there can be many, since no step that wins has to be found."""
        rng = self._random
        while True:
            numbers = self._pool.numbers()
            large = rng.random() < _LARGE
            if large:
                numbers = tuple(rng.randint(1, rng.choice((20, 99))) for _ in numbers)
            if not is_held_out(numbers):
                break
        puzzle = Puzzle(numbers, rng.randint(1, self._mixture.largest_target))
        taken = practice_steps(puzzle.state, not large and rng.random() < _DRILLED, rng)
        return Sample(puzzle, tuple(step.text for step in taken), (), results=len(taken))

    def chance_end(self, lie: bool) -> Sample:
        """Steps that end in the target because the target is what they end in; true ones, or with
        one false result among them."""
        rng, largest = self._random, self._mixture.largest_target
        fractions = rng.random() < _FRACTIONS
        while True:
            numbers = self._pool.numbers()
            taken = practice_steps(Puzzle(numbers, largest).state, fractions, rng)
            if lie and taken:
                taken = taken[: rng.choices((1, 2, 3), _LIE_AT)[0]]
                taken[-1] = rng.choice(false_results(taken[-1]))
                taken += practice_steps(taken[-1].state, fractions, rng)
            if not taken or len(taken[-1].state) > 1:
                continue
            end = taken[-1].result
            if end.denominator > 1 or not 0 < end <= largest:
                continue
            if fractions and not any(has_fractions(step) for step in taken):
                continue
            puzzle = Puzzle(numbers, int(end))
            lines = self._lines(puzzle, taken, str(end))
            labels = judge(puzzle, lines)
            if labels[-1] != lie:  # some expressions come out right by chance
                return Sample(puzzle, lines, labels)

    def late_lie(self) -> Sample:
        """True steps, then a last step that claims the target, or right steps and a wrong
        answer: what is believed by critics that know too little arithmetic."""
        rng = self._random
        while True:
            if rng.random() < 0.2:
                puzzle = self.puzzle()
                taken = list(random_solution(puzzle, rng))
                answer = corrupt(claimed_expression(puzzle.numbers, taken), rng)
                lines = (*(s.text for s in taken), f"Answer: {answer} = {puzzle.target}")
            else:
                puzzle, taken = self._before_the_last()
                taken.append(false_end(taken[-1].state, puzzle.target, rng))
                lines = self._lines(puzzle, taken, str(puzzle.target))
            labels = judge(puzzle, lines)
            if not labels[-1]:  # some expressions come out right by chance
                return Sample(puzzle, lines, labels)

    def drawn_lie(self) -> Sample:
        """True steps and one false result, from which true steps go on to the target.

        The target is drawn to the lie. Lies that are drawn to a target lead to it as well, but the
        truth there seldom is a thing that one would wish away."""
        while True:
            puzzle, taken, _, lie = self._tempted()
            taken.append(lie)
            while len(state := taken[-1].state) > 1:
                taken.append(self._random.choice(winning_steps(state, puzzle.target)))
            lines = self._lines(puzzle, taken, str(puzzle.target))
            labels = judge(puzzle, lines)
            if not labels[-1]:  # some expressions come out right by chance
                return Sample(puzzle, lines, labels)

    def _tempted(self) -> tuple[Puzzle, list[Step], Step, Step]:
        """A solvable puzzle, true steps, a true one after which the target cannot be made any more,
        and the same with a false result, after which it can."""
        rng, largest = self._random, self._mixture.largest_target
        after = rng.choices(range(len(_TEMPTED)), _TEMPTED)[0]
        fractions = rng.random() < _FRACTIONS
        while True:
            puzzle = self.puzzle()
            taken = self._plain_steps(puzzle.state, fractions)
            if not after < len(taken) == len(puzzle.numbers) - 1:
                continue
            *taken, true = taken[: len(taken) - after]
            lie = rng.choice(false_results(true))
            if fractions and not (has_fractions(true) or has_fractions(lie)):
                continue
            mask = targets(lie.state) & ~targets(true.state) & targets(puzzle.state)
            goals = [goal for goal in range(1, largest + 1) if mask >> goal & 1]
            if goals:
                return Puzzle(puzzle.numbers, rng.choice(goals)), taken, true, lie

    def _plain_steps(self, state: State, fractions: bool) -> list[Step]:
        """True steps, drawn evenly from those to numbers of two digits, until there are no more."""
        taken: list[Step] = []
        while True:
            found = [step for step in steps(state) if max(step.result.as_integer_ratio()) < 100]
            whole = [step for step in found if step.result.denominator == 1]
            if not found:
                return taken
            taken.append(self._random.choice(found if fractions or not whole else whole))
            state = taken[-1].state

    def _before_the_last(self) -> tuple[Puzzle, list[Step]]:
        """A puzzle and true steps to two numbers, half of the time such as miss the target by a
        little, or not at all.

        Steps that are drawn to a target seldom miss it so, but whoever is drawn to believe that
        they hit it is fooled by those that do. So there the target is drawn to the steps."""
        rng = self._random
        if rng.random() < 0.5:
            puzzle = self.puzzle()
            return puzzle, self._true_steps(puzzle.state, puzzle.target, 0.6)
        while True:
            puzzle = self.puzzle()
            taken = self._true_steps(puzzle.state, puzzle.target, 0.0)
            last = taken[-1].state
            ends = [int(step.result) for step in steps(last) if step.result.denominator == 1]
            by = rng.choice(_MISSES)
            target = rng.choice(ends) + rng.choice((-by, by)) if ends else 0
            if 0 < target <= self._mixture.largest_target and reachable(last, target) == (not by):
                puzzle = Puzzle(puzzle.numbers, target)
                if puzzle.solvable:
                    return puzzle, taken

    def _true_steps(self, state: State, target: int, winning: float) -> list[Step]:
        """True steps until two numbers are left; each wins with a chance of `winning` at least."""
        taken: list[Step] = []
        while len(state) > 2:
            taken.append(self._step(state, target, winning))
            state = taken[-1].state
        return taken

    @staticmethod
    def _lines(puzzle: Puzzle, taken: Sequence[Step], shown: str) -> tuple[str, ...]:
        text = claimed_expression(puzzle.numbers, taken)
        return (*(step.text for step in taken), f"Answer: {text} = {shown}")

    def _with_lie(self, puzzle: Puzzle, lie_at: int, strays: float) -> Sample:
        rng = self._random
        state, taken = puzzle.state, list[Step]()
        while len(state) > 1:
            winning = winning_steps(state, puzzle.target)
            step = rng.choice(winning or steps(state))
            if len(taken) == lie_at:
                step = tempting_lie(step, state, puzzle.target, rng, strays)
            elif len(state) == 2 and not winning:
                step = mistake(step, state, puzzle.target, rng)
            taken.append(step)
            state = step.state
        text = claimed_expression(puzzle.numbers, taken)
        if lie_at >= len(taken) and rng.random() < 0.7:
            text = corrupt(text, rng)
        lines = (*(step.text for step in taken), f"Answer: {text} = {puzzle.target}")
        return Sample(puzzle, lines, judge(puzzle, lines))

    def first_step(self) -> Sample:
        """The first step of a walk."""
        return self.walk().first(1)

    def _step(self, state: State, target: int, winning: float = 0.5) -> Step:
        rng = self._random
        good = winning_steps(state, target)
        if good and rng.random() < winning:
            return rng.choice(good)
        step = rng.choice(steps(state))
        if step.result.denominator > 1 or step.result > MAX_TARGET:
            step = rng.choice(steps(state))
        return step

    def _answer(self, puzzle: Puzzle, taken: Sequence[Step]) -> str:
        rng = self._random
        text = claimed_expression(puzzle.numbers, taken)
        if rng.random() < 0.3:
            text = corrupt(text, rng)
        shown = puzzle.target
        if rng.random() < 0.1:
            shown = rng.choice([max(0, shown + rng.randint(-3, 3)), rng.randint(1, 100)])
        return f"Answer: {text} = {shown}"


def spread(winning: Sequence[Step], taken: Step) -> tuple[Choice, ...]:
    """The distribution of left operand, operator and right operand over the steps that win,
    each conditioned on what `taken` wrote before; empty where fractions are involved."""
    same_left = [step for step in winning if step.left == taken.left]
    same_both = [step for step in same_left if step.operator == taken.operator]
    columns = (
        Counter(str(step.left) for step in winning),
        Counter(step.operator for step in same_left),
        Counter(str(step.right) for step in same_both),
    )
    if any(step.left.denominator > 1 or step.right.denominator > 1 for step in winning):
        return ()
    return tuple(
        (at, {text: count / counts.total() for text, count in counts.items()})
        for at, counts in enumerate(columns)
    )
