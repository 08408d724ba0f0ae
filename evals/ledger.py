"""The ledger: every answer as it came, one JSON line each, so that a run can be taken up again."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evals.errors import EvalError


@dataclass(frozen=True, slots=True)
class Key:
    """What is run once."""

    item: str
    variant: str
    budget: int | None
    seed: int


@dataclass(frozen=True, slots=True)
class Record:
    """One request and what came of it: an answer, or an error."""

    key: Key
    digest: str
    """Of the item."""
    search: Mapping[str, Any]
    """As it was sent."""
    text: str | None = None
    seconds: float | None = None
    """Wall time of the request that was answered; retries before it are not in it."""
    report: Mapping[str, Any] | None = None
    """The response's `search`: tokens, stop reason and times."""
    error: str | None = None


class Ledger:
    """An append-only file. The first line says what was run: the header.

    Every record is flushed as a whole line. A line that a kill has cut is taken off when the file
    is opened again. Where a key has several records the last one counts; errors are run again.
    Only one process may have a ledger open.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Opens the ledger, or begins it. Raises `EvalError` when it belongs to another run."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._records = self._read(json.loads(json.dumps(header)))
        except OSError:
            self._file.close()
            raise EvalError(f"{path} is in use by another evaluation (--output)") from None
        except BaseException:
            self._file.close()
            raise

    @property
    def records(self) -> Mapping[Key, Record]:
        return self._records

    def done(self, record: Record) -> bool:
        """Whether `record`'s request is answered already. `record` is the request alone.

        Raises `EvalError` when another item or another search was run under its key."""
        found = self._records.get(record.key)
        if found is None:
            return False
        for field in ("digest", "search"):
            if getattr(found, field) != getattr(record, field):
                what = "the task's item" if field == "digest" else "the search"
                raise EvalError(
                    f"{what} of {record.key.item!r}, {record.key.variant!r} is not the one that "
                    f"{self._path} was made with: use another folder (--output)"
                )
        return found.error is None

    def append(self, record: Record) -> None:
        self._write(asdict(record))
        self._records[record.key] = record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def _read(self, header: Mapping[str, Any]) -> dict[Key, Record]:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        lines = _objects(content[:whole], self._path)
        first = next(lines, None)
        if first is None:
            self._write(header)
        else:
            for field, value in header.items():
                if first.get(field) != value:
                    raise EvalError(
                        f"{self._path} was made with another {field}: {first.get(field)!r}, not "
                        f"{value!r}; use another folder (--output)"
                    )
        found: dict[Key, Record] = {}
        for line in lines:
            record = Record(**{**line, "key": Key(**line["key"])})
            found[record.key] = record
        return found

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()


def _objects(content: bytes, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError:
            raise EvalError(f"{path}:{number} is not a line of a ledger (--output)") from None
