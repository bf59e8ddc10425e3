"""Backup and restore: what comes back is what was there, whatever was written meanwhile; nothing is lost by mistake."""

import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from test_postgresql import server, url  # noqa: F401
from test_store import pair

from tutelage.cli import run
from tutelage.errors import StoreError
from tutelage.feedback import backup
from tutelage.feedback.batches import Batches
from tutelage.feedback.database import parse_url
from tutelage.feedback.people import People
from tutelage.feedback.store import Store
from tutelage.feedback.tables import VERSION_TABLE
from tutelage.feedback.work import BatchSpec, NewItem
from tutelage.project import Project
from tutelage.records import Prompt


def fill(store):
    """Labels, people and work; returns what a restored store must hold."""
    rows = [pair(i) for i in range(20)]
    store.add(*rows)
    store.retract(rows[3].id)
    people = People(store)
    admin = people.join(people.first_invitation(), login="ada", name="Ada", password="a long password")
    spec = BatchSpec(name="films", kind="comparison")
    Batches(store).open(spec, [NewItem(prompt=c.prompt, completions=c.completions) for c in rows[:5]], admin.id)
    return held(store)


def held(store):
    return list(store.comparisons()), People(store).all(), Batches(store).all(), store.count("prompts")


def test_a_round_trip_gives_everything_back(tmp_path, capsys):
    project = Project.init(tmp_path / "p", model="tiny")
    with project.store() as store:
        before = fill(store)
    file = tmp_path / "friday.db"
    assert run(["backup", str(file), "--project", str(project.folder.path)]) == 0
    with project.store() as store:
        store.add(pair(99))
    assert run(["restore", str(file), "--project", str(project.folder.path)]) == 2
    assert "is not empty: back it up and give --replace" in capsys.readouterr().err
    assert run(["restore", str(file), "--project", str(project.folder.path), "--replace"]) == 0
    assert "19 comparisons" in capsys.readouterr().out  # one of the twenty was taken back
    with project.store() as store:
        assert held(store) == before
    other = Project.init(tmp_path / "other", model="tiny")
    other.restore(file)  # an empty one needs no --replace
    with other.store() as store:
        assert held(store) == before
    named = other.backup()
    assert (named.parent, named.suffix) == (other.folder.path, ".db")


def test_a_backup_is_of_one_moment_while_others_write(tmp_path):
    place = tmp_path / "busy.db"
    with Store(place) as store:
        store.add_all(pair(i) for i in range(300))
        stop, written = threading.Event(), []

        def write():
            while not stop.is_set():
                store.add(pair(1000 + len(written)))
                written.append(1)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for number in range(3):
                backup.back_up(parse_url(place), tmp_path / f"{number}.db")
        finally:
            stop.set()
            thread.join()
    assert written
    for number in range(3):
        with Store(tmp_path / f"{number}.db") as copy:
            found = list(copy.comparisons())
        assert 300 <= len(found) <= 300 + len(written)
        assert [len(c.completions) for c in found] == [2] * len(found)
    assert sorted(p.name for p in tmp_path.iterdir() if "partial" in p.name) == []


def test_a_backup_comes_to_an_end_though_somebody_writes_after_each_step(tmp_path, monkeypatch):
    """2,000 pages take three steps; a backup that begins anew whenever somebody has written takes steps for ever."""
    with Store(tmp_path / "busy.db") as store:
        store.add(*(Prompt.text(f"{i} " + "x" * 40_000) for i in range(200)))
    steps = []

    def write(*_):
        assert len(steps) < 20
        writer.execute("INSERT INTO prompts (id, split, body) VALUES (?, 'train', '')", [str(len(steps))])
        steps.append(1)

    class Interrupted(sqlite3.Connection):
        def backup(self, target, **how):
            super().backup(target, progress=write, **how)

    with closing(sqlite3.connect(tmp_path / "busy.db", isolation_level=None)) as writer:
        monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Interrupted))
        backup.back_up(parse_url(tmp_path / "busy.db"), tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("SELECT count(*) FROM prompts").fetchone() == (200,)  # those of the moment it began
    assert len(steps) >= 2


def test_a_path_may_have_any_characters(tmp_path):
    """Those that mean something in an address, too: the backup was once of another, empty database."""
    folder = tmp_path / "50%41 #1? &=é"
    folder.mkdir()
    with Store(folder / "s#?.db") as store:
        before = fill(store)
    backup.back_up(parse_url(folder / "s#?.db"), folder / "b#?.db")
    backup.restore(folder / "b#?.db", parse_url(folder / "new.db"))
    with Store(folder / "new.db") as store:
        assert held(store) == before


def test_what_is_no_store_has_no_backup(tmp_path):
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").touch()
    with pytest.raises(StoreError, match=r"backup of .*empty.db.* failed: .*empty.db is not a store of tutelage"):
        backup.back_up(parse_url(tmp_path / "empty.db"), tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_backup_that_cannot_be_used_leaves_the_store_as_it_was(tmp_path):
    with Store(tmp_path / "s.db") as store:
        store.add(pair(1))
    with Store(tmp_path / "other.db") as store:
        store.add(*(pair(i) for i in range(100, 400)))
    target = parse_url(tmp_path / "s.db")
    for name in ("damaged.db", "newer.db"):
        backup.back_up(parse_url(tmp_path / "other.db"), tmp_path / name)
    data = bytearray((tmp_path / "damaged.db").read_bytes())
    data[-10 * 4096 :] = b"\xff" * 10 * 4096
    (tmp_path / "damaged.db").write_bytes(data)
    with closing(sqlite3.connect(tmp_path / "newer.db")) as newer, newer:
        newer.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with Store(tmp_path / "s.db") as store:  # open elsewhere, too
        for name, told in {"damaged.db": "could not be restored", "newer.db": "a newer tutelage wrote it"}.items():
            with pytest.raises(StoreError, match=told):
                backup.restore(tmp_path / name, target, replace=True)
            assert [c.id for c in store.comparisons()] == ["pair1"]
        backup.restore(tmp_path / "other.db", target, replace=True)
        assert store.count("comparisons") == 300
        store.add(pair(1))
    assert [path.name for path in tmp_path.iterdir() if "restore" in path.name] == []


def test_an_older_schema_is_brought_up_to_date(tmp_path):
    old = tmp_path / "old.db"
    with sqlite3.connect(old) as connection:
        connection.executescript((Path(__file__).parent / "stores" / "0001.sql").read_text())
    connection.close()
    backup.restore(old, parse_url(tmp_path / "new.db"))
    with sqlite3.connect(tmp_path / "new.db") as restored:
        assert restored.execute("SELECT count(*) FROM users").fetchone() == (0,)  # a table the old schema had not
    restored.close()
    with Store(tmp_path / "new.db") as store:
        assert store.count("comparisons") > 0
        assert People(store).all() == []


def test_what_is_no_backup_changes_nothing(tmp_path):
    with Store(tmp_path / "s.db") as store:
        store.add(pair(1))
    target = parse_url(tmp_path / "s.db")
    (tmp_path / "text").write_text("not a database")
    (tmp_path / "dump").write_bytes(b"PGDMP rest")
    (tmp_path / "rubbish").write_bytes(backup.SQLITE + b"\xff" * 5000)
    with sqlite3.connect(tmp_path / "strange.db") as strange:
        strange.execute("CREATE TABLE bookmarks (url text)")
    strange.close()
    for name, told in {
        "text": "is no backup of a store",
        "dump": "is a backup of PostgreSQL, but the store is SQLite",
        "strange.db": "is a database of another program",
        "missing": "cannot be read",
        "rubbish": r"cannot be read .*give another file that `tutelage backup` wrote",
    }.items():
        with pytest.raises(StoreError, match=told):
            backup.restore(tmp_path / name, target, replace=True)
    with Store(tmp_path / "s.db") as store:
        assert store.count("comparisons") == 1


def test_no_file_is_overwritten(tmp_path):
    with Store(tmp_path / "s.db"):
        pass
    (tmp_path / "there").write_text("precious")
    with pytest.raises(StoreError, match="is there already"):
        backup.back_up(parse_url(tmp_path / "s.db"), tmp_path / "there")
    with pytest.raises(StoreError, match=r"does not exist.*make it first"):
        backup.back_up(parse_url(tmp_path / "s.db"), tmp_path / "no" / "file")
    assert (tmp_path / "there").read_text() == "precious"


def test_a_round_trip_on_postgresql(url, tmp_path):  # noqa: F811
    with Store(url) as store:
        before = fill(store)
    file = tmp_path / "friday.dump"
    backup.back_up(parse_url(url), file)
    with Store(url) as store:
        store.add(pair(99))
    with pytest.raises(StoreError, match="is not empty"):
        backup.restore(file, parse_url(url))
    backup.restore(file, parse_url(url), replace=True)
    with Store(url) as store:
        assert held(store) == before
    with pytest.raises(StoreError, match="is a backup of PostgreSQL"):
        backup.restore(file, parse_url(tmp_path / "s.db"))


def test_postgresql_without_its_programs_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StoreError, match=r"pg_dump is not on this machine.*postgresql-client"):
        backup.back_up(parse_url("postgresql://nobody@localhost/none"), tmp_path / "x.dump")
