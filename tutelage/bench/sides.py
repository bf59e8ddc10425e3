"""The two sides as processes that take turns, and the environments the other side runs in."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tutelage.errors import ModelError
from tutelage.model.download import cache_root

SCRIPTS = Path(__file__).parent / "peers"
NEEDS = {  # peer → what its environment holds beside torch
    "trl": ("trl==1.16.0",),
    "trl_ppo": ("trl==1.12.0",),
    "transformers": ("trl==1.16.0",),
}
SCRIPT = {"trl": "trl_side.py", "trl_ppo": "trl_side.py", "transformers": "transformers_side.py"}


@dataclass
class Turn:
    """What a side did in one turn."""

    seconds: list[float]
    cpu_seconds: list[float]
    losses: list[float]  # of all steps so far
    peak_bytes: int


@dataclass
class Side:
    """One side at work."""

    name: str
    process: subprocess.Popen[str]
    log: Path  # what it says on standard error
    began: float
    versions: dict[str, str] = field(default_factory=dict)
    load_seconds: float = 0.0
    """From the start of the process until it could make its first step."""

    @classmethod
    def start(cls, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> "Side":
        """Start it and wait until it is ready. Raises ModelError with its last words when it ends instead."""
        log = folder / f"{name.replace(' ', '-')}.log"
        with log.open("w", encoding="utf-8") as said:
            process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                env=dict(environment), cwd=folder,
            )  # fmt: skip
        side = cls(name, process, log, time.perf_counter())
        try:
            side.versions = side._hear()
        except BaseException:
            side.end()
            raise
        side.load_seconds = time.perf_counter() - side.began
        return side

    def turn(self, steps: int) -> Turn:
        """Let it make so many steps while the others wait. Raises ModelError when it ends instead."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"steps": steps}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `_hear` says how it ended
        return Turn(**self._hear())

    def end(self) -> None:
        """Close its input, which is the end of its work."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                stream.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise ModelError(f"{self.name} ended with status {status}: {' / '.join(last) or 'it said nothing'}")
        found: dict[str, Any] = json.loads(line)
        return found


def our_command() -> list[str]:
    """What starts our side; the path of the task is added."""
    return [sys.executable, "-m", "tutelage.bench.ours"]


def peer_command(peer: str, environments: Path | None = None) -> list[str]:
    """What starts the other side, in its own environment, which is made where there is none yet.

    Raises ModelError when pip can't make it.
    """
    return [str(peer_python(peer, environments)), str(SCRIPTS / SCRIPT[peer])]


def peer_python(peer: str, environments: Path | None = None) -> Path:
    """The interpreter of the peer's environment. It holds the very torch and transformers that we run with."""
    ours = {name: version(name).partition("+")[0] for name in ("torch", "transformers")}
    wanted = [f"{name}=={number}" for name, number in ours.items()] + list(NEEDS[peer])
    name = "-".join([NEEDS[peer][0].replace("==", "-"), *(f"{n}-{v}" for n, v in ours.items())])
    home = (environments or cache_root() / "bench") / name
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = home / "complete"
    if not done.exists():
        print(f"Making the environment {home} with {', '.join(wanted)}", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(home)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
        done.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    return python


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise ModelError(f"the peer's environment could not be made ({' '.join(command[:4])} …): {last[0]}")
