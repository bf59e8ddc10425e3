"""A run directory: one training run, from its settings to its weights. Append-only; nothing in it is ever lost.

run.json (kind, parents, status, versions) · config.yaml (itself a valid `--config`) · rows/ (which records it reads) ·
metrics.jsonl · samples.jsonl · eval.json · checkpoints/000200/ · model/ (the weights, Hugging Face layout)
"""

import fcntl
import json
import os
import platform
import random
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import yaml

from tutelage import __version__, checkpoint
from tutelage.config import Section
from tutelage.errors import CheckpointError, RunError

Status = Literal["running", "done", "interrupted", "failed"]
_held: dict[Path, int] = {}  # the runs this process writes: path -> the file descriptor of the lock


class Run:
    """One run directory that this process writes or reads. Make one by `start` or `open`."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path = path
        self.facts = facts  # the content of run.json
        self.keep = 2
        self.stop_requested = False
        self._since = time.monotonic()
        self._seconds_before: float = facts["seconds"]

    @classmethod
    def start(cls, root: Path, kind: str, config: Section, *, parents: Sequence[str] = (), command: str = "") -> "Run":
        """Make a new run directory under `root` and write its settings. Raises RunError when it cannot be made."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        path = Path(root) / f"{kind}-{stamp}-{secrets.token_hex(2)}"
        facts = {
            "kind": kind,
            "id": path.name,
            "parents": list(parents),
            "status": "running",
            "command": command or " ".join(sys.argv),
            "versions": _versions(),
            "started": datetime.now(UTC).isoformat(timespec="microseconds"),  # so that the newest of two is known
            "finished": None,
            "seconds": 0.0,
            "data": {},
        }
        try:
            path.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"cannot make the run directory {path}: {error}") from error
        run = cls(path, facts)
        run.hold()
        settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        checkpoint.write_atomically(path / "config.yaml", settings)
        run._write_facts()
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """An existing run, to resume or to read. Raises RunError when the folder is not a run."""
        return cls(Path(path), read_facts(Path(path)))

    @property
    def id(self) -> str:
        """The directory's name, such as `ppo-20261123-024500-1a2b`."""
        return self.path.name

    @property
    def final(self) -> Path:
        """Where a stage leaves its resulting weights (Hugging Face layout)."""
        return self.path / "model"

    def hold(self) -> None:
        """Let no other process write this run. Raises RunError when one does, or when it can't be written."""
        try:
            free = _acquire(self.path)
        except OSError as error:
            raise RunError(f"run {self.id} cannot be written: {error}. Mend its permissions.") from error
        if not free:
            raise RunError(f"run {self.id} is being written by another process: wait for it, or stop it first")

    def record(self, facts: Mapping[str, Any]) -> None:
        """Add to what run.json says under `data`: what the run learned from (store, counts, annotators)."""
        self.facts["data"] = {**self.facts["data"], **facts}
        self._write_facts()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl. Numbers that are not finite are recorded as they are."""
        self._append("metrics.jsonl", {"step": step, **{name: float(value) for name, value in metrics.items()}})

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append sampled texts, one line each, to samples.jsonl."""
        for row in rows:
            self._append("samples.jsonl", {"step": step, **row})

    def metrics(self) -> list[dict[str, float]]:
        """Every line of metrics.jsonl, oldest first; a line cut off by a crash is left out."""
        return read_lines(self.path / "metrics.jsonl")

    def save(self, step: int, state: Mapping[str, Any], write: Callable[[Path], None] | None = None) -> Path:
        """Write checkpoints/000200 for step 200: `state`, and whatever `write(folder)` adds to it, such as weights.

        All or nothing, and the newest two are kept. Raises RunError when the disk is full; the last good one stays.
        """
        for name in ("metrics.jsonl", "samples.jsonl"):
            if (self.path / name).exists():
                checkpoint.sync(self.path / name)
        folder = checkpoint.save(self.path / "checkpoints", step, state, write, keep=self.keep)
        self._write_facts()
        return folder

    def restore(self) -> tuple[int, dict[str, Any], Path] | None:
        """Step, state and folder of the newest whole checkpoint, or None when there is none.

        Metrics and samples written after it are cut off, so that going on repeats nothing. Warns when it had to fall
        back. Raises RunError when another process writes this run, CheckpointError when no checkpoint is whole.
        """
        self.hold()
        found = checkpoint.newest(self.path / "checkpoints")
        for name in ("metrics.jsonl", "samples.jsonl"):
            _cut(self.path / name, found[0] if found else -1)
        self.facts |= {"status": "running", "finished": None}
        self._write_facts()
        if found is None:
            return None
        step, folder = found
        import torch

        try:
            state = torch.load(folder / checkpoint.STATE, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"cannot read {folder / checkpoint.STATE}: {error}") from error
        return step, state, folder

    def leave(self, write: Callable[[Path], None]) -> None:
        """Leave the run's result in `final`, whole or not at all. Raises RunError when the disk is full."""
        checkpoint.replace_folder(self.final, write)

    def evaluate(self, numbers: Mapping[str, Any]) -> None:
        """Write eval.json: numbers with their intervals and counts."""
        checkpoint.write_atomically(self.path / "eval.json", json.dumps(numbers, indent=1, ensure_ascii=False))

    def finish(self, status: Literal["done", "interrupted", "failed"] = "done") -> None:
        """Close the run: write its status and duration to run.json, and let other processes have it."""
        self.facts |= {"status": status, "finished": datetime.now(UTC).isoformat(timespec="seconds")}
        self._write_facts()
        _release(self.path)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within it, the first Ctrl-C sets `stop_requested`, the second raises KeyboardInterrupt. Main thread only."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request(_signal: int, _frame: FrameType | None) -> None:
            if self.stop_requested:
                raise KeyboardInterrupt
            self.stop_requested = True
            print("\nStopping: saving first. Ctrl-C again stops at once.", file=sys.stderr)

        before = signal.signal(signal.SIGINT, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        line = json.dumps(row, ensure_ascii=False) + "\n"
        try:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise RunError(f"cannot write {self.path / name}: {error}. Free some disk space, then resume.") from error

    def _write_facts(self) -> None:
        self.facts["seconds"] = round(self._seconds_before + time.monotonic() - self._since, 1)
        checkpoint.write_atomically(self.path / "run.json", json.dumps(self.facts, indent=1, ensure_ascii=False))


def read_facts(path: Path) -> dict[str, Any]:
    """The content of a run's run.json. Raises RunError when the folder is not a run."""
    try:
        facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is not a run: it has no run.json") from error
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path / 'run.json'}: {error}") from error
    if not isinstance(facts, dict) or not {"kind", "parents", "status", "started", "seconds"} <= facts.keys():
        raise RunError(
            f"{path / 'run.json'} does not describe a run: it lacks kind, parents, status, started or seconds"
        )
    return {"data": {}, "command": "", "finished": None} | facts


def is_held(path: Path) -> bool:
    """Whether some process, this one included, is writing the run."""
    if path.resolve() in _held:
        return True
    try:
        if not _acquire(path):
            return True
    except OSError:  # of somebody else, without a lock that we may see
        return False
    _release(path)
    return False


def _acquire(path: Path) -> bool:
    """Take the run's lock for this process; the system lets go of it when the process dies, however it dies."""
    key = path.resolve()
    if key in _held:
        return True
    try:
        handle = os.open(key / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        handle = os.open(key / ".lock", os.O_RDONLY)  # of a folder that is only to be read
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    _held[key] = handle
    return True


def _release(path: Path) -> None:
    handle = _held.pop(path.resolve(), None)
    if handle is not None:
        os.close(handle)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"tutelage": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole JSON lines of a file; a last line without its end is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in checkpoint.lines_of(path) if line.endswith("\n")]


def _cut(path: Path, step: int) -> None:
    """Keep the lines up to `step`."""
    if not path.exists():
        return
    kept = [row for row in read_lines(path) if row["step"] <= step]
    checkpoint.write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))


def rng_state() -> dict[str, Any]:
    """The state of every global random generator (Python, numpy, torch and its GPUs), as a checkpoint can hold it."""
    import numpy as np
    import torch

    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (str(kind), [int(k) for k in keys], int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put every global random generator back to where `rng_state` found it."""
    import numpy as np
    import torch

    number, internal, gauss_next = state["python"]
    random.setstate((number, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
