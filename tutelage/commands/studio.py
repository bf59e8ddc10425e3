"""The web app where people write, rank, chat and judge."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tutelage.commands.flags import Config, Folder, Json
from tutelage.errors import ConfigError
from tutelage.folder import ProjectFolder
from tutelage.terminal import Answer

if TYPE_CHECKING:
    from tutelage.studio.serving import Serving

MISSING = "The studio needs packages of its own: pip install 'tutelage[studio]'"


def studio(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=1, lte=65_535))] = 8370,
    url: str | None = None,
    database: str | None = None,
    workers: Annotated[int, Parameter(validator=Number(gte=1, lte=64))] = 1,
    webhook_allow: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
) -> Answer:
    """Start the studio: pages where people write, rank, chat and judge. Ctrl-C stops it.

    The first time it prints a one-time link for the first administrator, who invites everybody else.

    Parameters
    ----------
    host
        Address to listen on. The default is this machine only; behind a proxy with TLS, keep it.
    port
        Port to listen on.
    url
        Public address, such as https://studio.example.org, where a proxy stands in front.
    database
        Database in place of the project's: a SQLite file, or a postgresql:// URL.
    workers
        Server processes; they share the database and nothing else.
    webhook_allow
        Hosts and networks, such as hooks.internal or 10.0.0.0/8, that webhooks may lead to although not public.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    serving, store = _serving(ProjectFolder.at(project.resolve(), config), database, host, port, url, workers)
    from tutelage.studio.serving import first_token, serve

    token = first_token(serving)
    if serving.exposed:
        warnings.warn(
            f"anybody on the way to {serving.address} can read passwords: put a proxy with TLS in front, "
            "name it with --url https://…, and listen on 127.0.0.1",
            stacklevel=2,
        )
    _greet(serving.address, token)
    serve(serving)
    return Answer("The studio has stopped; everything saved is kept.", {"address": serving.address, "store": store})


def _serving(
    folder: ProjectFolder, database: str | None, host: str, port: int, url: str | None, workers: int
) -> "tuple[Serving, str]":
    """What to serve, and the database's name without a password. Raises ConfigError where packages are missing."""
    try:
        from tutelage.feedback.database import parse_url, shown
        from tutelage.studio.room import StudioSettings
        from tutelage.studio.serving import Serving
    except ModuleNotFoundError as error:
        raise ConfigError(f"{MISSING} (there is no {error.name})") from error
    store = folder.store_url(folder.core({} if database is None else {"store": database}))
    serving = Serving(
        store=store,
        project=folder.path,
        config=folder.config.resolve(),
        host=host,
        port=port,
        workers=workers,
        settings=StudioSettings(url=url),
    )
    return serving, shown(parse_url(store))


def _greet(address: str, token: str | None) -> None:
    lines = [f"The studio is at {address} (Ctrl-C stops it)"]
    if token is not None:
        lines.append(
            f"Nobody is an administrator yet. This link makes one, once, within a day:\n  {address}/join/{token}"
        )
    print("\n".join(lines), file=sys.stdout, flush=True)
