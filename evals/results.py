"""Results: the ledger's records of one plan, graded and summed up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from evals.bootstrap import interval
from evals.ledger import Key, Record
from evals.task import Item, Task
from evals.weights import Weights


@dataclass(frozen=True, slots=True)
class Graded:
    """One record and what it is worth."""

    record: Record
    correct: bool
    """An error is not."""
    weighted: float | None
    """Weighted spent tokens; None for an error, and so are the record's seconds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One variant at one budget."""

    variant: str
    budget: int | None
    items: int
    runs: int
    """Items times seeds, as far as they were run."""
    accuracy: float
    """Mean over items of the mean over seeds."""
    low: float
    """95% bootstrap confidence interval, over items."""
    high: float
    weighted_tokens: float | None
    """Median over the answered runs, as the next two; None if none was answered."""
    spent_tokens: float | None
    seconds: float | None
    errors: int
    stops: Mapping[str, int]
    """How often the search ended for which reason."""


def grade(
    task: Task,
    requests: Sequence[tuple[Item, Record]],
    records: Mapping[Key, Record],
    weights: Weights,
) -> list[Graded]:
    """What the ledger has of `requests`, in their order."""
    known: dict[tuple[str, str], bool] = {}
    graded: list[Graded] = []
    for item, request in requests:
        record = records.get(request.key)
        if record is None:
            continue
        if record.text is None or record.report is None:
            graded.append(Graded(record, False, None))
            continue
        case = (item.id, record.text)
        if case not in known:
            known[case] = task.grade(item.question, item.answer, record.text)
        graded.append(Graded(record, known[case], weights.spent(record.report["tokens"])))
    return graded


def rows(graded: Sequence[Graded]) -> list[Row]:
    """One for each variant and budget, in the order of their first record."""
    groups: dict[tuple[str, int | None], list[Graded]] = defaultdict(list)
    for each in graded:
        groups[each.record.key.variant, each.record.key.budget].append(each)
    return [_row(variant, budget, group) for (variant, budget), group in groups.items()]


def _row(variant: str, budget: int | None, group: Sequence[Graded]) -> Row:
    by_item: dict[str, list[bool]] = defaultdict(list)
    for each in group:
        by_item[each.record.key.item].append(each.correct)
    shares = [sum(correct) / len(correct) for correct in by_item.values()]
    low, high = interval(shares)
    answered = [(each, each.record) for each in group if each.record.report is not None]
    reports = [record.report for _, record in answered if record.report is not None]
    return Row(
        variant=variant,
        budget=budget,
        items=len(by_item),
        runs=len(group),
        accuracy=sum(shares) / len(shares),
        low=low,
        high=high,
        weighted_tokens=_median([each.weighted for each, _ in answered]),
        spent_tokens=_median([report["tokens"]["spent"] for report in reports]),
        seconds=_median([record.seconds for _, record in answered]),
        errors=len(group) - len(answered),
        stops=dict(Counter(report["stop_reason"] for report in reports)),
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None
