"""`tutelage studio` as its user meets it: started in a project folder, the link on the console, Ctrl-C."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from tutelage.cli import run
from tutelage.feedback.store import Store
from tutelage.project import Project
from tutelage.studio.serving import Serving, first_token, shared_socket

PASSWORD = "a long enough one"


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


@contextmanager
def started(folder: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """The command in a project folder, once it answers: the process, its address, what it has printed."""
    port = free_port()
    command = [sys.executable, "-m", "tutelage", "studio", "--port", str(port), *flags]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(3)]
            address = f"http://127.0.0.1:{port}"
            while not answers(port):
                assert process.poll() is None, "".join(said) + process.stdout.read()
                time.sleep(0.1)
            yield process, address, said
        finally:
            process.terminate()


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def join(client: httpx.Client, link: str) -> None:
    """The first administrator joins."""
    token = re.search(r'name="csrf" value="(\w+)"', client.get(link).text)
    assert token is not None
    fields = {"csrf": token[1], "login": "chief", "name": "Chief", "password": PASSWORD}
    assert client.post(link, data=fields).status_code == 303


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_from_an_empty_folder_to_an_administrator(tmp_path: Path, workers: int) -> None:
    Project.init(tmp_path, model="tiny")
    with started(tmp_path, "--workers", str(workers)) as (process, address, said):
        assert said[0] == f"The studio is at {address} (Ctrl-C stops it)\n"
        assert "once, within a day" in said[1]
        link = said[2].strip()
        assert link.startswith(f"{address}/join/")
        with httpx.Client(base_url=address, headers={"origin": address}, timeout=60) as client:
            join(client, link)
            assert all(client.get("/").status_code == 200 for _ in range(10)), "in every process"
            assert client.get(link).status_code == 404
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
        assert "The studio has stopped; everything saved is kept." in rest
        assert "Traceback" not in rest
    serving = Serving(store=str(tmp_path / "tutelage.db"), project=tmp_path, config=tmp_path / "tutelage.yaml")
    assert first_token(serving) is None, "there is an administrator now"


def test_what_several_processes_answer_leaves_at_once() -> None:
    with shared_socket(uvicorn.Config("none", host="127.0.0.1", port=0)) as shared:
        shared.listen()
        with socket.create_connection(shared.getsockname()), shared.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_port_that_is_taken_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Project.init(tmp_path, model="tiny")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert run(["studio", "--project", str(tmp_path), "--port", str(port)]) == 2
    assert (
        f"Cannot listen on 127.0.0.1:{port}: Address already in use. Choose another --port" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("host", "url", "exposed"),
    [
        ("127.0.0.1", None, False),
        ("::1", None, False),
        ("0.0.0.0", None, True),
        ("0.0.0.0", "http://studio.example.org", True),
        ("0.0.0.0", "https://studio.example.org", False),
    ],
)
def test_whoever_opens_the_studio_to_others_is_warned(host: str, url: str | None, exposed: bool) -> None:
    serving = Serving.model_validate(
        {"store": "a", "project": ".", "config": "c", "host": host, "settings": {"url": url}}
    )
    assert serving.exposed is exposed
    assert serving.address == (url or ("http://[::1]:8370" if host == "::1" else f"http://{host}:8370"))


def test_another_database_by_a_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Project.init(tmp_path, model="tiny")
    other = tmp_path / "other.db"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert run(["studio", "--project", str(tmp_path), "--port", port, "--database", str(other)]) == 2
    assert "/join/" in capsys.readouterr().out
    with Store(other) as store:
        assert store.count("prompts") == 0
