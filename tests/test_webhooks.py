"""Webhooks: signed as Standard Webhooks says, stored with what they tell of, tried until taken, never led inwards."""

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from tutelage.errors import StudioError
from tutelage.feedback.database import read, write
from tutelage.feedback.outbox import (
    CLAIM_SECONDS,
    DELAYS,
    JITTER,
    KEPT_SECONDS,
    MOST_ATTEMPTS,
    Outbox,
    Parcel,
    announce,
)
from tutelage.feedback.people_tables import deliveries
from tutelage.feedback.store import Store
from tutelage.studio.webhooks import Courier, checked_parts, new_client, reachable, signed


class Receiver:
    """Somebody's web server: it keeps what it got and answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                status, headers = outer.answers.pop(0) if outer.answers else (204, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?for=us"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


class Clock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = time.time() + 60  # later than anything the test announces

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "feedback.db") as opened:
        yield opened


def tell(store: Store, event: Any = "label.saved", **data: Any) -> None:
    with write(store.engine) as connection:
        announce(connection, event, **data)


def send(outbox: Outbox, *allowed: str) -> int:
    async def once() -> int:
        async with new_client() as client:
            return await Courier(outbox, allowed).deliver(client)

    return asyncio.run(once())


def test_a_delivery_is_what_the_specification_says(store: Store, receiver: Receiver) -> None:
    outbox = Outbox(store)
    _, secret = outbox.add("person-1", receiver.url)
    tell(store, label="l1", batch="b1")
    assert send(outbox, "127.0.0.1") == 1
    [(headers, body)] = receiver.got
    assert Verifier(secret).verify(body, headers)["data"] == {"label": "l1", "batch": "b1"}  # the reference's own check
    assert json.loads(body)["type"] == "label.saved"
    assert secret.startswith("whsec_")
    assert headers["host"] == receiver.url.split("/")[2]
    with pytest.raises(WebhookVerificationError):
        Verifier(secret).verify(body + b" ", headers)
    [line] = outbox.log()
    assert (line.state, line.status, line.attempts, line.id) == ("delivered", 204, 1, headers["webhook-id"])
    assert send(outbox, "127.0.0.1") == 0


def test_the_signature_of_the_specifications_example() -> None:
    """Worked out from the text of the specification with hmac and base64 alone."""
    import base64
    import hashlib
    import hmac

    secret = "whsec_" + base64.b64encode(b"k" * 24).decode()
    parcel = Parcel("msg_1", "hook", "https://example.org", secret, '{"a":1}', 0)
    headers = signed(parcel, datetime(2022, 11, 3, 20, 26, 10, 344522, UTC))
    assert headers["webhook-timestamp"] == "1667507170"
    mac = hmac.new(b"k" * 24, b'msg_1.1667507170.{"a":1}', hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"


def test_an_event_is_stored_with_what_it_tells_of_or_not_at_all(store: Store, receiver: Receiver) -> None:
    outbox = Outbox(store)
    outbox.add("person-1", receiver.url)

    def fail() -> None:
        with write(store.engine) as connection:
            announce(connection, "label.saved", label="never")
            raise RuntimeError("the label could not be stored")

    with pytest.raises(RuntimeError):
        fail()
    assert outbox.log() == []


def test_retries_back_off_with_the_same_id_and_end(store: Store, receiver: Receiver) -> None:
    clock = Clock()
    outbox = Outbox(store, clock=clock)
    outbox.add("person-1", receiver.url)
    tell(store)
    receiver.answers = [(500, {})] * 20
    waits = []
    for _ in DELAYS:
        assert send(outbox, "127.0.0.1") == 1
        [line] = outbox.log()
        assert line.state == "waiting"
        assert line.due is not None
        waits.append(line.due - clock.now)
        assert send(outbox, "127.0.0.1") == 0  # not before its time
        clock.now = line.due
    assert all(abs(wait - delay) <= JITTER * delay + 1e-3 for wait, delay in zip(waits, DELAYS, strict=True))
    assert sum(DELAYS) > 3 * 86_400
    assert send(outbox, "127.0.0.1") == 1
    [line] = outbox.log()
    assert (line.state, line.attempts, line.error) == ("given up", 10, "answered 500")
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len(receiver.got) == 10
    outbox.replay("person-1", line.id)
    receiver.answers = []
    assert send(outbox, "127.0.0.1") == 1
    [line] = outbox.log()
    assert line.state == "delivered"
    assert [(one.status, one.error) for one in line.history] == [(500, "answered 500")] * 10 + [(204, "")]
    gaps = [late.at - early.at for early, late in itertools.pairwise(line.history[:10])]
    assert gaps == pytest.approx(waits)


def test_the_log_of_one_delivery_has_an_end(store: Store) -> None:
    clock = Clock()
    outbox = Outbox(store, clock=clock)
    outbox.add("person-1", "https://example.org/")
    tell(store)
    [parcel] = outbox.claim()
    for second in range(MOST_ATTEMPTS + 3):
        clock.now += 1
        outbox.settle(parcel, None, f"no answer {second}")
    [line] = outbox.log()
    assert len(line.history) == MOST_ATTEMPTS
    assert (line.history[0].error, line.history[-1].error) == ("no answer 3", f"no answer {MOST_ATTEMPTS + 2}")


def test_retry_after_is_honoured_and_410_ends_it(store: Store, receiver: Receiver) -> None:
    clock = Clock()
    outbox = Outbox(store, clock=clock)
    hook, _ = outbox.add("person-1", receiver.url)
    tell(store)
    receiver.answers = [(503, {"retry-after": "120"}), (410, {})]
    send(outbox, "127.0.0.1")
    assert outbox.log()[0].due == pytest.approx(clock.now + 120)
    clock.now += 120
    tell(store)
    send(outbox, "127.0.0.1")
    assert [h.active for h in outbox.webhooks()] == [False]
    assert {line.state for line in outbox.log(hook.id)} <= {"given up", "delivered"}
    tell(store)
    assert len(outbox.log()) == 2


def test_redirects_are_not_followed(store: Store, receiver: Receiver) -> None:
    outbox = Outbox(store)
    outbox.add("person-1", receiver.url)
    tell(store)
    receiver.answers = [(302, {"location": receiver.url})]
    send(outbox, "127.0.0.1")
    assert (len(receiver.got), outbox.log()[0].error) == (1, "answered 302")


def test_a_webhook_gets_the_events_it_wants(store: Store, receiver: Receiver) -> None:
    outbox = Outbox(store)
    some, _ = outbox.add("person-1", receiver.url, ["batch.finished"])
    every, _ = outbox.add("person-1", receiver.url)
    tell(store, "label.saved")
    tell(store, "batch.finished")
    assert [line.event for line in outbox.log(some.id)] == ["batch.finished"]
    assert [line.event for line in outbox.log(every.id)] == ["batch.finished", "label.saved"]
    with pytest.raises(StudioError, match=r"no event label.seen: choose from label.saved"):
        outbox.add("person-1", receiver.url, ["label.seen"])
    outbox.remove("person-1", every.id)
    with pytest.raises(StudioError, match="no active webhook"):
        outbox.test(every.id)
    outbox.test(some.id)
    assert outbox.log(some.id)[0].event == "webhook.test"
    assert all("secret" not in repr(hook) for hook in outbox.webhooks())


def test_what_a_dead_process_had_claimed_comes_due_again(store: Store, receiver: Receiver) -> None:
    clock = Clock()
    outbox = Outbox(store, clock=clock)
    outbox.add("person-1", receiver.url)
    tell(store)
    assert len(outbox.claim()) == 1  # and then the process dies
    assert Outbox(store, clock=clock).claim() == []
    clock.now += CLAIM_SECONDS
    assert len(Outbox(store, clock=clock).claim()) == 1


def test_two_processes_send_nothing_twice(store: Store, receiver: Receiver) -> None:
    outbox = Outbox(store)
    outbox.add("person-1", receiver.url)
    for i in range(60):
        tell(store, label=f"l{i}")
    taken: list[str] = []

    def worker() -> None:
        while parcels := outbox.claim(7):
            taken.extend(parcel.id for parcel in parcels)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(set(taken))) == (60, 60)


KILLED = """
import asyncio, sys
from tutelage.feedback.database import write
from tutelage.feedback.outbox import Outbox, announce
from tutelage.feedback.store import Store
from tutelage.studio.webhooks import Courier
store = Store(sys.argv[1])
async def main():
    sending = asyncio.create_task(Courier(Outbox(store), ["127.0.0.1"]).run())
    for i in range(10_000):
        with write(store.engine) as connection:
            announce(connection, "label.saved", label=str(i))
        print(i, flush=True)
        await asyncio.sleep(0)
asyncio.run(main())
"""


def test_nothing_is_lost_at_kill_9(tmp_path: Path, receiver: Receiver) -> None:
    """A process that announces and sends is killed; what it had said was stored arrives from the next one."""
    path = tmp_path / "feedback.db"
    with Store(path) as store:
        Outbox(store).add("person-1", receiver.url)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(40)]
    os.kill(process.pid, signal.SIGKILL)
    said += [int(line) for line in process.stdout.read().split()]
    process.stdout.close()
    process.wait()
    with Store(path) as store:
        clock = Clock()
        outbox = Outbox(store, clock=clock)
        for _ in range(10):  # hours; a busy machine may refuse a connection
            clock.now += 3600 + CLAIM_SECONDS
            while send(outbox, "127.0.0.1"):
                pass
        assert {line.state for line in outbox.log(limit=100_000)} == {"delivered"}
    arrived = {int(json.loads(body)["data"]["label"]) for _, body in receiver.got}
    assert set(said) <= arrived
    assert len(said) >= 40


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f000001/",
        "https://2130706433/",
        "https://localhost/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://[::1]/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:a00:1::]/",
    ],
)
def test_no_webhook_leads_into_the_network(url: str) -> None:
    with pytest.raises(StudioError, match=r"is no public address.*--webhook-allow"):
        asyncio.run(reachable(url))


def test_a_public_address_is_reachable_by_https_alone() -> None:
    assert asyncio.run(reachable("https://8.8.8.8/hook")) == "8.8.8.8"
    assert asyncio.run(reachable("https://[2606:4700::1111]:8443/hook")) == "2606:4700::1111"
    with pytest.raises(StudioError, match="not encrypted"):
        asyncio.run(reachable("http://8.8.8.8/hook"))


@pytest.mark.parametrize("allowed", ["127.0.0.1", "127.0.0.0/8"])
def test_what_the_settings_allow_may_be_internal_and_plain(allowed: str) -> None:
    assert asyncio.run(reachable("http://127.0.0.1:8080/", [allowed])) == "127.0.0.1"
    with pytest.raises(StudioError, match="no public address"):
        asyncio.run(reachable("http://192.168.1.1:8080/", [allowed]))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "ftp://example.org",
        "https://",
        "https://me:word@example.org/",
        "https://a:99999/",
        "https://example.org/\u0001",
        "https://example.org/\u202e",
        "https://exa\nmple.org/",
        "https://ü_x.example/",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(StudioError, match="is no address for a webhook"):
        checked_parts(url)


def test_a_name_that_changes_its_mind_gains_nothing(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name resolves to a public address when it is checked, and to this machine afterwards."""
    answers = [("8.8.8.8", 443), ("127.0.0.1", receiver.server.server_port)]
    asked: list[str] = []

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", answers.pop(0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("tutelage.studio.webhooks.TIMEOUT_SECONDS", 0.2)
    outbox = Outbox(store)
    outbox.add("person-1", "https://rebinding.example/hook")
    tell(store)
    send(outbox)
    assert receiver.got == []
    assert asked[0] == "rebinding.example"
    assert set(asked[1:]) <= {"8.8.8.8"}  # from then on only the address that was checked
    assert outbox.log()[0].state == "waiting"


def test_an_inward_address_is_refused_when_it_is_sent_to_and_said_in_the_log(store: Store, receiver: Receiver) -> None:
    outbox = Outbox(store)
    outbox.add("person-1", receiver.url)
    tell(store)
    send(outbox)
    assert receiver.got == []
    [line] = outbox.log()
    assert (line.state, line.status) == ("waiting", None)
    assert "no public address" in line.error


def test_the_log_is_kept_a_month(store: Store, receiver: Receiver) -> None:
    outbox = Outbox(store)
    outbox.add("person-1", receiver.url)
    tell(store)
    send(outbox, "127.0.0.1")
    tell(store)
    later = Outbox(store, clock=lambda: time.time() + KEPT_SECONDS + 1)
    assert outbox.forget() == 0
    assert later.forget() == 1  # the one that waits stays
    with read(store.engine) as connection:
        assert [row.status for row in connection.execute(deliveries.select())] == [None]


def resolved_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have every name lead to this machine; the names that were asked for."""
    asked, resolve = list[str](), socket.getaddrinfo

    def here(host: str, port: int, *rest: Any, **named: Any) -> list[Any]:
        asked.append(host)
        return resolve("127.0.0.1", port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    return asked


@pytest.mark.parametrize("allowed", ["127.0.0.1", "münchen.example", "xn--mnchen-3ya.example"])
def test_a_name_of_any_letters_is_spelled_as_dns_spells_it(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    asked = resolved_here(monkeypatch)
    outbox = Outbox(store)
    outbox.add("person-1", receiver.url.replace("127.0.0.1", "München.example"))
    tell(store)
    send(outbox, allowed)
    assert outbox.log()[0].state == "delivered"
    [(headers, _)] = receiver.got
    assert headers["host"] == f"xn--mnchen-3ya.example:{receiver.server.server_port}"
    assert asked[0] == "xn--mnchen-3ya.example"


def test_whatever_goes_wrong_with_one_is_said_in_its_log(store: Store) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "odd" in request.url.path:
            raise UnicodeEncodeError("ascii", "ü", 0, 1, "not in range")
        return httpx.Response(204)

    async def once() -> int:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return await Courier(outbox).deliver(client)

    outbox = Outbox(store)
    for path in ("odd", "even"):
        outbox.add("person-1", f"https://8.8.8.8/{path}")
    tell(store)
    assert asyncio.run(once()) == 2
    assert [line.state for line in outbox.log()] == ["delivered", "waiting"]
    assert outbox.log()[1].error.startswith("UnicodeEncodeError: 'ascii' codec can't encode")


class Stumbling(Outbox):
    """An outbox whose first claim fails in a way that nobody thought of."""

    stumbled = False

    def claim(self, most: int = 20) -> list[Parcel]:
        if not self.stumbled:
            self.stumbled = True
            raise ZeroDivisionError("odd")
        return super().claim(most)


def test_the_courier_outlives_what_it_cannot_send(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tutelage.studio.webhooks.PAUSE_SECONDS", 0.01)
    outbox = Stumbling(store)
    outbox.add("person-1", "https://example.org/\u0001")  # as an older studio took it
    outbox.add("person-1", receiver.url)

    async def work() -> None:
        sending = asyncio.create_task(Courier(outbox, ["127.0.0.1"]).run())
        for label in ("l1", "l2"):
            await asyncio.to_thread(tell, store, label=label)
            for _ in range(500):
                await asyncio.sleep(0.01)
                if any(label.encode() in body for _, body in receiver.got):
                    break
        assert not sending.done()
        sending.cancel()

    asyncio.run(work())
    assert [json.loads(body)["data"]["label"] for _, body in receiver.got] == ["l1", "l2"]
    assert "webhooks: odd" in caplog.text
