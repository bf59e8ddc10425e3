"""The store. Tests that take `url` run on SQLite here and on a real PostgreSQL server in test_postgresql.py."""

import gc
import sqlite3
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

import tutelage.feedback.store as store_module
from tutelage.errors import StoreError
from tutelage.feedback.store import Storable, Store
from tutelage.feedback.tables import VERSION_TABLE, metadata
from tutelage.records import (
    Annotator,
    Comparison,
    Completion,
    Demonstration,
    Message,
    Prompt,
    Rating,
    Source,
)

ANN = Annotator(id="ann", kind="human", name="Ann")
BOB = Annotator(id="bob", kind="model", name="Bób")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database that does not exist yet."""
    folder = tmp_path / "with space & 100%"
    folder.mkdir()
    return str(folder / "feedback.db")


def pair(i: int, annotator: Annotator = ANN) -> Comparison:
    answers = tuple(Completion(id=f"c{i}-{j}", text=f"answer {j} to {i}", source=Source(model="m")) for j in range(2))
    return Comparison(
        id=f"pair{i}",
        prompt=Prompt.user(f"question {i}"),
        completions=answers,
        ranks=(1, 2),
        shown=(1, 0),
        annotator=annotator,
    )


def everything() -> list[Storable]:
    """One record of each kind with every field set to something awkward."""
    awkward = "Zeile\r\n\t\"'\\ ; DROP TABLE prompts; -- ☃ 😀 \u202e ́ "
    prompt = Prompt(messages=(Message(role="system", content=""), Message(role="user", content=awkward)))
    source = Source(
        model="policy",
        checkpoint="abcd",
        run="ppo-1",
        round=3,
        step=200,
        seed=7,
        sampling={"temperature": 0.7, "stop": ["\n", None], "deep": {"x": 1e-300}},
    )
    answers = tuple(
        Completion(id=f"k{i}", text=f"{awkward}{i}", finish="length" if i else "stop", source=source) for i in range(4)
    )
    at = datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    ranking = Comparison(
        id="ranking",
        prompt=prompt,
        completions=answers,
        ranks=(2, 1, 2, 4),
        shown=(3, 0, 2, 1),
        annotator=BOB,
        flags=("harmful advice", awkward),
        seconds=0.1 + 0.2,
        guideline="v2",
        created=at,
    )
    soft = Comparison(
        id="soft",
        prompt=prompt,
        completions=answers[:2],
        ranks=(1, 1),
        shown=(0, 1),
        annotator=ANN,
        strength=4,
        target=1 / 3,
        created=datetime(2026, 1, 1),  # without a time zone
    )
    rating = Rating(
        id="rating",
        prompt=prompt,
        completion=answers[0],
        score=7,
        flags=("opinion",),
        annotator=ANN,
        seconds=1e9,
        guideline="",
        created=at,
    )
    demonstration = Demonstration(id="demo", prompt=Prompt.text(""), text="", annotator=BOB, created=at)
    return [Prompt.text("alone"), demonstration, ranking, soft, rating]


def stored(store: Store) -> list[Storable]:
    return [*store.prompts(), *store.demonstrations(), *store.comparisons(), *store.ratings()]


def test_what_goes_in_comes_out(url: str) -> None:
    records = everything()
    with Store(url) as store:
        assert store.add(*records) == 5
    with Store(url) as again:
        assert list(again.demonstrations()) == [records[1]]
        assert list(again.comparisons()) == records[2:4]
        assert list(again.ratings()) == [records[4]]
        assert [p.id for p in again.prompts()] == [
            p.id
            for p in (records[0], Prompt.text(""), records[2].prompt)  # type: ignore[union-attr]
        ]
        assert again.annotators() == [ANN, BOB]
        offsets = [record.created.utcoffset() for record in again.comparisons()]
        assert offsets == [timedelta(hours=5, minutes=45), None]
        assert [again.count(k) for k in ("prompts", "completions", "demonstrations", "comparisons", "ratings")] == [
            3,
            4,
            1,
            2,
            1,
        ]


def test_the_same_id_is_stored_once(url: str) -> None:
    with Store(url) as store:
        assert store.add(pair(1), pair(1), pair(2)) == 2
        assert store.add(pair(1), pair(3), pair(3).prompt) == 2  # the pair and its prompt
        assert store.add(Prompt.user("question 1"), Prompt.user("new")) == 1
        three = Completion(id="c1-2", text="third", source=Source(model="m"))
        other = pair(1).model_copy(
            update={"completions": (*pair(1).completions, three), "ranks": (3, 2, 1), "shown": (0, 1, 2)}
        )
        assert store.add(other) == 0
        assert [(c.id, c.ranks) for c in store.comparisons()] == [(f"pair{i}", (1, 2)) for i in (1, 2, 3)]


def test_filters_and_order_across_pages(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAGE", 7)
    monkeypatch.setattr(store_module, "CHUNK", 10)
    records = [pair(i, BOB if i % 3 == 0 else ANN) for i in range(60)]
    with Store(url) as store:
        assert store.add_all(iter(records)) == 60
        assert [c.id for c in store.comparisons()] == [c.id for c in records]
        for split in ("train", "evaluation"):
            wanted = [c.id for c in records if c.prompt.split == split]
            assert wanted, "both sides are there"
            assert [c.id for c in store.comparisons(split)] == wanted
            assert [p.id for p in store.prompts(split)] == [c.prompt.id for c in records if c.prompt.split == split]
            assert store.count("comparisons", split) == store.count("prompts", split) == len(wanted)
        bobs = [c.id for c in records if c.annotator == BOB and c.prompt.split == "train"]
        assert [c.id for c in store.comparisons("train", annotator="bob")] == bobs
        assert list(store.comparisons(annotator="nobody")) == []
        with pytest.raises(StoreError, match="annotators belong to no split"):
            store.count("annotators", "train")


def test_a_reader_sees_what_was_there_when_it_began(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAGE", 2)
    with Store(url) as store:
        store.add(*(pair(i) for i in range(5)))
        seen = []
        for record in store.comparisons():  # writing while reading neither blocks nor lasts for ever
            seen.append(record.id)
            store.add(pair(100 + len(seen)))
        assert seen == [f"pair{i}" for i in range(5)]
        assert store.count("comparisons") == 10


def test_retracted_labels_are_kept_but_not_read(url: str) -> None:
    demonstration = Demonstration(id="demo", prompt=Prompt.user("q"), text="a", annotator=ANN)
    with Store(url) as store:
        store.add(pair(1), pair(2), demonstration)
        assert store.retract("pair1") is True
        assert store.retract("pair1") is False
        assert store.retract("demo") is True
        assert store.add(pair(1)) == 0
        assert [c.id for c in store.comparisons()] == ["pair2"]
        assert list(store.demonstrations()) == []
        assert (store.count("comparisons"), store.count("demonstrations"), store.count("prompts")) == (1, 0, 3)
        with pytest.raises(StoreError, match="No demonstration, comparison or rating has the id 'pair9'"):
            store.retract("pair9")


def test_prompts_nobody_has_ranked(url: str) -> None:
    prompts = [pair(i).prompt for i in range(6)]
    with Store(url) as store:
        store.add(*prompts, pair(1), pair(3), pair(4))
        store.retract("pair3")
        assert list(store.prompts(ranked=True)) == [prompts[1], prompts[4]]
        assert list(store.prompts(ranked=False)) == [prompts[0], prompts[2], prompts[3], prompts[5]]
        of_split = [p for p in prompts if p.split == "train" and p.id != prompts[1].id and p.id != prompts[4].id]
        assert list(store.prompts("train", ranked=False)) == of_split


def test_records_by_row_number(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAGE", 3)
    written = [Demonstration(id=f"d{i}", prompt=pair(i).prompt, text=f"t{i}", annotator=ANN) for i in range(9)]
    pairs = [pair(i, BOB if i % 3 == 0 else ANN) for i in range(30)]
    with Store(url) as store:
        store.add(*pairs, *written)
        store.retract("pair4")
        for split in ("train", "evaluation"):
            wanted = [c for c in pairs if c.prompt.split == split and c.id != "pair4"]
            asked = list(store.asked("comparisons", split))
            assert [prompt for _, prompt in asked] == [c.prompt for c in wanted]
            numbers = [number for number, _ in asked]
            mixed = [*numbers[::-1], *numbers[:2]]  # any order, some twice, over several pages
            assert store.comparisons_at(mixed) == [*wanted[::-1], *wanted[:2]]
            by = store.labelled_by("comparisons", split, numbers[-1])
            assert dict(by) == {who: n for who in (ANN, BOB) if (n := sum(c.annotator == who for c in wanted))}
            assert [n for _, n in by] == sorted((n for _, n in by), reverse=True)
            assert sum(n for _, n in store.labelled_by("comparisons", split, numbers[1])) == 2
            prompts = [number for number, _ in store.asked("prompts", split)]
            assert store.prompts_at(prompts) == list(store.prompts(split))
            texts = [number for number, _ in store.asked("demonstrations", split)]
            assert store.demonstrations_at(texts) == [d for d in written if d.prompt.split == split]
        store.retract(wanted[0].id)
        assert store.comparisons_at(numbers)[0] == wanted[0]  # what a run began with stays readable
        with pytest.raises(StoreError, match="no row 999 in comparisons: another database"):
            store.comparisons_at([numbers[0], 999])


def test_all_or_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "CHUNK", 10)

    def breaking() -> Iterator[Comparison]:
        yield from (pair(i) for i in range(25))
        raise RuntimeError("cable pulled")

    with Store(url) as store:
        with pytest.raises(RuntimeError, match="cable pulled"):
            store.add_all(breaking(), atomic=True)
        assert (store.count("comparisons"), store.count("prompts"), store.count("annotators")) == (0, 0, 0)
        with pytest.raises(RuntimeError, match="cable pulled"):
            store.add_all(breaking())
        assert store.count("comparisons") == 20


def test_one_id_is_one_person(url: str) -> None:
    impostor = Annotator(id="ann", kind="simulated", name="Ann")
    with Store(url) as store:
        store.add(pair(1))
        with pytest.raises(StoreError, match=r"'ann' means two people: .*another id"):
            store.add(pair(2), pair(3, impostor))
        with pytest.raises(StoreError, match="'ann' means two people"):
            store.add(pair(3, impostor))
        assert store.annotators() == [ANN]
        assert store.count("comparisons") == 1


def test_many_writers_lose_nothing(url: str) -> None:
    def work(writer: int) -> int:
        with Store(url) as store:  # all of them also make the database at the same moment
            return sum(store.add(pair(i), pair(1000 + writer * 100 + i)) for i in range(15))

    with ThreadPoolExecutor(4) as pool:
        new = list(pool.map(work, range(4)))
    with Store(url) as store:
        ids = [c.id for c in store.comparisons()]
    assert sum(new) == len(ids) == len(set(ids)) == 15 + 4 * 15


def test_reading_is_bounded_in_memory(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PAGE", 50)

    def peak(wanted: int) -> int:
        gc.collect()
        tracemalloc.start()
        count = sum(1 for _, _ in zip(store.comparisons(), range(wanted), strict=False))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == wanted
        return size

    with Store(url) as store:
        store.add_all(pair(i) for i in range(1500))
        peak(100)  # fill the caches of statements
        assert peak(1500) < 2 * peak(200)  # unbounded, it is 7 times as much


def test_a_new_schema_is_the_one_in_tables(url: str) -> None:
    with Store(url) as store, store._engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_a_newer_database_is_refused(url: str) -> None:
    with Store(url) as store:
        store.add(pair(1))
        with store._engine.begin() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"schema 9999.*knows up to 0003.*pip install --upgrade"):
        Store(url)


def dump(path: Path) -> None:
    """How 0001.sql was made; when a schema is added, add its dump: `dump(Path("stores/0002.sql"))`."""
    database = path.with_suffix(".db")
    with Store(database) as store:
        store.add(*everything())
    connection = sqlite3.connect(database)
    path.write_bytes("\n".join(connection.iterdump()).encode())
    connection.close()
    database.unlink()
