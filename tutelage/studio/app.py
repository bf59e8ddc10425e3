"""The studio put together: every router in one list, around them security, below them one room."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from fastapi import Depends, FastAPI
from starlette.datastructures import Headers

from tutelage import __version__
from tutelage.folder import ProjectFolder
from tutelage.studio import admin, annotate, api, auth, stock, talk, tokens
from tutelage.studio.assets import Assets
from tutelage.studio.failures import add_failures
from tutelage.studio.opening import open_room
from tutelage.studio.room import Room, StudioSettings
from tutelage.studio.security import Guard, checked_csrf
from tutelage.studio.webhooks import Courier

ROUTERS = (  # what raters ask for all day comes first: a request is compared with one route after another
    stock.router,
    annotate.router,
    talk.router,
    api.router,
    auth.router,
    admin.router,
    tokens.router,
)


def create_app(store_url: str, project: ProjectFolder | None = None, settings: StudioSettings | None = None) -> FastAPI:
    """The studio over one database; `project` is for what needs models and runs, and may be left out."""
    settings = settings or StudioSettings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gc.freeze()  # what is imported stays: collections need not walk it; an export takes a sixth less
        courier = asyncio.create_task(Courier(app.state.room.outbox, settings.webhook_allow).run())
        yield
        courier.cancel()
        with suppress(asyncio.CancelledError):
            await courier
        app.state.room.store.close()

    app = FastAPI(
        title="tutelage studio",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        dependencies=[Depends(checked_csrf)],
    )
    app.state.room = open_room(store_url, project, settings)
    for router in ROUTERS:
        app.include_router(router)
    app.mount(str(app.state.room.templates.globals["static"]), Assets(), name="static")
    app.add_middleware(Guard, url=settings.url, large=partial(_may_send_much, app.state.room))
    add_failures(app)
    return app


def _may_send_much(room: Room, headers: Headers, session: str) -> bool:
    """Whether the request is of a lead: signed in, or with an API token of scope lead."""
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found = room.entrance.user_of_token(secret)
        return found is not None and found[0].at_least("lead") and "lead" in found[1].scopes
    user = room.entrance.user_of_session(session) if session else None
    return user is not None and user.at_least("lead")
