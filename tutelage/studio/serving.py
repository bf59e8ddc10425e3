"""The studio as a server: one process, or several that share the database and nothing else."""

import os
import socket
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from tutelage.config import Section
from tutelage.errors import StudioError
from tutelage.feedback.people import People
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.studio.app import create_app
from tutelage.studio.room import StudioSettings

ENVIRONMENT = "TUTELAGE_STUDIO"  # how a worker process is told what to serve
STOP_SECONDS = 10  # for requests under way, after Ctrl-C
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Serving(Section):
    """What to serve, and where."""

    store: str
    """Database: a path or a URL."""
    project: Path
    """The project folder."""
    config: Path
    """Its settings file."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8370
    """Port to listen on."""
    workers: int = 1
    """Server processes."""
    settings: StudioSettings = StudioSettings()

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.settings.url or f"http://{host}:{self.port}").rstrip("/")

    @property
    def exposed(self) -> bool:
        """Whether other machines can reach it, with no word of TLS in front: passwords would cross the network."""
        return self.host not in LOOPBACK and not self.address.startswith("https:")


def first_token(serving: Serving) -> str | None:
    """A one-time token for the first administrator; None once there is one. Brings the database up to date."""
    with Store(serving.store) as store:
        return People(store).first_invitation()


def serve(serving: Serving) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises StudioError where the port is taken."""
    _check_free(serving)
    os.environ[ENVIRONMENT] = serving.model_dump_json()
    run("tutelage.studio.serving:app", serving.host, serving.port, serving.workers)


def run(factory: str, host: str, port: int, workers: int) -> None:
    """Serve what the function makes, named as `module:function`, in so many processes."""
    options: dict[str, Any] = {
        "factory": True,
        "host": host,
        "port": port,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": STOP_SECONDS,
    }
    if workers == 1:
        uvicorn.run(factory, **options)
    else:
        config = uvicorn.Config(factory, workers=workers, **options)
        Multiprocess(config, [shared_socket(config)]).run()


def shared_socket(config: uvicorn.Config) -> socket.socket:
    """Where all processes listen, without Nagle's algorithm: the end of an answer waited 40 ms for an acknowledgement.

    (asyncio turns it off only for connections of a socket that it made itself.)
    """
    made = config.bind_socket()
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    return made


def app() -> FastAPI:
    """The app of one worker process."""
    serving = Serving.model_validate_json(os.environ[ENVIRONMENT])
    return create_app(serving.store, ProjectFolder(serving.project, serving.config), serving.settings)


def _check_free(serving: Serving) -> None:
    family = socket.AF_INET6 if ":" in serving.host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((serving.host, serving.port))
        except OSError as error:
            where = f"{serving.host}:{serving.port}"
            raise StudioError(f"Cannot listen on {where}: {error.strerror}. Choose another --port or --host") from error
