"""Records into rows and back: the one place where a record's fields and a table's columns meet."""

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from tutelage.errors import StoreError
from tutelage.feedback import tables
from tutelage.records import Annotator, Comparison, Completion, Demonstration, Prompt, Rating, Source, split_of

Storable = Prompt | Demonstration | Comparison | Rating
Values = dict[str, Any]
ERASED = "erased"  # the split of prompts whose text was erased: of no part of the data
TOGETHER = 10_000  # ids of one query: a database takes some tens of thousands


def insert(connection: Connection, records: Iterable[Storable], known: Container[str] = ()) -> int:
    """Add the records whose id is new, with all they refer to. Returns how many were new.

    `known`: ids of prompts and completions that are there for certain, as what was just read is; they are not written.

    Raises StoreError when an annotator's id is already somebody else's.
    """
    prompts: dict[str, Values] = {}
    annotators: dict[str, Annotator] = {}
    completions: dict[str, Values] = {}
    labels: dict[Table, dict[str, Values]] = defaultdict(dict)
    items: dict[str, list[Values]] = {}
    asked: set[str] = set()
    for record in records:
        prompt = record if isinstance(record, Prompt) else record.prompt
        prompt_id = prompt.id
        if prompt_id not in prompts and prompt_id not in known:
            prompts[prompt_id] = {"id": prompt_id, "split": split_of(prompt_id), "body": prompt.model_dump_json()}
        if isinstance(record, Prompt):
            asked.add(prompt_id)
            continue
        _known(annotators, record.annotator)
        table, values, used = _label(record)
        if record.id in labels[table]:
            continue
        for completion in used:
            if completion.id not in known:
                completions.setdefault(completion.id, completion_row(completion, prompt_id))
        labels[table][record.id] = {
            "id": record.id,
            "prompt_id": prompt_id,
            "annotator_id": record.annotator.id,
            "split": split_of(prompt_id),
            "created": record.created.isoformat(),
            **values,
        }
        if isinstance(record, Comparison):
            items[record.id] = _items(record)
    new = len(asked & add_new(connection, tables.prompts, prompts.values()))
    _add_annotators(connection, annotators)
    if completions:
        connection.execute(_insert(connection.dialect.name, tables.completions), list(completions.values()))
    for table, rows in labels.items():
        fresh = add_new(connection, table, rows.values())
        new += len(fresh)
        if table is tables.comparisons and fresh:
            connection.execute(tables.items.insert(), [item for key in items if key in fresh for item in items[key]])
    return new


def _label(record: Demonstration | Comparison | Rating) -> tuple[Table, Values, Sequence[Completion]]:
    if isinstance(record, Demonstration):
        return tables.demonstrations, {"text": record.text}, ()
    values: Values = {
        "flags": json.dumps(record.flags, ensure_ascii=False),
        "seconds": record.seconds,
        "guideline": record.guideline,
    }
    if isinstance(record, Rating):
        values |= {"completion_id": record.completion.id, "score": record.score}
        return tables.ratings, values, (record.completion,)
    values |= {"strength": record.strength, "target": record.target}
    return tables.comparisons, values, record.completions


def completion_row(completion: Completion, prompt_id: str) -> Values:
    """A completion's row."""
    return {
        "id": completion.id,
        "prompt_id": prompt_id,
        "text": completion.text,
        "finish": completion.finish,
        "source": completion.source.model_dump_json(exclude_defaults=True),
    }


def _items(record: Comparison) -> list[Values]:
    place = {index: place for place, index in enumerate(record.shown)}
    return [
        {
            "comparison_id": record.id,
            "position": i,
            "completion_id": completion.id,
            "rank": record.ranks[i],
            "place": place[i],
        }
        for i, completion in enumerate(record.completions)
    ]


def add_new(connection: Connection, table: Table, rows: Iterable[Values]) -> set[str]:
    """Insert the rows whose id is not there yet. Returns their ids."""
    values = list(rows)
    if not values:
        return set()
    return set(connection.execute(_insert(connection.dialect.name, table).returning(table.c.id), values).scalars())


@cache
def _insert(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    """INSERT that leaves alone what is there; only a prompt that was erased with its writer comes back."""
    new = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table)
    if table is not tables.prompts:
        return new.on_conflict_do_nothing(index_elements=["id"])
    again = {"split": new.excluded.split, "body": new.excluded.body}
    return new.on_conflict_do_update(index_elements=["id"], set_=again, where=table.c.split == ERASED)


def _add_annotators(connection: Connection, given: dict[str, Annotator]) -> None:
    known = load_annotators(connection, given)
    for annotator in known.values():
        _known(given, annotator)
    add_new(connection, tables.annotators, [a.model_dump() for a in given.values() if a.id not in known])


def _known(known: dict[str, Annotator], annotator: Annotator) -> None:
    if known.setdefault(annotator.id, annotator) != annotator:
        other = known[annotator.id]
        raise StoreError(
            f"The annotator id '{annotator.id}' means two people: {annotator.kind} '{annotator.name}' and "
            f"{other.kind} '{other.name}'. Give one of them another id."
        )


def load_annotators(connection: Connection, ids: Iterable[str] | None = None) -> dict[str, Annotator]:
    """Annotators by id: those asked for, or all of them in the order of their ids."""
    every = select(tables.annotators).order_by(tables.annotators.c.id)
    some = _by_id(tables.annotators)
    found = connection.execute(every) if ids is None else connection.execute(some, {"ids": list(ids)})
    return {row.id: Annotator(id=row.id, kind=row.kind, name=row.name) for row in found}


def build_prompts(_connection: Connection, rows: Sequence[Row[Any]]) -> list[Prompt]:
    """Prompts from their rows, in the order of the rows."""
    return [Prompt.model_validate_json(row.body) for row in rows]


@cache
def _by_id(table: Table) -> Select[Any]:
    return select(table).where(table.c.id.in_(bindparam("ids", expanding=True))).order_by(table.c.id)


def load_completions(connection: Connection, ids: set[str]) -> dict[str, Completion]:
    """Completions by id."""
    return {
        row.id: Completion(id=row.id, text=row.text, finish=row.finish, source=_source(row.source))
        for row in connection.execute(_by_id(tables.completions), {"ids": list(ids)}).all()
    }


@lru_cache(maxsize=256)
def _source(body: str) -> Source:
    """A completion's source from its JSON; neighbours have the same one."""
    return Source.model_validate_json(body)


def build_demonstrations(connection: Connection, rows: Sequence[Row[Any]]) -> list[Demonstration]:
    """Demonstrations from their rows, in the order of the rows."""
    shared = _shared(connection, rows)
    return [Demonstration(**values, text=row.text) for row, values in zip(rows, shared, strict=True)]


def build_ratings(connection: Connection, rows: Sequence[Row[Any]]) -> list[Rating]:
    """Ratings from their rows, in the order of the rows."""
    completions = load_completions(connection, {row.completion_id for row in rows})
    return [
        Rating(**values, **_care(row), completion=completions[row.completion_id], score=row.score)
        for row, values in zip(rows, _shared(connection, rows), strict=True)
    ]


def build_comparisons(connection: Connection, rows: Sequence[Row[Any]]) -> list[Comparison]:
    """Comparisons from their rows, in the order of the rows: two queries for all their completions together."""
    i = tables.items
    query = select(i).where(i.c.comparison_id.in_([row.id for row in rows])).order_by(i.c.comparison_id, i.c.position)
    items: dict[str, list[Row[Any]]] = defaultdict(list)
    for item in connection.execute(query).all():
        items[item.comparison_id].append(item)
    completions = load_completions(connection, {item.completion_id for group in items.values() for item in group})
    built = []
    for row, values in zip(rows, _shared(connection, rows), strict=True):
        group = items[row.id]
        built.append(
            Comparison(
                **values,
                **_care(row),
                completions=tuple(completions[item.completion_id] for item in group),
                ranks=tuple(item.rank for item in group),
                shown=tuple(sorted(range(len(group)), key=[item.place for item in group].__getitem__)),
                strength=row.strength,
                target=row.target,
            )
        )
    return built


def build_asked(connection: Connection, rows: Sequence[Row[Any]]) -> list[tuple[int, Prompt]]:
    """The row number and the prompt of each label, in the order of the rows."""
    prompts = load_prompts(connection, {row.prompt_id for row in rows})
    return [(row.n, prompts[row.prompt_id]) for row in rows]


def build_numbered(connection: Connection, rows: Sequence[Row[Any]]) -> list[tuple[int, Prompt]]:
    """The row number of each prompt, and the prompt."""
    return list(zip((row.n for row in rows), build_prompts(connection, rows), strict=True))


def load_prompts(connection: Connection, ids: set[str]) -> dict[str, Prompt]:
    """Prompts by id."""
    asked = sorted(ids)
    found: dict[str, Prompt] = {}
    for start in range(0, len(asked), TOGETHER):
        part = connection.execute(_by_id(tables.prompts), {"ids": asked[start : start + TOGETHER]})
        found |= {row.id: Prompt.model_validate_json(row.body) for row in part}
    return found


def _shared(connection: Connection, rows: Sequence[Row[Any]]) -> list[Values]:
    """What every label has: id, prompt, annotator, created."""
    prompts = load_prompts(connection, {row.prompt_id for row in rows})
    annotators = load_annotators(connection, {row.annotator_id for row in rows})
    return [
        {
            "id": row.id,
            "prompt": prompts[row.prompt_id],
            "annotator": annotators[row.annotator_id],
            "created": row.created,
        }
        for row in rows
    ]


def _care(row: Row[Any]) -> Values:
    return {"flags": tuple(json.loads(row.flags)), "seconds": row.seconds, "guideline": row.guideline}
