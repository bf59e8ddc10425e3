"""Promise 12: every released schema opens with its data, on SQLite and PostgreSQL, and the desk works on it."""

import sqlite3
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, text
from test_desk import given, item, spec
from test_postgresql import server, url  # noqa: F401
from test_store import everything, stored

from tutelage.errors import StoreError
from tutelage.feedback.assignment import Desk
from tutelage.feedback.batches import Batches
from tutelage.feedback.database import ALEMBIC, _scripts, connect, parse_url, write
from tutelage.feedback.people import People
from tutelage.feedback.rows import insert
from tutelage.feedback.store import Store
from tutelage.feedback.work import Ranked
from tutelage.records import Prompt

OLD = sorted((Path(__file__).parent / "stores").glob("*.sql"))


def dump(path: Path) -> None:
    """How 0002.sql and 0003.sql were made, when each was the newest schema: an item in somebody's hands, a draft."""
    database = path.with_suffix(".db")
    with Store(database) as store:
        store.add(*everything())
        guideline = Batches(store).add_guideline("Films", "Prefer the kinder one.")
        desk = Desk(store)
        desk.open(spec(name="old", guideline=guideline.id, lease_seconds=10), [item("old")])
        desk.draft("person-0", given(desk, "person-0").id, '{"text": "so far"}')
        people = People(store)
        people.join(people.first_invitation() or "", login="chief", name="Chief", password="a long enough one")
    connection = sqlite3.connect(database)
    path.write_bytes("\n".join(connection.iterdump()).encode())
    connection.close()
    database.unlink()


def works(store: Store) -> None:
    """The store holds what it held, and takes new work."""
    assert [r for r in stored(store) if not isinstance(r, Prompt)] == everything()[1:]
    if Batches(store).all():
        held = given(Desk(store), "person-0")
        assert (held.messages[0].content, held.draft) == ("old?", '{"text": "so far"}')
        assert [user.login for user in People(store).all()] == ["chief"]
    before = store.count("comparisons")
    desk = Desk(store)
    desk.open(spec(), [item("new")])
    held = given(desk, "person-1", Batches(store).all()[0].id)
    desk.submit("person-1", held.id, "key", Ranked(ranks=(1, 2)))
    assert store.count("comparisons") == before + 1


@pytest.mark.parametrize("dump", OLD, ids=lambda path: path.stem)
def test_every_old_store_opens_and_works(tmp_path: Path, dump: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(dump.read_bytes().decode())
    connection.close()
    with Store(path) as store:
        works(store)
    with Store(path) as store:
        assert store.count("comparisons") > 0, "opened a second time"


def test_there_is_a_dump_of_every_schema() -> None:
    script, _ = _scripts()
    revisions = {revision.revision for revision in script.walk_revisions()}
    assert revisions == {path.stem for path in OLD}


def test_the_first_schema_goes_forward_on_postgresql(url: str) -> None:  # noqa: F811
    engine = connect(parse_url(url))
    _, config = _scripts()
    with write(engine) as connection:
        config.attributes["connection"] = connection
        with ALEMBIC:
            command.upgrade(config, "0001")
        insert(connection, everything())
        assert "work_items" not in inspect(connection).get_table_names()
    engine.dispose()
    with Store(url) as store:
        works(store)


def test_a_migration_that_fails_leaves_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript(OLD[0].read_bytes().decode())
    connection.execute("CREATE TABLE webhooks (what text)")  # in the way of the last step
    connection.close()
    with pytest.raises(StoreError, match="webhooks already exists"):
        Store(path)
    connection = sqlite3.connect(path)
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    connection.execute("DROP TABLE webhooks")
    connection.close()
    assert "batches" not in names
    with Store(path) as store:
        works(store)
        with store.engine.connect() as opened:
            assert opened.execute(text("SELECT version_num FROM tutelage_version")).scalar() == "0003"
