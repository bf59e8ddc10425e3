"""The database of feedback. A label is a training row: what an annotator said is what `learn` reads, no step between.

Records are only ever added. The same id twice stores one row; a label that is taken back stays, with a tombstone beside
it, and is no longer read. Reading streams, a page at a time in the order of adding, or fetches records by row number: a
million comparisons never lie in memory together.

    with Store("feedback.db") as store:
        store.add(comparison)
        for comparison in store.comparisons(split="train"): ...
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, Table, exists, func, select

from tutelage.errors import StoreError
from tutelage.feedback import rows, tables
from tutelage.feedback.database import connect, migrate, parse_url, read, write
from tutelage.feedback.group_commit import GroupCommit
from tutelage.feedback.rows import Storable
from tutelage.records import Annotator, Comparison, Demonstration, Prompt, Rating, Split, now

Labelled = Literal["demonstrations", "comparisons", "ratings"]
Trainable = Literal["prompts", "demonstrations", "comparisons", "ratings"]
Kind = Literal["prompts", "completions", "demonstrations", "comparisons", "ratings", "annotators"]
Built = TypeVar("Built")
Build = Callable[[Connection, Sequence[Row[Any]]], list[Built]]
PAGE = 1000  # rows read together
CHUNK = 2000  # records written together
LABELS = {t.name: t for t in (tables.demonstrations, tables.comparisons, tables.ratings)}


class Store:
    """The feedback of one project, on SQLite (a path) or PostgreSQL (a URL). Safe to share between threads.

    Opening makes the database if it is not there and brings an older schema up to date. A context manager closes it.
    Every method raises StoreError, with what to do, when the database cannot be reached, read or written.
    """

    def __init__(self, url: str | Path) -> None:
        """Open `path`, `sqlite:///path` or `postgresql://user:password@host/name`."""
        self._engine = connect(parse_url(url))
        self.writes = GroupCommit(self._engine)
        """For small writes: those of many threads are committed together. What is long has a transaction of its own."""
        try:
            migrate(self._engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    @property
    def engine(self) -> Engine:
        """The connections, for the parts of this package that keep other tables in the same database."""
        return self._engine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add(self, *records: Storable) -> int:
        """Add prompts and labels, all or none. Returns how many were new; an id already there stays as it is."""
        with write(self._engine) as connection:
            return rows.insert(connection, records)

    def add_all(self, records: Iterable[Storable], *, atomic: bool = False) -> int:
        """Add a stream of records, 2,000 to a transaction, so that others write in between. Returns how many were new.

        With `atomic`, all is one transaction: an error, also one raised by `records`, leaves the store as it was.
        """
        stream = iter(records)
        if not atomic:
            return sum(self.add(*chunk) for chunk in _chunks(stream))
        with write(self._engine) as connection:
            return sum(rows.insert(connection, chunk) for chunk in _chunks(stream))

    def retract(self, id: str) -> bool:
        """Take a label back. It is kept, but no longer read or counted. Returns False when it already was taken back.

        Raises StoreError when there is no demonstration, comparison or rating of that id.
        """
        with write(self._engine) as connection:
            if not any(connection.scalar(select(exists().where(table.c.id == id))) for table in LABELS.values()):
                raise StoreError(f"No demonstration, comparison or rating has the id '{id}', so nothing was taken back")
            return bool(rows.add_new(connection, tables.retractions, [{"id": id, "created": now().isoformat()}]))

    def comparisons(self, split: Split | None = None, annotator: str | None = None) -> Iterator[Comparison]:
        """Stream the comparisons in the order they were added: of one split, by one annotator (its id), or all.

        Those added after the first one was asked for are left out.
        """
        return self._labels(tables.comparisons, rows.build_comparisons, split, annotator)

    def demonstrations(self, split: Split | None = None, annotator: str | None = None) -> Iterator[Demonstration]:
        """Stream the demonstrations, as `comparisons` does."""
        return self._labels(tables.demonstrations, rows.build_demonstrations, split, annotator)

    def ratings(self, split: Split | None = None, annotator: str | None = None) -> Iterator[Rating]:
        """Stream the ratings, as `comparisons` does."""
        return self._labels(tables.ratings, rows.build_ratings, split, annotator)

    def prompts(self, split: Split | None = None, *, ranked: bool | None = None) -> Iterator[Prompt]:
        """Stream every prompt, those of labels included, in the order of their first mention.

        With `ranked`, only those that some comparison is about, or only those that none is about.
        """
        where = [] if split is None else [tables.prompts.c.split == split]
        if ranked is not None:
            about = _standing(select(tables.comparisons.c.prompt_id), tables.comparisons)
            where.append(tables.prompts.c.id.in_(about) if ranked else tables.prompts.c.id.not_in(about))
        return self._stream(tables.prompts, rows.build_prompts, where)

    def asked(self, kind: Trainable, split: Split, *which: ColumnElement[bool]) -> Iterator[tuple[int, Prompt]]:
        """Stream the row number and the prompt of every record of a kind and split, in the order they were added.

        `which`: further conditions on its table, such as `arms.of_arm`.
        """
        table = tables.metadata.tables[kind]
        build = rows.build_numbered if table is tables.prompts else rows.build_asked
        return self._stream(table, build, [table.c.split == split, *which])

    def comparisons_at(self, numbers: Sequence[int]) -> list[Comparison]:
        """The comparisons with these row numbers, in the order asked for, taken back since or not.

        Raises StoreError when there is no row of a number.
        """
        return self._at(tables.comparisons, rows.build_comparisons, numbers)

    def demonstrations_at(self, numbers: Sequence[int]) -> list[Demonstration]:
        """The demonstrations with these row numbers, as `comparisons_at` gives its."""
        return self._at(tables.demonstrations, rows.build_demonstrations, numbers)

    def ratings_at(self, numbers: Sequence[int]) -> list[Rating]:
        """The ratings with these row numbers, as `comparisons_at` gives its."""
        return self._at(tables.ratings, rows.build_ratings, numbers)

    def prompts_at(self, numbers: Sequence[int]) -> list[Prompt]:
        """The prompts with these row numbers, as `comparisons_at` gives its."""
        return self._at(tables.prompts, rows.build_prompts, numbers)

    def numbers_of(self, kind: Labelled, ids: Collection[str]) -> list[int]:
        """The row numbers of the labels of a kind with these ids, in the order added; those taken back are left out."""
        table, wanted = tables.metadata.tables[kind], sorted(ids)
        found: list[int] = []
        with read(self._engine) as connection:
            for start in range(0, len(wanted), PAGE):
                query = select(table.c.n).where(table.c.id.in_(wanted[start : start + PAGE]))
                found += connection.execute(_standing(query, table)).scalars()
        return sorted(found)

    def labelled_by(
        self, kind: Labelled, split: Split, last: int, *which: ColumnElement[bool]
    ) -> list[tuple[Annotator, int]]:
        """Who made the labels of a kind and split up to row number `last`, and how many each: the busiest first.

        `which`: as `asked` takes them.
        """
        table = tables.metadata.tables[kind]
        who, labels = table.c.annotator_id, func.count()
        query = select(who, labels).where(table.c.split == split, table.c.n <= last, *which).group_by(who)
        with read(self._engine) as connection:
            found = connection.execute(_standing(query, table).order_by(labels.desc(), who)).all()
            known = rows.load_annotators(connection)
        return [(known[id], count) for id, count in found]

    def annotators(self) -> list[Annotator]:
        """Everybody who has judged, in the order of their ids."""
        with read(self._engine) as connection:
            return list(rows.load_annotators(connection).values())

    def count(self, kind: Kind, split: Split | None = None) -> int:
        """How many there are of a kind, retracted labels left out. Annotators and completions belong to no split."""
        table = tables.metadata.tables[kind]
        query = select(func.count()).select_from(table)
        if split is not None:
            if "split" not in table.c:
                raise StoreError(f"{kind} belong to no split: count them all, or count labels or prompts")
            query = query.where(table.c.split == split)
        with read(self._engine) as connection:
            return int(connection.execute(_standing(query, table)).scalar_one())

    def _labels(self, table: Table, build: Build[Built], split: Split | None, annotator: str | None) -> Iterator[Built]:
        where = [] if split is None else [table.c.split == split]
        if annotator is not None:
            where.append(table.c.annotator_id == annotator)
        return self._stream(table, build, where)

    def _at(self, table: Table, build: Build[Built], numbers: Sequence[int]) -> list[Built]:
        wanted = list(dict.fromkeys(numbers))
        found: dict[int, Built] = {}
        with read(self._engine) as connection:
            for start in range(0, len(wanted), PAGE):
                page = connection.execute(select(table).where(table.c.n.in_(wanted[start : start + PAGE]))).all()
                found |= zip((row.n for row in page), build(connection, page), strict=True)
        if len(found) < len(wanted):
            missing = next(number for number in wanted if number not in found)
            raise StoreError(f"The store has no row {missing} in {table.name}: another database is in its place")
        return [found[number] for number in numbers]

    def _stream(self, table: Table, build: Build[Built], where: list[ColumnElement[bool]]) -> Iterator[Built]:
        """Page by page through the row numbers. No cursor stays open: a slow reader holds up no writer."""
        with read(self._engine) as connection:
            end = connection.execute(select(func.max(table.c.n))).scalar() or 0
        last = 0
        while last < end:
            query = select(table).where(table.c.n > last, table.c.n <= end, *where).order_by(table.c.n).limit(PAGE)
            with read(self._engine) as connection:
                page = connection.execute(_standing(query, table)).all()
                built = build(connection, page) if page else []
            if not page:
                return
            last = page[-1].n
            yield from built


def _standing(query: Select[Any], table: Table) -> Select[Any]:
    """Without what was taken back."""
    if table.name not in LABELS:
        return query
    return query.where(~exists().where(tables.retractions.c.id == table.c.id))


def _chunks(records: Iterator[Storable]) -> Iterator[list[Storable]]:
    while chunk := list(islice(records, CHUNK)):
        yield chunk
