"""A small client of the studio's API.

    with Studio("https://studio.example.org", token) as studio:
        while item := studio.next():
            studio.submit(item, Ranked(ranks=(1, 2)))

What the network swallows is sent again, where twice does no harm: an answer has a key, and is stored once however often
it arrives. Opening a batch and undoing are sent once.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import TypeAdapter

from tutelage.errors import StudioError
from tutelage.feedback.exchange import Format
from tutelage.feedback.files import whole_file
from tutelage.feedback.work import Answer, Batch, BatchSpec, Held, NewItem, Nothing, Offer, Receipt
from tutelage.records import Prompt, Record, Split, new_id

TIMEOUT_SECONDS = 60.0
TRIES = 5
LONGEST_WAIT_SECONDS = 60.0  # for one more try
REFUSED = {429}  # nothing was done
AGAIN = REFUSED | {502, 503, 504}
TOGETHER = 500  # prompts of one request


class Studio:
    """One user's studio, by a token of theirs. A context manager closes its connections.

    Every method raises StudioError with the studio's own message and HTTP's status; status 503 where it cannot be
    reached after five tries.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`url`: the studio's address, without a path. `transport` and `sleep` are for tests."""
        self._sleep = sleep
        self._client = httpx.Client(
            base_url=f"{url.rstrip('/')}/api",
            headers={"authorization": f"Bearer {token}"},
            timeout=TIMEOUT_SECONDS,
            transport=transport,
        )

    def close(self) -> None:
        """Let go of every connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # labelling

    def offers(self) -> list[Offer]:
        """The batches open to you, and what there is to do in each."""
        return TypeAdapter(list[Offer]).validate_python(self._ask("GET", "/work"))

    def next(self, batch: str | None = None) -> Held | None:
        """Your next item, of one batch or of any; None when there is none now. `why` says why not."""
        found = self._next(batch)
        return found if isinstance(found, Held) else None

    def why(self, batch: str | None = None) -> Nothing | None:
        """Why there is no item now; None when there is one, which you then hold."""
        found = self._next(batch)
        return found if isinstance(found, Nothing) else None

    def submit(
        self, item: Held | str, answer: Answer, *, seconds: float | None = None, key: str | None = None
    ) -> Receipt:
        """Store an answer, with ranks in the order of the item's texts. What this returned is on the studio's disk."""
        body = {"key": key or new_id(), "answer": answer.model_dump(mode="json"), "seconds": seconds}
        return TypeAdapter(Receipt).validate_python(self._ask("POST", f"/work/items/{_id(item)}/answer", json=body))

    def skip(self, item: Held | str, reason: str) -> None:
        """Give an item back for good."""
        self._ask("POST", f"/work/items/{_id(item)}/skip", json={"text": reason})

    def undo(self, batch: str | None = None) -> Held | None:
        """Take your latest answer back; its item, or None when there was no answer."""
        found = self._ask("POST", "/work/undo", json={"batch": batch}, once=True)["item"]
        return None if found is None else TypeAdapter(Held).validate_python(found)

    # leading

    def batches(self) -> list[Batch]:
        """Every batch."""
        return TypeAdapter(list[Batch]).validate_python(self._ask("GET", "/batches"))

    def open_batch(self, spec: BatchSpec, items: Iterable[NewItem]) -> Batch:
        """Put a batch of questions up."""
        body = {"spec": _json(spec), "items": [_json(item) for item in items]}
        return TypeAdapter(Batch).validate_python(self._ask("POST", "/batches", json=body, once=True))

    def push_prompts(self, prompts: Iterable[Prompt]) -> int:
        """Add prompts to the store, five hundred to a request. Returns how many were new."""
        added, held = 0, [*prompts]
        for start in range(0, len(held), TOGETHER):
            body = {"prompts": [_json(prompt) for prompt in held[start : start + TOGETHER]]}
            added += self._ask("POST", "/prompts", json=body)["added"]
        return added

    # exporting

    def export_lines(self, format: Format = "tutelage", split: Split | None = None) -> Iterator[str]:
        """The labels as JSON lines, streamed. Raises StudioError where the stream breaks off."""
        asked = {"format": format, **({} if split is None else {"split": split})}
        try:
            with self._client.stream("GET", "/export", params=asked) as answer:
                if answer.is_error:
                    answer.read()
                    raise _failure(answer)
                rest = b""
                for chunk in answer.iter_bytes():  # iter_lines would end lines at U+2028, which texts may hold
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode() for line in lines)
                if rest:
                    yield rest.decode()
        except httpx.TransportError as error:
            raise _unreachable(self._client, error) from error

    def export(self, path: str | Path, format: Format = "tutelage", split: Split | None = None) -> int:
        """The labels into a file, which is there only when it is whole. Returns how many lines it has."""
        written = 0
        with whole_file(Path(path)) as file:
            for line in self.export_lines(format, split):
                file.write(f"{line}\n".encode())
                written += 1
        return written

    # below

    def _next(self, batch: str | None) -> Held | Nothing:
        found = self._ask("POST", "/work/next", json={"batch": batch})
        if found["item"] is not None:
            return TypeAdapter(Held).validate_python(found["item"])
        return TypeAdapter(Nothing).validate_python(found["nothing"])

    def _ask(self, method: str, path: str, *, json: Mapping[str, Any] | None = None, once: bool = False) -> Any:
        """`once`: not again after a failure that may have come too late to stop it."""
        for attempt in range(1, TRIES + 1):
            try:
                answer = self._client.request(method, path, json=json)
            except httpx.TransportError as error:
                if once or attempt == TRIES:
                    raise _unreachable(self._client, error) from error
                wait = 0.0
            else:
                if not answer.is_error:
                    return answer.json() if answer.content else None
                if answer.status_code not in (REFUSED if once else AGAIN) or attempt == TRIES:
                    raise _failure(answer)
                asked = answer.headers.get("retry-after", "")
                wait = float(asked) if asked.isdecimal() else 0.0
            self._sleep(min(max(wait, 0.5 * 2 ** (attempt - 1)), LONGEST_WAIT_SECONDS))
        raise AssertionError("the last try returns or raises")


def _id(item: Held | str) -> str:
    return item if isinstance(item, str) else item.id


def _json(record: Record) -> Any:
    return record.model_dump(mode="json")


def _failure(answer: httpx.Response) -> StudioError:
    """The studio's own words, or the status where they are none."""
    try:
        said = str(answer.json()["detail"])
    except (json.JSONDecodeError, KeyError, TypeError):
        said = f"{answer.request.url} answered {answer.status_code}, which the studio's API does not: check the address"
    return StudioError(said, answer.status_code)


def _unreachable(client: httpx.Client, error: Exception) -> StudioError:
    return StudioError(f"{client.base_url} cannot be reached: {error}. Check the address and the network.", 503)
