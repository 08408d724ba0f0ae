"""The runner: every item with every variant at every budget and seed, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evals.endpoint import Endpoint, RequestFailed, Served
from evals.errors import EvalError
from evals.ledger import Key, Ledger, Record
from evals.task import Item, Task
from evals.variant import Variant

_OWN = {
    "model": "is the server's: choose it by --model or --name",
    "prompt": "is the item's: change it by --template",
    "messages": "are the item's: change them by --template",
    "search": "is the variant's: give one by --set",
    "seed": "is set for each request: give --seed",
    "stream": "does not apply: answers are read whole",
}
"""Fields of a request that are set for each of them, and where to say what they are to be."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run."""

    task: Task
    variants: Sequence[Variant]
    budgets: Sequence[int]
    """Spent tokens."""
    seeds: Sequence[int]
    stop_early: bool = True
    """Whether the preset's `stop_when.score` holds."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """More fields of every request, such as `max_tokens`."""

    def __post_init__(self) -> None:
        """Raises `EvalError` for fields that are the evaluation's own."""
        own = next((name for name in self.fields if name in _OWN), None)
        if own is not None:
            raise EvalError(f"{own!r} {_OWN[own]} (--request)")

    def requests(self, limits: Mapping[str, float]) -> list[tuple[Item, Record]]:
        """Item by item, so that a run that is cut short has compared something.

        Raises `EvalError` when the server does not allow a budget."""
        searches = [
            (variant, budget, variant.at(budget, limits, stop_early=self.stop_early))
            for variant in self.variants
            for budget in (self.budgets if variant.searched else (None,))
        ]
        return [
            (item, Record(Key(item.id, variant.name, budget, seed), item.digest, search))
            for item in self.task.items
            for seed in self.seeds
            for variant, budget, search in searches
        ]


class Runner:
    """Runs what a ledger lacks."""

    def __init__(self, endpoint: Endpoint, served: Served, ledger: Ledger, clients: int) -> None:
        """`clients` requests are under way at once."""
        self._endpoint = endpoint
        self._served = served
        self._ledger = ledger
        self._clients = clients

    async def run(
        self,
        plan: Plan,
        requests: Iterable[tuple[Item, Record]],
        heard: Callable[[Record], None] = lambda record: None,
    ) -> None:
        """Cancelling it, or an `EvalError` out of it, leaves a ledger that can be taken up again;
        `heard` is told of each record that was added."""
        waiting = iter([pair for pair in requests if not self._ledger.done(pair[1])])

        async def client() -> None:
            for item, request in waiting:
                record = await self._ask(plan, item, request)
                self._ledger.append(record)
                heard(record)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._clients):
                    group.create_task(client())
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error

    async def _ask(self, plan: Plan, item: Item, request: Record) -> Record:
        try:
            answer = await self._endpoint.ask(
                self._served.name,
                plan.task.prompt(item),
                request.search,
                **plan.fields,
                seed=request.key.seed,
            )
        except RequestFailed as error:
            return replace(request, error=str(error))
        return replace(request, text=answer.text, seconds=answer.seconds, report=answer.report)
