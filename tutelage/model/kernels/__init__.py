"""C++ for the passes over memory between matrix products, on the CPU: compiled once on a machine, in a second or two.

Optional: without a compiler that knows OpenMP, or with `TUTELAGE_KERNELS=off`, everything runs in PyTorch alone. Every
function has a twin there that tests compare it with: `pieces.py`, `sample/cache.py`, `sample/draw.py`. What is compiled
is kept in the cache folder, under a name that says sources, flags, compiler and processor: it is never used elsewhere.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.model.download import cache_root

SWITCH = "TUTELAGE_KERNELS"
SOURCES = ("pieces.cpp", "attention.cpp", "decode.cpp", "product.cpp")
PANEL = 48  # words of a panel in product.cpp
PATIENCE = 120.0  # seconds for a compiler
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fPIC", "-fopenmp",
    "-fno-strict-aliasing",  # bf16 numbers are read as bits, and two at a time
    # what vectorising sums asks for, NaN and infinity kept
    "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math",
)  # fmt: skip
TYPES: dict[str, Any] = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "f": ctypes.c_float, "i": ctypes.c_int}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""Types of a matrix product's inputs that there are kernels for."""


@cache
def library() -> ctypes.CDLL | None:
    """What was compiled; None where it is switched off or can't be. Says so once when a compiler fails."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX") or "c++", "g++", "clang++"))), None)
    if os.environ.get(SWITCH) == "off" or compiler is None:
        return None
    try:
        folder, key = cache_root() / "kernels", _key(compiler)
        return ctypes.CDLL(str(_whole(folder, key) or _compile(compiler, folder, key)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        first = next(iter(said.strip().splitlines()), type(error).__name__)
        warnings.warn(f"slower without compiled kernels ({compiler}: {first}); {SWITCH}=off says no more", stacklevel=2)
        return None


@cache
def has_products() -> bool:
    """Whether products with a few rows are faster here by a kernel of ours."""
    found = library()
    return found is not None and bool(found.has_products())


def _key(compiler: str) -> str:
    said = _said(compiler, "--version", check=False)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else [platform.processor()]
    processor = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    digest = hashlib.sha256("\n".join((said, processor, platform.machine(), *FLAGS)).encode())
    for file in sorted(Path(__file__).parent.glob("*.[ch]*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _said(*command: str, cwd: Path | None = None, check: bool = True) -> str:
    """What a compiler prints. Raises SubprocessError when it takes longer than PATIENCE or, with `check`, fails."""
    return subprocess.run(
        command, check=check, capture_output=True, text=True, errors="replace", timeout=PATIENCE, cwd=cwd
    ).stdout


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _whole(folder: Path, key: str) -> Path | None:
    """What was compiled before and is as it was then: what the name says; a part of a library would end the process."""
    return next((path for path in folder.glob(f"{key}-*.so") if path.stem == f"{key}-{_digest(path)}"), None)


def _compile(compiler: str, folder: Path, key: str) -> Path:
    """Compile elsewhere, and put it under its name when it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        with ThreadPoolExecutor() as pool:  # side by side
            parts = [(compiler, *FLAGS, "-c", str(Path(__file__).parent / source)) for source in SOURCES]
            list(pool.map(lambda part: _said(*part, cwd=place), parts))
        objects = [str(Path(source).with_suffix(".o")) for source in SOURCES]
        _said(compiler, *FLAGS, "-shared", *objects, "-o", "whole.so", cwd=place)
        path = folder / f"{key}-{_digest(place / 'whole.so')}.so"
        (place / "whole.so").replace(path)
    return path


@cache
def _function(name: str, signature: str) -> Callable[..., None]:
    found = library()
    assert found is not None
    function = found[name]
    function.argtypes, function.restype = [TYPES[letter] for letter in signature], None
    out: Callable[..., None] = function
    return out


def call(name: str, low: torch.dtype, signature: str, *arguments: Tensor | float | None) -> None:
    """Call a kernel for this type of inputs. `signature` has a letter an argument: p a contiguous tensor on the CPU or
    none, l a count, f a number; the number of threads is added."""
    assert all(x.device.type == "cpu" for x in arguments if isinstance(x, Tensor)), f"{name} is given a GPU's tensor"
    assert all(x.is_contiguous() for x in arguments if isinstance(x, Tensor)), f"{name} is given a tensor with gaps"
    given = [x.data_ptr() if isinstance(x, Tensor) else x for x in arguments]
    _function(f"{name}_{NAMES[low]}", signature + "i")(*given, torch.get_num_threads())
