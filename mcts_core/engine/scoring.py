"""Critics' scores of states."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
import torch

from mcts_core.engine.pending import Pending, WorkFailed
from mcts_core.engine.resident import Resident
from mcts_core.engine.seating import RELEASED, Seating
from mcts_core.engine.session import Job, Session
from mcts_core.engine.state import NodeState, Seat
from mcts_core.search.work import Failed
from mcts_core.transfer import read_back

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class HeadScore(Pending):
    """One critic's score of one state, waiting for the step's scoring."""

    session: Session = field(kw_only=True)
    seat: Seat = field(kw_only=True)
    model: str = field(kw_only=True)
    critic: str = field(kw_only=True)
    hidden: torch.Tensor = field(kw_only=True)

    def take(self, value: float) -> None:
        self.seat.scores[self.critic] = value
        self.settle()


class Scoring:
    """The scores that jobs wait for; those of a step are computed together."""

    def __init__(
        self, residents: Mapping[str, Resident], seating: Seating, critics: Mapping[str, str]
    ) -> None:
        """`critics` maps a critic to the model whose hidden states it reads."""
        self._residents = residents
        self._seating = seating
        self._critics = critics
        self._waiting: list[HeadScore] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def catch_up(self, job: Job, state: NodeState, critics: Sequence[str]) -> None:
        """Seats `state` in the models of critics that will be asked about what follows it: who
        pays for it, and in what pieces it is computed, is then a matter of the order in which
        work was asked for, and not of which work is done first."""
        for model in dict.fromkeys(self._critics[critic] for critic in critics):
            self._seating.seat(job, state, model)

    def scores(
        self, job: Job, states: Sequence[NodeState], critics: Sequence[str]
    ) -> Generator[Sequence[Pending], None, list[Mapping[str, float]]]:
        """The critics' scores of states: each reads its own model's hidden state there."""
        models = {critic: self._critics[critic] for critic in critics}
        seats = [
            {
                model: self._seating.seat(job, state, model)
                for model in dict.fromkeys(models.values())
            }
            for state in states
        ]
        yield [seat for own in seats for seat in own.values()]
        waits: list[HeadScore] = []
        for own in seats:
            for critic, model in models.items():
                seat = own[model]
                if critic in seat.scores:
                    continue
                if seat.hidden is None:
                    raise WorkFailed(RELEASED)
                score = HeadScore(
                    session=job.session,
                    seat=seat,
                    model=model,
                    critic=critic,
                    hidden=seat.hidden,
                )
                waits.append(score)
        self._waiting.extend(waits)
        yield waits
        return [
            {critic: own[model].scores[critic] for critic, model in models.items()} for own in seats
        ]

    def run(self) -> bool:
        """Computes all scores that were asked for, one call for each critic, and reads them back
        together; False if none was."""
        waiting, self._waiting = self._waiting, []
        by_critic: dict[tuple[str, str], list[HeadScore]] = {}
        for score in waiting:
            by_critic.setdefault((score.model, score.critic), []).append(score)
        scored: list[HeadScore] = []
        found: list[torch.Tensor] = []
        for (model, critic), scores in by_critic.items():
            try:
                values = self._residents[model].score(critic, [each.hidden for each in scores])
            except Exception as error:
                _log.exception("critic failed", critic=critic)
                for each in scores:
                    each.settle(Failed("critic_error", f"{critic}: {error}"))
                continue
            scored += scores
            found.append(values)
        if found:
            for each, (value,) in zip(scored, read_back(torch.cat(found)[:, None]), strict=True):
                each.take(value)
        return bool(waiting)

    def drop(self, session: Session) -> None:
        """Forgets a request's scores."""
        self._waiting = [score for score in self._waiting if score.session is not session]
