"""The database under the store: what SQLite is asked for, old schemas, kill -9, and errors that say what to do."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event, text
from test_store import everything, pair, stored

from tutelage.errors import StoreError
from tutelage.feedback.store import Store
from tutelage.records import Prompt

OLD = Path(__file__).parent / "stores" / "0001.sql"


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
    connection.executescript(OLD.read_bytes().decode())
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
        ("postgresql://h:abc/db", r"'postgresql://h:abc/db' is no database URL: use a path"),
        ("postgresql://ann:secret@h:abc/db", r"'postgresql://ann:\*\*\*@h:abc/db' is no database URL"),
        ("postgresql://ann:secret@127.0.0.1:1/x", r"ann:\*\*\*@127.0.0.1:1/x.*Check that the server runs"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(tmp_path: Path, url: str, sentence: str) -> None:
    (tmp_path / "text").write_text("Dear diary, " * 100)
    with pytest.raises(StoreError, match=sentence) as caught:
        Store(url.format(tmp=tmp_path))
    assert "secret" not in str(caught.value)


def test_a_full_disk_is_explained_and_what_was_stored_stays(tmp_path: Path) -> None:
    """A database that may not grow any further says so in SQLite's words for a full disk."""
    with Store(tmp_path / "a.db") as store:
        store.add(*(pair(i) for i in range(10)))

        @event.listens_for(store._engine, "connect")
        def limit(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute(f"PRAGMA max_page_count={connection.execute('PRAGMA page_count').fetchone()[0]}")

        store._engine.dispose()
        with pytest.raises(StoreError, match=r"full.*make room and try again. What was stored before is intact"):
            store.add(*(pair(i) for i in range(10, 3000)))
    with Store(tmp_path / "a.db") as store:
        assert [c.id for c in store.comparisons()] == [f"pair{i}" for i in range(10)]
        assert store.add(pair(10)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_database_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    Store(path).close()
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreError, match=r"check its permissions|you may write"), Store(path) as store:
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
