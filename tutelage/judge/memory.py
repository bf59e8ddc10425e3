"""What judges said, on disk: nothing is asked twice, nothing is lost to `kill -9`, and every call is on the bill.

One SQLite file, only ever added to. A row is one question to one judge with what came of it and what it cost. The key
is a hash of the judge's identity, the question and its options. Replies that are not final (an endpoint could not be
reached) are on the bill but not remembered, so the next run asks again. No key of an endpoint is ever written here.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tutelage.errors import StoreError
from tutelage.judge.asking import Ask, Judge, Reply, Usage
from tutelage.records import content_id, now

SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    n INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    judge TEXT NOT NULL,
    final INTEGER NOT NULL,
    reply TEXT NOT NULL,
    calls INTEGER NOT NULL,
    read INTEGER NOT NULL,
    written INTEGER NOT NULL,
    money REAL NOT NULL,
    created TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS replies_by_key ON replies (key, final);
"""
PER = 1_000_000  # prices are for a million tokens
Prices = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Spent:
    """What one judge has cost so far."""

    judge: str
    questions: int
    calls: int
    read: int
    written: int
    money: float


class Memory:
    """The file. A context manager closes it. Every method raises StoreError when it cannot be read or written."""

    def __init__(self, path: Path, prices: Prices | None = None) -> None:
        """Open or make the file. `prices`: money for a million tokens read and written, by judge."""
        self.path, self.prices = path, prices or {}
        self._database = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._database.close()

    def find(self, key: str) -> Reply | None:
        """The final reply to a question, None when there is none yet."""
        with self._explained():
            row = self._database.execute(
                "SELECT reply FROM replies WHERE key = ? AND final ORDER BY n LIMIT 1", [key]
            ).fetchone()
        return None if row is None else _read(row[0])

    def keep(self, key: str, judge: str, reply: Reply) -> None:
        """Write a reply down; it is on the disk when this returns."""
        used = reply.usage
        price_read, price_written = self.prices.get(judge, (0.0, 0.0))
        money = (used.read * price_read + used.written * price_written) / PER
        row = [key, judge, reply.final, _written(reply), used.calls, used.read, used.written, money, now().isoformat()]
        with self._explained(), self._database:
            self._database.execute(
                "INSERT INTO replies (key, judge, final, reply, calls, read, written, money, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )

    def bill(self) -> list[Spent]:
        """What every judge has cost, all runs together, by name."""
        with self._explained():
            rows = self._database.execute(
                "SELECT judge, count(*), sum(calls), sum(read), sum(written), sum(money) FROM replies "
                "GROUP BY judge ORDER BY judge"
            ).fetchall()
        return [Spent(*row) for row in rows]

    def _open(self) -> sqlite3.Connection:
        with self._explained():
            database = sqlite3.connect(self.path, timeout=60)
            try:
                database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + SCHEMA)
            except sqlite3.Error:
                database.close()
                raise
        return database

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Within it, SQLite's errors become ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"cannot use {self.path}, which remembers the judges' replies: {error}. Free some disk space, mend its "
                "permissions, or move it away to begin anew (every question is then asked again)"
            ) from error


class Remembered:
    """A judge that is asked nothing twice: what it said once is read from the memory."""

    def __init__(self, judge: Judge, memory: Memory) -> None:
        self.judge, self.memory = judge, memory
        self.name, self.identity = judge.name, judge.identity

    def key(self, ask: Ask) -> str:
        """A hash of all that the answer depends on."""
        spoken = (part for message in ask.messages for part in (message.role, message.content))
        answers = ask.options or ("words", str(ask.room))
        return content_id("ask", self.identity, *spoken, "options", *answers)

    def choose(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Reply]]:
        """See `Judge.choose`. A reply is on the disk before it is yielded."""
        known: list[tuple[int, Reply]] = []
        places: dict[str, list[int]] = {}  # of the questions asked now, by key, in the order they were handed on
        keys: list[str] = []

        def unknown() -> Iterator[Ask]:
            for place, ask in enumerate(asks):
                key = self.key(ask)
                reply = self.memory.find(key)
                if reply is not None:
                    known.append((place, reply))
                elif key in places:
                    places[key].append(place)
                else:
                    places[key] = [place]
                    keys.append(key)
                    yield ask

        for number, reply in self.judge.choose(unknown()):
            key = keys[number]
            self.memory.keep(key, self.name, reply)
            yield from ((place, reply) for place in places.pop(key))
            yield from known
            known.clear()
        yield from known


def _written(reply: Reply) -> str:
    return json.dumps({k: v for k, v in asdict(reply).items() if k not in ("usage", "final")}, ensure_ascii=False)


def _read(text: str) -> Reply:
    found = json.loads(text)
    if found["probabilities"] is not None:
        found["probabilities"] = tuple(found["probabilities"])
    return Reply(**found, usage=Usage())
