"""Open a database by URL and bring its schema up to date: SQLite in WAL mode, or PostgreSQL through psycopg."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from tutelage.errors import StoreError
from tutelage.feedback.tables import VERSION_TABLE

BUSY_SECONDS = 60
ALEMBIC = threading.Lock()  # it keeps the migration under way in a global of the module
WRITER_LOCK = 7_846_120_031  # any constant: one writer at a time on PostgreSQL too
PASSWORD = re.compile(r":[^:/@].*@")  # of a URL that cannot be taken apart
POSTGRESQL_HELP = "PostgreSQL needs the driver psycopg: pip install 'tutelage[postgresql]'"
ADVICE = {
    "not a database": "The file is something else; name another file, or move this one away.",
    "malformed": "The file is damaged; put a backup in its place.",
    "unable to open": "Check that the folder exists and that you may write in it.",
    "readonly": "The file may not be written; check its permissions.",
    "disk is full": "The disk is full; make room and try again. What was stored before is intact.",
    "disk i/o": "The disk failed to read or write; check it, and that it is not a network drive.",
    "locked": f"Another process held the database for over {BUSY_SECONDS} seconds; wait for it, or end it.",
    "connection": "Check that the server runs, and the URL's host, port, user and password.",
    "NUL": "PostgreSQL cannot hold the character NUL (\\x00) in a text; take it out.",
}


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turn the database's own errors into StoreError: what happened, to which database, what to do."""
    try:
        yield
    except DBAPIError as error:
        said = " ".join(str(error.orig).split()).rstrip(".?")
        advice = next((a for sign, a in ADVICE.items() if sign.lower() in said.lower()), "")
        raise StoreError(f"The database {shown(url)}: {said}. {advice}".rstrip()) from error


def shown(url: URL) -> str:
    """The database's name for messages: a path, or a URL without its password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def parse_url(place: str | Path) -> URL:
    """The URL of `sqlite:///file`, of `postgresql://…` (through psycopg), or of a plain path, which means SQLite.

    Raises StoreError for any other kind of database and for SQLite in memory, which no second connection can see.
    """
    name = str(place)
    if "://" not in name:
        return _checked_file(URL.create("sqlite", database=name))
    try:
        url = make_url(name)
    except (ArgumentError, ValueError) as error:  # the latter for a port that is no number
        told = PASSWORD.sub(":***@", name)
        raise StoreError(
            f"'{told}' is no database URL: use a path, sqlite:///path or postgresql://host/name"
        ) from error
    match url.drivername:
        case "sqlite" | "sqlite+pysqlite":
            return _checked_file(url)
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return url.set(drivername="postgresql+psycopg")
    raise StoreError(f"No store for '{url.drivername}' databases: use a path, sqlite:///path or postgresql://host/name")


def _checked_file(url: URL) -> URL:
    if not url.database or url.database == ":memory:":
        raise StoreError("A store is a file, but this URL names a database in memory: give a path")
    path = Path(url.database)
    if path.is_dir():
        raise StoreError(f"{path} is a folder: name a file in it, such as {path / 'feedback.db'}")
    if not path.parent.is_dir():
        raise StoreError(f"The folder {path.parent} does not exist, so no database can be made in it: create it first")
    return url


def connect(url: URL) -> Engine:
    """An engine for the URL. Raises StoreError when the driver is missing."""
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        return create_engine(url, pool_pre_ping=True)  # a server that was restarted is no error
    except ModuleNotFoundError as error:
        raise StoreError(POSTGRESQL_HELP) from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours, see _begin_sqlite
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a label that was thanked for survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # One that reads first and writes later fails at once if another wrote in between; one that says so first waits.
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


@contextmanager
def write(engine: Engine) -> Iterator[Connection]:
    """One transaction of the one writer; others wait their turn. An exception takes everything back."""
    with explained(engine.url), engine.execution_options(writing=True).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
        yield connection


@contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """A consistent view for reading."""
    with explained(engine.url), engine.connect() as connection:
        yield connection


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest version, in one transaction.

    Raises StoreError for a database that a newer tutelage wrote and for one that belongs to another program.
    """
    script, config = _scripts()
    head = script.get_current_head()
    with read(engine) as connection:
        if _version(connection) == head:
            return
    with write(engine) as connection:
        version = _version(connection)
        if version == head:  # another process was faster
            return
        if version is not None and version not in {revision.revision for revision in script.walk_revisions()}:
            raise StoreError(
                f"The database {shown(engine.url)} has schema {version}, this tutelage knows up to {head}: "
                "a newer tutelage wrote it. Upgrade with: pip install --upgrade tutelage"
            )
        config.attributes["connection"] = connection
        with ALEMBIC:
            command.upgrade(config, "head")


def _scripts() -> tuple[ScriptDirectory, Config]:
    folder = Path(__file__).parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return ScriptDirectory.from_config(config), config


def _version(connection: Connection) -> str | None:
    """The schema's version; None for an empty database. Raises StoreError where there are tables that are not ours."""
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE in tables:
        return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    if tables:
        raise StoreError(
            f"The database {shown(connection.engine.url)} belongs to another program: it has the tables "
            f"{', '.join(sorted(tables)[:5])}. Name another file or an empty database."
        )
    return None
