"""Webhooks: events sent to other people's addresses, signed, again and again until they are taken.

The form is that of Standard Webhooks (specification 1.0.0): a POST of JSON with the headers `webhook-id`,
`webhook-timestamp` and `webhook-signature`, which is `v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64.

An address that somebody typed in must not lead into the network that the studio stands in. The name is resolved here,
every address it has must be a public one, and the request goes to the address that was checked, so that a name which
changes its mind in between gains nothing. Plain http, private networks and the machine itself are open only to hosts
and networks that the settings allow. Redirects are not followed, and nothing of an answer but its status is kept.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit, urlunsplit

import httpx
from standardwebhooks.webhooks import Webhook as Signer

from tutelage.errors import StudioError, TutelageError
from tutelage.feedback.outbox import Outbox, Parcel

TIMEOUT_SECONDS = 15.0
PAUSE_SECONDS = 1.0
TIDY_SECONDS = 3600.0
TRANSLATED = ip_network("64:ff9b::/96")  # IPv4 addresses, private ones too, as a gateway translates them
PORTS = {"http": 80, "https": 443}
LOG = logging.getLogger(__name__)


def checked_parts(url: str) -> SplitResult:
    """The parts of a webhook's address, its host as DNS and HTTP spell it: münchen.de is xn--mnchen-3ya.de.

    Raises StudioError 422 for what is no web address, has a user in it, or a character that cannot be seen.
    """
    try:
        parts = urlsplit(url)
        sound = url.isprintable() and parts.scheme in PORTS and bool(parts.hostname) and (parts.port or 1) > 0
        place = _place(httpx.URL(host=parts.hostname or "").raw_host.decode())
    except (ValueError, httpx.InvalidURL):
        sound = False
    if not sound or parts.username is not None or len(url) > 2000:
        raise StudioError(f"'{url[:100]}' is no address for a webhook: give one such as https://example.org/hook", 422)
    return parts._replace(netloc=place if parts.port is None else f"{place}:{parts.port}")


def _place(host: str) -> str:
    """A host or a network address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


async def reachable(url: str, allowed: Sequence[str] = ()) -> str:
    """The checked network address of a URL's host. `allowed`: host names and networks that may be internal.

    Raises StudioError 422: where the host has no address, where one of its addresses is not public, and for plain http.
    """
    parts = checked_parts(url)
    host = str(parts.hostname)
    port = parts.port or PORTS[parts.scheme]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise StudioError(f"The host {host} has no address now: check its name", 422) from error
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        if {host, urlsplit(url).hostname} & set(allowed) or any(_within(address, network) for network in allowed):
            continue
        if not _public(address):
            raise StudioError(
                f"{host} leads to {address}, which is no public address: a webhook may not lead into this network. "
                "The setting --webhook-allow names exceptions.",
                422,
            )
        if parts.scheme != "https":
            raise StudioError(f"{url[:100]} is not encrypted: give an https address", 422)
    return str(addresses[0])


def _public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        if address in TRANSLATED or address.teredo is not None:
            return False
        if inner := address.ipv4_mapped or address.sixtofour:
            return _public(inner)
    return address.is_global and not address.is_multicast


def _within(address: IPv4Address | IPv6Address, network: str) -> bool:
    try:
        return address in ip_network(network)
    except ValueError:  # a host's name
        return False


def signed(parcel: Parcel, moment: datetime) -> dict[str, str]:
    """The headers of one attempt. `moment` has a time zone."""
    return {
        "content-type": "application/json",
        "user-agent": "tutelage-studio",
        "webhook-id": parcel.id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Signer(parcel.secret).sign(parcel.id, moment.astimezone(UTC), parcel.body),
    }


def new_client() -> httpx.AsyncClient:
    """A client that follows no redirect and asks no proxy: the address that was checked is the one it goes to."""
    return httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False)


class Courier:
    """Sends what is in the outbox, as long as the studio runs."""

    def __init__(self, outbox: Outbox, allowed: Sequence[str] = ()) -> None:
        """`allowed`: host names and networks that may be internal."""
        self._outbox, self._allowed = outbox, tuple(allowed)
        self._tidied = 0.0

    async def run(self) -> None:
        """Deliver until cancelled. Whatever fails is logged, and tried again: nobody would miss a courier that died."""
        async with new_client() as client:
            while True:
                [busy] = await asyncio.gather(self._round(client), return_exceptions=True)
                if isinstance(busy, BaseException):
                    LOG.warning("webhooks: %s", busy, exc_info=None if isinstance(busy, TutelageError) else busy)
                    busy = 0
                if not busy:
                    await asyncio.sleep(PAUSE_SECONDS)

    async def _round(self, client: httpx.AsyncClient) -> int:
        """Deliver once, and tidy the log once an hour."""
        busy = await self.deliver(client)
        moment = asyncio.get_running_loop().time()
        if moment - self._tidied > TIDY_SECONDS:
            await asyncio.to_thread(self._outbox.forget)
            self._tidied = moment
        return busy

    async def deliver(self, client: httpx.AsyncClient) -> int:
        """Send what is due now, once. Returns how many attempts were made."""
        parcels = await asyncio.to_thread(self._outbox.claim)
        await asyncio.gather(*(self._send(client, parcel) for parcel in parcels))
        return len(parcels)

    async def _send(self, client: httpx.AsyncClient, parcel: Parcel) -> None:
        """One attempt, settled whatever went wrong: what is not settled stays due for ever."""
        [met] = await asyncio.gather(self._attempt(client, parcel), return_exceptions=True)
        match met:
            case (status, wait):
                await asyncio.to_thread(self._outbox.settle, parcel, status, "", wait)
            case StudioError():
                await asyncio.to_thread(self._outbox.settle, parcel, None, str(met))
            case _:
                await asyncio.to_thread(self._outbox.settle, parcel, None, f"{type(met).__name__}: {met}")

    async def _attempt(self, client: httpx.AsyncClient, parcel: Parcel) -> tuple[int, float | None]:
        """The status that was answered, and the seconds that the receiver asks to wait."""
        parts = checked_parts(parcel.url)
        place = _place(await reachable(parcel.url, self._allowed))
        target = urlunsplit((parts.scheme, f"{place}:{parts.port or PORTS[parts.scheme]}", *parts[2:4], ""))
        headers = signed(parcel, datetime.now(UTC)) | {"host": parts.netloc}
        async with client.stream(
            "POST",
            target,
            content=parcel.body.encode(),
            headers=headers,
            extensions={"sni_hostname": parts.hostname},
        ) as answer:  # a stream, so that a body without end is never read
            asked = answer.headers.get("retry-after", "")
            return answer.status_code, float(asked) if asked.isdecimal() else None
