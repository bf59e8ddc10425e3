"""Memory settings that training gains from. They act only on a process that starts with them.

PyTorch asks for the same large blocks at every step. glibc gives each back to the system when it is freed, and the
system clears its pages when they are asked for again; huge pages make the clearing rarer. With these settings freed
blocks stay with the process.
"""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress

SWITCH = "TUTELAGE_ALLOCATOR"
SETTINGS = {
    "THP_MEM_ALLOC_ENABLE": "1",  # PyTorch: blocks of 2 MB and more lie where huge pages can hold them
    "MALLOC_MMAP_THRESHOLD_": "8000000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def has_glibc() -> bool:
    """Whether this is Linux with GNU's C library, the only one that reads these settings."""
    try:
        return sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError):
        return False


def missing(environment: Mapping[str, str]) -> dict[str, str]:
    """What a process in this environment lacks.

    Nothing where `TUTELAGE_ALLOCATOR` is off, somebody has chosen any of it already, or another allocator is loaded.
    """
    if environment.get(SWITCH) == "off" or environment.get("LD_PRELOAD") or SETTINGS.keys() & environment.keys():
        return {}
    return dict(SETTINGS) if has_glibc() else {}


def start_again() -> None:
    """Replace this process by the same command with the settings, and say so.

    Return where there is nothing to add, or where the command can't be given again: its program came in on standard
    input, or Python doesn't know where it lies itself.
    """
    added = missing(os.environ)
    if not added or not sys.executable or "-" in sys.orig_argv[1:] or len(sys.orig_argv) < 2:
        return
    print(f"Freed memory is kept for the next step ({SWITCH}=off to give it back).", file=sys.stderr, flush=True)
    with suppress(OSError):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **added})
