"""The room of a process: the database opened, templates and languages read."""

import secrets
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import select

from tutelage.feedback.assignment import Desk
from tutelage.feedback.batches import Batches
from tutelage.feedback.conversation import Conversations
from tutelage.feedback.database import write
from tutelage.feedback.entrance import Entrance
from tutelage.feedback.outbox import Outbox
from tutelage.feedback.people import People
from tutelage.feedback.people_tables import studio_keys
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.studio.assets import place
from tutelage.studio.locale import catalogues
from tutelage.studio.masking import Masker
from tutelage.studio.pace import Pace
from tutelage.studio.room import Room, StudioSettings
from tutelage.studio.sampling import Sampling
from tutelage.studio.security import CSRFKey

TEMPLATES = Path(__file__).parent / "templates"


def open_room(store_url: str, project: ProjectFolder | None, settings: StudioSettings) -> Room:
    """Open the database and put everything over it."""
    store = Store(store_url)
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.globals["static"] = place()
    return Room(
        store=store,
        desk=Desk(store),
        people=People(store),
        entrance=Entrance(store, session_days=settings.session_days, idle_days=settings.idle_days),
        batches=Batches(store),
        conversations=Conversations(store),
        outbox=Outbox(store),
        pace=Pace(settings.api_rate, int(4 * settings.api_rate) + 1),
        sampling=Sampling(project, store),
        masker=_masker(project),
        project=project,
        settings=settings,
        templates=templates,
        catalogues=catalogues(),
        csrf=CSRFKey(_key(store)),
    )


def _masker(project: ProjectFolder | None) -> Masker:
    """Who hides the names of models: the well-known ones, and the project's."""
    if project is None:
        return Masker()
    core = project.core()
    return Masker([core.model, project.model(core)])


def _key(store: Store) -> str:
    """The key of CSRF tokens, made once for all processes."""
    with write(store.engine) as connection:
        found = connection.scalar(select(studio_keys.c.value).where(studio_keys.c.name == "csrf"))
        if found is None:
            found = secrets.token_hex(32)
            connection.execute(studio_keys.insert(), [{"name": "csrf", "value": found}])
    return str(found)
