"""The store's tests again, on a real PostgreSQL server that this file starts and stops.

Skipped, saying why, where Debian's `postgresql` package (initdb, pg_ctl) or the driver psycopg is not installed.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import test_store
from sqlalchemy import select
from test_group_commit import THREADS, together, wait_until
from test_store import (  # noqa: F401
    test_a_new_schema_is_the_one_in_tables,
    test_a_newer_database_is_refused,
    test_a_reader_sees_what_was_there_when_it_began,
    test_all_or_none,
    test_filters_and_order_across_pages,
    test_many_writers_lose_nothing,
    test_one_id_is_one_person,
    test_prompts_nobody_has_ranked,
    test_reading_is_bounded_in_memory,
    test_records_by_row_number,
    test_retracted_labels_are_kept_but_not_read,
    test_the_same_id_is_stored_once,
    test_what_goes_in_comes_out,
)

from tutelage.errors import StoreError
from tutelage.feedback.database import read
from tutelage.feedback.group_commit import GroupCommit
from tutelage.feedback.store import Store
from tutelage.feedback.tables import prompts
from tutelage.records import Completion, Source

psycopg = pytest.importorskip("psycopg", reason="needs psycopg: pip install 'tutelage[postgresql]'")
NUMBERS = count()


def _program(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def _run(user: str | None, *command: str) -> None:
    # No pipes: the server that pg_ctl leaves running would hold them open.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            command, user=user, cwd="/", stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=60
        )
        said.seek(0)
        assert done.returncode == 0, said.read().decode()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A folder with the socket of a server of our own; it runs as the user postgres where we are root."""
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("no PostgreSQL server here: initdb and pg_ctl come with Debian's package postgresql")
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None and user not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="tutelage-pg-", dir="/tmp"))  # a socket's path must be short
    if user is not None:
        shutil.chown(folder, user)
    data = str(folder / "data")
    try:
        _run(user, initdb, "-D", data, "-A", "trust", "-U", "tutelage", "-E", "UTF8", "--locale=C", "--no-sync")
        options = f"-F -c listen_addresses='' -c unix_socket_directories={folder}"
        _run(user, pg_ctl, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield str(folder)
        finally:
            _run(user, pg_ctl, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def url(server: str) -> str:
    """An empty database."""
    name = f"t{next(NUMBERS)}"
    with psycopg.connect(host=server, user="tutelage", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://tutelage@/{name}?host={server}"


def test_another_programs_database_is_left_alone_on_postgresql(url: str, server: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE bookmarks (url text)")
    with pytest.raises(StoreError, match=r"belongs to another program.*bookmarks"):
        Store(url)


def test_nul_in_a_text_is_refused_and_nothing_is_stored(url: str) -> None:
    comparison = test_store.pair(1)
    bad = Completion(text="a\x00b", source=Source(model="m"))
    with Store(url) as store:
        with pytest.raises(StoreError, match=r"NUL.*take it out"):
            store.add(test_store.pair(2), comparison.model_copy(update={"completions": (bad, bad)}))
        assert store.count("comparisons") == store.count("prompts") == 0


def test_a_lost_connection_is_explained_and_mended(url: str) -> None:
    with Store(url) as store:
        store.add(test_store.pair(1))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        store.add(test_store.pair(2))
        assert store.count("comparisons") == 2


def test_a_connection_lost_by_one_write_is_a_fault_of_all_that_shared_it(url: str) -> None:
    come: list[str] = []
    told: set[str] = set()
    with Store(url) as store:
        writes = GroupCommit(store.engine)

        def job(i: int) -> None:
            try:
                with writes.write() as connection:
                    come.append(str(i))
                    wait_until(lambda: len(come) + writes._waiting == THREADS)
                    connection.execute(prompts.insert(), [{"id": str(i), "split": "train", "body": "{}"}])
                    if len(come) == 5:
                        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
            except StoreError:
                return
            told.add(str(i))

        together(job)
        with read(store.engine) as connection:
            kept = set(connection.execute(select(prompts.c.id)).scalars())
    assert kept == told
    assert set(come) - told in (set(come[:5]), set(come[1:5]))  # the first may have been alone
