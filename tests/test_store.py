"""The store. Tests that take `url` run on SQLite here and on a real PostgreSQL server in test_postgresql.py."""

import os
import signal
import sqlite3
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, text

import tutelage.feedback.store as store_module
from tutelage.errors import StoreError
from tutelage.feedback.store import Store, Storable
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
OLD = Path(__file__).parent / "stores" / "0001.sql"


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
        assert store.add(pair(1), pair(3), pair(3).prompt) == 1  # the prompt came in with pair 3
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
        with pytest.raises(StoreError, match="'ann' means two people: .*another id"):
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
        tracemalloc.start()
        count = sum(1 for _, _ in zip(store.comparisons(), range(wanted), strict=False))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == wanted
        return size

    with Store(url) as store:
        store.add_all(pair(i) for i in range(1500))
        peak(100)  # fill the caches of statements
        assert peak(1500) < 1.5 * peak(200)


def test_a_new_schema_is_the_one_in_tables(url: str) -> None:
    with Store(url) as store, store._engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_a_newer_database_is_refused(url: str) -> None:
    with Store(url) as store:
        store.add(pair(1))
        with store._engine.begin() as connection:
            connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"schema 9999.*knows up to 0001.*pip install --upgrade"):
        Store(url)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "places.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"places.sqlite belongs to another program.*bookmarks.*another file"):
        Store(path)
    assert b"prompts" not in path.read_bytes()
    assert len(path.read_bytes()) == len(before)


def test_sqlite_is_durable_and_checked(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'a.db'}") as store, store._engine.connect() as connection:
        asked = {name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in PRAGMAS}
    assert asked == PRAGMAS


PRAGMAS = {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 2, "busy_timeout": 60000}


def test_the_split_is_filtered_by_an_index(tmp_path: Path) -> None:
    statements: list[str] = []
    with Store(tmp_path / "a.db") as store:
        store.add(*(pair(i) for i in range(10)))
        event.listen(
            store._engine, "before_cursor_execute", lambda c, cur, statement, p, ctx, many: statements.append(statement)
        )
        list(store.comparisons("train"))
        query = next(s for s in statements if "LIMIT" in s and "FROM comparisons" in s)
        with store._engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", (0, 10, "train", 1000, 0)).all()
    steps = [row[3] for row in plan]
    assert any("ix_comparisons_split (split=? AND n>? AND n<?)" in step for step in steps), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps


def test_a_store_of_the_first_schema_still_opens(tmp_path: Path) -> None:
    """0001.sql was dumped when schema 0001 was the newest: `everything()` as it was stored then."""
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript(OLD.read_text(encoding="utf-8"))
    connection.close()
    records = everything()
    with Store(path) as store:
        assert [r for r in stored(store) if not isinstance(r, Prompt)] == records[1:]


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_store import pair; from tutelage.feedback.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "for i in range(10**6): store.add(pair(i)); print(i, flush=True)\n"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "a.db"), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout if line.endswith("\n")]
    with Store(tmp_path / "a.db") as store:
        kept = {c.id for c in store.comparisons()}
    assert {f"pair{i}" for i in said} <= kept
    assert len(kept) <= len(said) + 1


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("{tmp}/nowhere/a.db", r"The folder .*nowhere does not exist.*create it first"),
        ("{tmp}", r"is a folder: name a file in it, such as .*feedback.db"),
        ("sqlite:///{tmp}/text", r"text: file is not a database\. The file is something else"),
        ("sqlite:///{tmp}/text/a.db", r"does not exist|unable to open"),
        ("sqlite://", r"in memory: give a path"),
        (":memory:", r"in memory: give a path"),
        ("mysql://host/x", r"No store for 'mysql' databases: use a path"),
        ("://", r"is no database URL: use a path"),
        ("postgresql://ann:secret@127.0.0.1:1/x", r"ann:\*\*\*@127.0.0.1:1/x.*Check that the server runs"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(tmp_path: Path, url: str, sentence: str) -> None:
    (tmp_path / "text").write_text("Dear diary, " * 100)
    with pytest.raises(StoreError, match=sentence) as caught:
        Store(url.format(tmp=tmp_path))
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_database_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Store(path).close()
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match="check its permissions|you may write"), Store(path) as store:
            store.add(pair(1))
    finally:
        tmp_path.chmod(0o700)


def test_a_damaged_database_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with Store(path) as store:
        store.add(*(pair(i) for i in range(200)))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged; put a backup in its place"), Store(path) as store:
        list(store.comparisons())


def test_a_missing_driver_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StoreError, match=r"pip install 'tutelage\[postgresql\]'"):
        Store("postgresql://127.0.0.1/x")


def dump(path: Path) -> None:
    """Write the dump of a new schema's first store: python -c 'from test_store import *; dump(Path("stores/0002.sql"))'."""
    database = path.with_suffix(".db")
    with Store(database) as store:
        store.add(*everything())
    connection = sqlite3.connect(database)
    path.write_text("\n".join(connection.iterdump()), encoding="utf-8")
    connection.close()
    database.unlink()
