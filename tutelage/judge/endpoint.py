"""A judge behind any OpenAI-compatible server: `POST {URL}/chat/completions`, several questions at once.

What goes wrong on the way (no connection, no answer in time, 408, 409, 425, 429, 5xx, an answer that is no chat
completion) is tried again, after waits that double and as late as the server asks for by Retry-After. What is left
after all tries is not judged, with the reason, and not final: the next run asks again. A refusal, or words that are no
verdict, are an answer: not judged, and final. A wrong address, model or key stops everything at once.

Where the server gives the log-probabilities of tokens the label is soft; else the letter is read and taken as certain.
"""

import os
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from tutelage.config import Section
from tutelage.errors import ConfigError, JudgeError
from tutelage.judge.asking import Ask, Reply, Usage
from tutelage.judge.completion import Body, read_body

if TYPE_CHECKING:
    import httpx

ADDRESS = re.compile(r"(?P<url>https?://[^#\s]+)#(?P<model>\S+)")
AGAIN = {408, 409, 425, 429}  # and every 5xx
HOPELESS = {401, 403, 404}
LONGEST_WAIT = 120.0  # seconds; a server that wants to be left alone for longer is not asked again in this run
DEAD = 10  # questions in a row that the server never answered


class EndpointConfig(Section):
    """How OpenAI-compatible endpoints are asked."""

    key_variable: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")] = ""
    """Name of the environment variable that holds the API key; empty: none is sent. The key itself is never stored."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Questions under way at once."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds to wait for an answer."""
    attempts: Annotated[int, Field(ge=1)] = 5
    """Tries of one question."""
    backoff: Annotated[float, Field(ge=0)] = 1.0
    """Seconds before the second try; doubled before each further one, and up to half as much again by chance."""
    max_tokens: Annotated[int, Field(ge=1)] = 8
    """Most tokens of an answer. A model that thinks aloud first needs far more."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 20
    """Alternatives asked for at each token, for soft labels; 0 asks for none."""
    prices: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Money for a million tokens read and written, by model name: `{model: [0.15, 0.6]}`."""


class _Fault(Exception):  # noqa: N818 - it never leaves this file
    """A try that failed and may be made again, at the earliest after `wait` seconds where the server says so."""

    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class Endpoint:
    """A judge behind a URL."""

    def __init__(self, address: str, config: EndpointConfig) -> None:
        """`address` is the base URL, `#`, and the model's name: `http://localhost:8000/v1#qwen2.5-7b`.

        Raises ConfigError when it is not, or when the variable that should hold the key is not set.
        """
        found = ADDRESS.fullmatch(address)
        if found is None:
            raise ConfigError("an endpoint is a base URL, # and a model's name: http://localhost:8000/v1#qwen2.5-7b")
        if "@" in found["url"].split("/")[2]:
            raise ConfigError("a URL with a name or password is not taken: put the key in an environment variable")
        self.url, self.name, self.config = found["url"].rstrip("/"), found["model"], config
        self.identity = f"{self.url} {self.name} {config.top_logprobs} {config.max_tokens}"
        self._key = _key(config.key_variable)
        self._unwanted: set[str] = set()  # what the server has told us not to send
        self._quiet_until = 0.0  # on the monotonic clock: the server asked all of us to wait
        self._stop = threading.Event()

    def choose(self, asks: Iterable[Ask]) -> Iterator[tuple[int, Reply]]:
        """See `Judge.choose`. Questions are taken as answers come in, so at most `concurrency` are ever under way.

        Raises JudgeError for a wrong address, model or key, and when ten questions in a row were never answered.
        """
        source, under_way, silent = enumerate(asks), dict[Future[Reply], int](), 0
        self._stop.clear()
        client, pool = self._client(), ThreadPoolExecutor(self.config.concurrency)
        try:
            while True:
                for place, ask in islice(source, self.config.concurrency - len(under_way)):
                    under_way[pool.submit(self._answer, client, ask)] = place
                if not under_way:
                    return
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda one: one.exception() is not None):  # what is good comes first
                    place, reply = under_way.pop(future), future.result()
                    yield place, reply
                    silent = 0 if reply.final else silent + 1
                    if silent == DEAD:
                        raise JudgeError(
                            f"{self.url} has not answered {DEAD} questions in a row; the last: {reply.reason}. All "
                            "answers so far are kept: the same command goes on once the server is back"
                        )
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            client.close()

    def _client(self) -> "httpx.Client":
        import httpx

        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=self.config.concurrency)
        return httpx.Client(headers=headers, timeout=self.config.timeout, limits=limits)

    def _answer(self, client: "httpx.Client", ask: Ask) -> Reply:
        """One question until it is answered or out of tries. Runs in a thread of its own."""
        used, reason, tries = Usage(), "stopped", 0
        while tries < self.config.attempts and not self._stop.is_set():
            self._stop.wait(self._quiet_until - time.monotonic())
            tries += 1
            try:
                reply = self._try(client, ask)
                return replace(reply, usage=_add(used, reply.usage))
            except _Fault as fault:
                used, reason = _add(used, Usage(calls=1)), fault.reason
                if fault.wait > LONGEST_WAIT:
                    reason += f", and asks to wait {fault.wait:.0f} s"
                    break
                if fault.wait:
                    self._quiet_until = max(self._quiet_until, time.monotonic() + fault.wait)
                if tries < self.config.attempts:
                    self._stop.wait(self.config.backoff * 2 ** (tries - 1) * random.uniform(1.0, 1.5))
        return Reply(None, reason=f"{reason} ({tries} tries)", final=False, usage=used)

    def _try(self, client: "httpx.Client", ask: Ask) -> Reply:
        """Raises _Fault when it may be tried again, JudgeError when nothing can be asked of this server."""
        import httpx

        sent = frozenset(self._unwanted)
        try:
            response = client.post(f"{self.url}/chat/completions", json=self._body(ask, sent))
        except httpx.TimeoutException:
            raise _Fault(f"timeout: no answer within {self.config.timeout:g} s") from None
        except httpx.TransportError as error:
            raise _Fault(f"no connection: {self._clean(str(error))}") from None
        status = response.status_code
        if status == 200:
            try:
                return read_body(response.content, ask.options)
            except ValidationError as error:
                reason = f"malformed response: {error.errors()[0]['msg']}"
                raise _Fault(self._clean(reason)) from None
        said = self._clean(response.text.strip()[:200])
        if status in AGAIN or status >= 500:
            raise _Fault(f"HTTP {status}: {said}", wait=_retry_after(response))
        if status in HOPELESS:
            where = f"the key in ${self.config.key_variable}" if self._key else "whether a key is needed"
            raise JudgeError(f"{self.url} answers HTTP {status}: {said}. Check the URL, the model's name and {where}")
        if status == 400 and self._learn(response.text, sent):
            return self._try(client, ask)
        return Reply(None, reason=f"HTTP {status}: {said}", final=False, usage=Usage(calls=1))

    def _body(self, ask: Ask, unwanted: frozenset[str]) -> Body:
        turns = [{"role": message.role, "content": message.content} for message in ask.messages]
        room = self.config.max_tokens if ask.options else ask.room
        wanted: Body = {"max_tokens": room, "temperature": 0}
        if self.config.top_logprobs and ask.options:
            wanted |= {"logprobs": True, "top_logprobs": self.config.top_logprobs}
        if "max_tokens" in unwanted:
            wanted["max_completion_tokens"] = room
        return {"model": self.name, "messages": turns} | {k: v for k, v in wanted.items() if k not in unwanted}

    def _learn(self, complaint: str, sent: frozenset[str]) -> bool:
        """Leave out from now on what the server complains about. Says whether that is news to the try that failed."""
        for name in ("max_completion_tokens", "max_tokens", "temperature", "logprobs"):
            if name in complaint and name not in sent:
                self._unwanted |= {"logprobs", "top_logprobs"} if name == "logprobs" else {name}
                return True
        return False

    def _clean(self, text: str) -> str:
        """Without the key: some servers repeat it when they refuse it."""
        return text.replace(self._key, "***") if self._key else text


def _key(variable: str) -> str:
    if variable and not os.environ.get(variable):
        raise ConfigError(f"judge.endpoint.key_variable is {variable}, but no such environment variable is set")
    return os.environ[variable].strip() if variable else ""


def _retry_after(response: Any) -> float:
    """Seconds the server asks to be left alone, by a number or a date (RFC 9110, section 10.2.3); else 0."""
    said = response.headers.get("retry-after", "").strip()
    if said.isdigit():
        return float(said)
    try:
        until = parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _add(one: Usage, other: Usage) -> Usage:
    return Usage(one.calls + other.calls, one.read + other.read, one.written + other.written)
