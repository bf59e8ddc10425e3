"""A folder that is either whole or not there: how a checkpoint is written, checked, replaced and dropped.

Written under a temporary name, every file synced, checksums last, renamed, the parent synced. Whatever kills the
process, at any moment, the newest whole checkpoint is still under its name.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from tutelage.errors import CheckpointError, RunError

SEAL = "complete.json"
STATE = "state.pt"
TEMPORARY = ".writing-"
REPLACED = ".replaced"  # the checkpoint of the same step that a newer one is about to take the place of
CORRUPT = ".corrupt"


def sync(path: Path) -> None:
    """Force a file or a directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file so that a reader sees the old content or the new, whatever crashes. Raises RunError."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(f"cannot write {path}: {error}. Free some disk space or mend its permissions.") from error


def lines_of(path: Path) -> list[str]:
    """The lines of a text in UTF-8 with their ends. `splitlines` would end them at U+2028 too, which texts may hold."""
    with path.open(encoding="utf-8") as file:
        return list(file)


def replace_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Make a folder of what `write` puts into it, in the place of the one that is there; all or nothing.

    Raises RunError when it cannot be written (a full disk).
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _written(temporary, write)
        for file in _files(temporary):
            sync(file)
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise RunError(f"cannot write {path}: {error}. Free some disk space, then resume.") from error


def save(
    root: Path, step: int, state: Mapping[str, Any], write: Callable[[Path], None] | None = None, *, keep: int = 2
) -> Path:
    """Write `root/000200` for step 200 and drop all but the newest `keep`.

    `state` must be readable by `torch.load(weights_only=True)`: tensors, numbers, strings, lists, dicts.
    Raises RunError when it cannot be written (a full disk); the checkpoints before stay as they were.
    """
    target, temporary = root / f"{step:06d}", root / f"{TEMPORARY}{step:06d}-{os.getpid()}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _fill(temporary, state, write)
        _seal(temporary, step)
        replaced = target.with_name(target.name + REPLACED)
        if target.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
        temporary.rename(target)
        sync(root)
        shutil.rmtree(replaced, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        good = [name.name for name in complete(root)]
        last = (
            f"The last good checkpoint, step {int(good[0].split('.')[0])}, is kept"
            if good
            else "There is none before it"
        )
        raise RunError(
            f"cannot write checkpoint {target}: {error}. {last}. Free some disk space, then resume."
        ) from error
    for old in complete(root)[keep:]:
        _drop(old)
    return target


def _fill(folder: Path, state: Mapping[str, Any], write: Callable[[Path], None] | None) -> None:
    import torch

    with open(folder / STATE, "wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:  # torch's zip writer reports a failed write so
            raise OSError(f"{STATE}: {error}") from error
    try:
        torch.load(folder / STATE, weights_only=True, mmap=True, map_location="cpu")
    except UnpicklingError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise TypeError(f"this state could not be loaded again, so it is no checkpoint: {error}") from error
    if write is not None:
        _written(folder, write)


def _written(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill the folder; safetensors reports a failed write in its own way."""
    from safetensors import SafetensorError

    try:
        write(folder)
    except SafetensorError as error:
        raise OSError(f"weights: {error}") from error


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SEAL)


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(folder: Path, step: int) -> None:
    files = _files(folder)
    for path in files:
        sync(path)
    sums = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": _sum(p)} for p in files}
    seal = folder / SEAL
    seal.write_text(json.dumps({"step": step, "files": sums}, indent=1), encoding="utf-8")
    sync(seal)
    for directory in (p for p in folder.rglob("*") if p.is_dir()):
        sync(directory)
    sync(folder)


def verify(folder: Path) -> int:
    """The step of a whole checkpoint. Raises CheckpointError saying which file is missing or differs."""
    seal = folder / SEAL
    try:
        found = json.loads(seal.read_text(encoding="utf-8"))
        step, files = int(found["step"]), dict(found["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {folder} is incomplete: {SEAL} cannot be read ({error})") from error
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"checkpoint {folder} is corrupt: {name} is missing")
        if path.stat().st_size != expected["bytes"]:
            raise CheckpointError(
                f"checkpoint {folder} is corrupt: {name} has {path.stat().st_size} bytes, not {expected['bytes']}"
            )
        if _sum(path) != expected["sha256"]:
            raise CheckpointError(f"checkpoint {folder} is corrupt: the checksum of {name} differs")
    return step


def complete(root: Path) -> list[Path]:
    """The sealed checkpoints, newest first. A replaced one comes right after the one that replaces it."""
    if not root.is_dir():
        return []
    names = [p for p in root.iterdir() if p.name.removesuffix(REPLACED).isdigit() and (p / SEAL).is_file()]
    return sorted(names, key=lambda p: (int(p.name.removesuffix(REPLACED)), p.suffix != REPLACED), reverse=True)


def newest(root: Path) -> tuple[int, Path] | None:
    """The newest checkpoint whose checksums are right, and its step; leftovers of interrupted writes are dropped.

    A corrupt one is renamed to `….corrupt` with a warning, and the one before it is taken. Raises CheckpointError
    when there are checkpoints and none is whole; returns None when there are none.
    """
    for leftover in root.glob(f"{TEMPORARY}*") if root.is_dir() else ():
        shutil.rmtree(leftover, ignore_errors=True)
    candidates = complete(root)
    for folder in candidates:
        try:
            step = verify(folder)
        except CheckpointError as error:
            aside = folder.with_name(folder.name + CORRUPT)
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
            warnings.warn(f"{error}. Falling back to the checkpoint before it.", stacklevel=3)
            continue
        for superseded in root.glob(f"*{REPLACED}"):
            if superseded != folder:
                _drop(superseded)
        return step, _settle(folder)
    if candidates:
        raise CheckpointError(
            f"none of the {len(candidates)} checkpoints in {root} is whole: this run cannot be resumed."
        )
    return None


def _settle(folder: Path) -> Path:
    """Give a checkpoint that was moved aside for a newer one, which never arrived, its own name again."""
    if folder.suffix != REPLACED:
        return folder
    return folder.rename(folder.with_suffix(""))


def _drop(folder: Path) -> None:
    aside = folder.with_name(f"{TEMPORARY}drop-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
