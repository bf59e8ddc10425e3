"""What every route works with: the store, the desk, the people, the project, the pages. One `Room` for each process.

@router.get("/recent")
def recent(request: Request, user: SignedIn, room: TheRoom) -> Response:
    return room.page(request, "recent.html", answers=room.desk.recent(user.id))
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment
from pydantic import Field

from tutelage.config import Section
from tutelage.errors import StudioError, TutelageError
from tutelage.feedback.assignment import Desk
from tutelage.feedback.batches import Batches
from tutelage.feedback.conversation import Conversations
from tutelage.feedback.entrance import Entrance
from tutelage.feedback.outbox import Outbox
from tutelage.feedback.people import People
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.studio.locale import Catalogue, chosen_language
from tutelage.studio.masking import Masker
from tutelage.studio.pace import Pace
from tutelage.studio.sampling import Sampling
from tutelage.studio.security import CSRFKey

TOO_MANY = "Too many tries: wait {seconds} seconds and try again"


class StudioSettings(Section):
    """Where the studio is and how it behaves."""

    url: str | None = None
    """Public address, such as https://studio.example.org; without it, what the browser asked for."""
    session_days: float = Field(default=14.0, gt=0)
    """A session ends this many days after signing in."""
    idle_days: float = Field(default=3.0, gt=0)
    """A session that nobody uses ends after this many days."""
    invitation_days: float = Field(default=7.0, gt=0)
    """An invitation that nobody uses ends after this many days."""
    api_rate: float = Field(default=50.0, gt=0)
    """Requests a second that one caller of the API may make, in each process; four seconds' worth at once."""
    webhook_allow: tuple[str, ...] = ()
    """Hosts and networks, such as hooks.internal or 10.0.0.0/8, that webhooks may lead to although not public."""


@dataclass(frozen=True)
class Room:
    """Everything a route may need. Safe to share between threads."""

    store: Store
    desk: Desk
    people: People
    entrance: Entrance
    batches: Batches
    conversations: Conversations
    outbox: Outbox
    pace: Pace
    sampling: Sampling
    masker: Masker
    project: ProjectFolder | None
    settings: StudioSettings
    templates: Environment
    catalogues: Mapping[str, Catalogue]
    csrf: CSRFKey

    def page(self, request: Request, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
        """A template as a response. Templates also see `_`, `ngettext`, `language`, `csrf`, `user` and `path`."""
        catalogue = self._catalogue(request)
        html = self.templates.get_template(template).render(
            _=catalogue.gettext,
            ngettext=catalogue.ngettext,
            language=catalogue.language,
            csrf=self.csrf.token(request.scope.get("browser", "")),
            user=request.scope.get("user"),
            path=request.url.path,
            **values,
        )
        return HTMLResponse(html, status)

    def told(self, request: Request, error: TutelageError) -> str:
        """What went wrong, in the language of whoever asks, where there is a translation."""
        if isinstance(error, StudioError) and error.retry_after is not None:
            wait = self.gettext(request, TOO_MANY)
            return wait.format(seconds=math.ceil(error.retry_after))
        return self._catalogue(request).told(str(error))

    def gettext(self, request: Request, message: str) -> str:
        """A message in the language of whoever asks, for JSON answers."""
        return self._catalogue(request).gettext(message)

    def _catalogue(self, request: Request) -> Catalogue:
        return self.catalogues[chosen_language(request, request.scope.get("user"))]


def room_of(request: Request) -> Room:
    """The room of the process."""
    found = request.app.state.room
    assert isinstance(found, Room)
    return found


async def _room(request: Request) -> Room:
    """`room_of` for routes: what is not `async` waits for a thread, and this one waits for nothing."""
    return room_of(request)


TheRoom = Annotated[Room, Depends(_room)]
