"""Backup and restore of the whole store: labels, work, people.

SQLite is copied page by page while others read and write (its online backup); PostgreSQL by its own pg_dump and
pg_restore. A backup appears under its name only when it is whole, and a store is written only with one that is.
"""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import URL

from tutelage.errors import StoreError
from tutelage.feedback.database import connect, migrate, read, shown
from tutelage.feedback.tables import VERSION_TABLE

SQLITE, POSTGRESQL = b"SQLite format 3\x00", b"PGDMP"  # how the files begin
PAGES = 1000  # copied at once; between two, a writer gets its turn


def backup_name(url: URL) -> str:
    """A name that says when: `tutelage-20261123-061500.db`, or `.dump` for PostgreSQL."""
    ending = "db" if url.get_backend_name() == "sqlite" else "dump"
    return f"tutelage-{datetime.now(UTC):%Y%m%d-%H%M%S}.{ending}"


def back_up(url: URL, path: Path) -> None:
    """Write the database of `url` to a file. The studio may run meanwhile: the file is of one moment.

    Raises StoreError where the file is there already, cannot be written, or the database cannot be read.
    """
    if path.exists():
        raise StoreError(f"{path} is there already: name another file, or move it away")
    if not path.parent.is_dir():
        raise StoreError(f"The folder {path.parent} does not exist, so no backup can be written there: make it first")
    beside = path.with_name(f".{path.name}.partial")
    try:
        if url.get_backend_name() == "sqlite":
            _copy(Path(str(url.database)), beside)
        else:
            _run("pg_dump", url, ["--format=custom", "--no-owner", "--no-privileges", f"--file={beside}"])
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"The backup of {shown(url)} to {path} failed: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def restore(path: Path, url: URL, *, replace: bool = False) -> None:
    """Bring a database to what a backup holds, and its schema up to date. Stop the studio first.

    Raises StoreError where the file is no backup of this kind of database, or where the database is not empty and
    `replace` does not say that what it holds may go.
    """
    sqlite = url.get_backend_name() == "sqlite"
    _check_file(path, sqlite)
    if not replace and not _empty(url):
        raise StoreError(
            f"{shown(url)} is not empty: back it up and give --replace, or name another database to restore into"
        )
    if sqlite:
        _restore_sqlite(path, url)
        return
    options = ["--no-owner", "--no-privileges", "--clean", "--if-exists", "--single-transaction", "--exit-on-error"]
    _run("pg_restore", url, [*options, str(path)])
    _bring_up_to_date(url)


def _restore_sqlite(path: Path, url: URL) -> None:
    """By way of a copy beside the store: what is damaged, or too new, is found out before the store is written.

    The copy goes into the store's own file in one transaction, so another process that has it open goes on with it.
    """
    live = Path(str(url.database))
    try:
        with TemporaryDirectory(prefix=".restore-", dir=live.parent) as folder:
            whole = Path(folder) / path.name
            _copy(path, whole)
            _bring_up_to_date(url.set(database=str(whole)))
            _copy(whole, live)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path} could not be restored into {shown(url)}: {error}") from error


def _bring_up_to_date(url: URL) -> None:
    engine = connect(url)
    try:
        migrate(engine)
    finally:
        engine.dispose()


def _copy(source: Path, target: Path) -> None:
    """SQLite's online backup of one moment, then a check of every page of the copy."""
    with closing(_reading(source)) as here, closing(sqlite3.connect(target)) as there:
        here.execute("BEGIN")
        _tables(here)  # the moment: without it, the backup begins anew whenever somebody writes between two steps
        here.backup(there, pages=PAGES)
        (said,) = there.execute("PRAGMA integrity_check").fetchone()
        if said != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged ({said})")
        if VERSION_TABLE not in _tables(there):
            raise sqlite3.DatabaseError(f"{source} is not a store of tutelage")


def _reading(path: Path) -> sqlite3.Connection:
    """A database to read from; its name may have any characters, also those that mean something in an address."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _check_file(path: Path, sqlite: bool) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(len(SQLITE))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    wanted, other = (SQLITE, POSTGRESQL) if sqlite else (POSTGRESQL, SQLITE)
    if start.startswith(other):
        of, to = ("PostgreSQL", "SQLite") if sqlite else ("SQLite", "PostgreSQL")
        raise StoreError(f"{path} is a backup of {of}, but the store is {to}: export and import carry labels over")
    if not start.startswith(wanted):
        raise StoreError(f"{path} is no backup of a store: give a file that `tutelage backup` wrote")
    if sqlite:
        try:
            with closing(_reading(path)) as there:
                tables = _tables(there)
        except sqlite3.Error as error:
            raise StoreError(
                f"{path} cannot be read ({error}): give another file that `tutelage backup` wrote"
            ) from error
        if VERSION_TABLE not in tables:
            raise StoreError(f"{path} is a database of another program: give a file that `tutelage backup` wrote")


def _empty(url: URL) -> bool:
    """Whether a database has no prompts and no people: nothing that a restore would destroy."""
    from sqlalchemy import func, inspect, select

    from tutelage.feedback.people_tables import users
    from tutelage.feedback.tables import prompts

    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        return True
    engine = connect(url)
    try:
        with read(engine) as connection:
            there = set(inspect(connection).get_table_names())
            if VERSION_TABLE not in there:
                return not there
            known = [table for table in (prompts, users) if table.name in there]
            return not any(connection.scalar(select(func.count()).select_from(table)) for table in known)
    finally:
        engine.dispose()


def _run(program: str, url: URL, options: Sequence[str]) -> None:
    """One of PostgreSQL's programs against the database; the password goes by the environment, not the command line."""
    found = shutil.which(program)
    if found is None:
        raise StoreError(f"{program} is not on this machine: install PostgreSQL's client programs (postgresql-client)")
    place = url.set(drivername="postgresql", password=None).render_as_string()
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    done = subprocess.run(
        [found, f"--dbname={place}", *options], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise StoreError(f"{program} failed on {shown(url)}: {' '.join(done.stderr.split())[-500:]}")
