"""Many raters at once: is anything lost or doubled, and how long does a rater wait?

    python benchmarks/studio_load.py --raters 100 --items 1000 --think 3
    python benchmarks/studio_load.py --database postgresql://user@/name?host=/socket --workers 4

Starts the studio on this machine over a database of its own, and as many simulated raters as asked for, each with a
connection and a token. A rater asks for the next item, thinks, and answers; one answer in twenty is sent twice, as a
browser does after a lost reply. At the end the store is counted against what the studio said was saved. Nobody real
judged anything here.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SENT_TWICE = 0.05
STORE = "STUDIO_LOAD_STORE"


def made() -> Any:
    """The app, for each worker process of uvicorn."""
    from tutelage.studio.app import create_app
    from tutelage.studio.room import StudioSettings

    return create_app(os.environ[STORE], None, StudioSettings(api_rate=1000.0))


@dataclass
class Tally:
    """What all raters saw."""

    saved: list[tuple[str, str, str]] = field(default_factory=list)  # (rater, item, answer) the studio said it has
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"next": [], "answer": []})
    failures: Counter[str] = field(default_factory=Counter)


class Connection:
    """HTTP/1.1 over one socket, kept open: as little work as can be, since the studio shares the machine."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.token = port, token
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        sent = json.dumps(body).encode()
        head = (
            f"POST /api{path} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nauthorization: Bearer {self.token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(sent)}\r\n\r\n"
        )
        fresh = self.streams is None
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            return await self._exchange(head.encode() + sent)
        except (asyncio.IncompleteReadError, ConnectionError):  # kept open too long: the studio closed it
            self.streams = None
            if fresh:
                raise
            return await self.post(path, body)

    async def _exchange(self, request: bytes) -> tuple[int, Any]:
        assert self.streams is not None
        reader, writer = self.streams
        writer.write(request)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        found = await reader.readexactly(int(headers.get("content-length", 0)))
        return int(lines[0].split()[1]), json.loads(found) if found else None


async def rate(rater: str, connection: Connection, items: int, think: float, tally: Tally) -> None:
    """One rater's sitting: up to `items` answers, `think` seconds each on average."""
    rng = random.Random(rater)
    await asyncio.sleep(rng.uniform(0, think))
    done = 0
    while done < items:
        started = time.perf_counter()
        status, given = await connection.post("/work/next", {})
        tally.seconds["next"].append(time.perf_counter() - started)
        if status != 200:
            tally.failures[f"next {status}"] += 1
            await asyncio.sleep(1.0)
            continue
        item = given["item"]
        if item is None:
            return
        await asyncio.sleep(rng.expovariate(1 / think) if think else 0.0)
        order = sorted(item["texts"])
        ranks = [order.index(text) + 1 for text in item["texts"]]
        body = {"key": f"{rng.getrandbits(128):032x}", "answer": {"type": "ranked", "ranks": ranks}, "seconds": think}
        for _ in range(2 if rng.random() < SENT_TWICE else 1):
            started = time.perf_counter()
            status, saved = await connection.post(f"/work/items/{item['id']}/answer", body)
            tally.seconds["answer"].append(time.perf_counter() - started)
        if status != 200:
            tally.failures[f"answer {status}"] += 1
            continue
        tally.saved.append((rater, item["id"], saved["id"]))
        done += 1


def fill(url: str, raters: int, items: int, overlap: int) -> dict[str, str]:
    """People with tokens, and a batch with just enough questions for all of them. Returns tokens by rater."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from studio_api import enrol, issue, question

    from tutelage.feedback.batches import Batches
    from tutelage.feedback.store import Store
    from tutelage.feedback.work import BatchSpec

    with Store(url) as store:
        people = [enrol(store, "rater") for _ in range(raters)]
        spec = BatchSpec(
            name="load",
            kind="comparison",
            overlap=overlap,
            overlap_share=1,
            most_answers=overlap,
            gold_share=0,
            repeat_share=0,
        )
        Batches(store).open(spec, [question(i) for i in range(raters * items // overlap)])
        return {person.id: issue(store, person, ["label"]) for person in people}


def recount(url: str, tally: Tally, overlap: int) -> dict[str, int]:
    """The store against what was said to be saved."""
    from studio_api import labels_by_answer

    from tutelage.feedback.store import Store

    with Store(url) as store:
        kept = [(c.id, c.annotator.id, c.prompt.id) for c in store.comparisons()]
        labels = labels_by_answer(store)
    said = {label for _, _, answer in tally.saved for label in labels.get(answer, [answer])}
    asked = Counter(prompt for _, _, prompt in kept)
    return {
        "answers said to be saved": len(tally.saved),
        "labels in the store": len(kept),
        "lost": len(said - {id for id, _, _ in kept}),
        "not asked for": len({id for id, _, _ in kept} - said),
        "doubled": len(kept) - len({(rater, prompt) for _, rater, prompt in kept}),
        "items with more answers than wanted": sum(count > overlap for count in asked.values()),
    }


async def load(port: int, tokens: dict[str, str], items: int, think: float) -> tuple[Tally, float]:
    tally, started = Tally(), time.perf_counter()
    await asyncio.gather(*(rate(who, Connection(port, token), items, think, tally) for who, token in tokens.items()))
    return tally, time.perf_counter() - started


def serve(url: str, port: int, workers: int) -> subprocess.Popen[bytes]:
    """The studio in processes of its own, when it answers."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from tutelage.studio.serving import run; "
    code += f"run('studio_load:made', '127.0.0.1', {port}, {workers})"
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, STORE: url})
    for _ in range(6000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.1)
    process.kill()
    raise SystemExit("the studio did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raters", type=int, default=100)
    parser.add_argument("--items", type=int, default=100, help="answers of each rater")
    parser.add_argument("--think", type=float, default=3.0, help="mean seconds that a rater thinks, exponential")
    parser.add_argument("--overlap", type=int, default=2, help="answers wanted of each item")
    parser.add_argument("--workers", type=int, default=1, help="processes of the studio")
    parser.add_argument("--database", help="URL of an empty database; without it a SQLite file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        url = args.database or str(Path(folder) / "feedback.db")
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        tokens = fill(url, args.raters, args.items, args.overlap)
        process = serve(url, port, args.workers)
        try:
            tally, seconds = asyncio.run(load(port, tokens, args.items, args.think))
        finally:
            process.terminate()
            process.wait()
        print(json.dumps({**vars(args), "database": "PostgreSQL" if args.database else "SQLite"}))
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = 1e3 * (used.ru_utime + used.ru_stime) / len(tally.saved)
        print(f"{seconds:.0f} s, {len(tally.saved) / seconds:.1f} answers a second, failures {dict(tally.failures)}")
        print(f"the studio's processor time: {cpu:.0f} ms for each answer, starting included")
        for name, taken in tally.seconds.items():
            cuts = statistics.quantiles(taken, n=100)
            told = ", ".join(f"p{p} {cuts[p - 1] * 1e3:.0f}" for p in (50, 95, 99))
            print(f"{name:7} {told}, most {max(taken) * 1e3:.0f} ms, n = {len(taken)}")
        for what, count in recount(url, tally, args.overlap).items():
            print(f"{what}: {count}")


if __name__ == "__main__":
    main()
