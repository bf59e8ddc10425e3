"""Errors of the API: `application/problem+json` (RFC 9457), saying what was found, where, and what to do."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import Field

from tutelage.records import Record

MEDIA_TYPE = "application/problem+json"


class Fault(Record):
    """One thing that is wrong with a request."""

    where: str
    """The part of the request and the field in it: `body.answer.ranks.0`."""
    what: str


class Problem(Record):
    """What every error of the API looks like."""

    title: str
    """The status in words."""
    status: int
    detail: str
    """What was found, and what to do."""
    instance: str
    """The path that was asked."""
    faults: tuple[Fault, ...] = Field(default=())
    """For 422: each field that is wrong."""


PROBLEMS: dict[int | str, dict[str, Any]] = {  # for OpenAPI: what any route may answer
    status: {"model": Problem, "description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {}}}
    for status in (401, 403, 404, 409, 413, 422, 429, 503)
}


def problem(
    status: int, detail: str, path: str, faults: tuple[Fault, ...] = (), headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An error as a response. 401 says how to sign in."""
    told = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, instance=path, faults=faults)
    more = {"www-authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse(told.model_dump(mode="json"), status, {**(headers or {}), **more}, media_type=MEDIA_TYPE)
