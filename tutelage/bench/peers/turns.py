"""Taking turns: a side makes so many steps, says how long each took, and waits to be asked again.

Standard library only: both sides of the benchmark speak by this file, the other one in an environment without us. Each
line read is `{"steps": n}`, and the end of input is the end of the work. Each line written is JSON; whatever libraries
print goes to standard error.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any


def _cuda() -> Any:
    """torch.cuda where this side computes there."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


class Turns:
    """The clock of one side."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._left = 0
        self._seconds: list[float] = []
        self._cpu: list[float] = []

    def ready(self, **facts: Any) -> None:
        """Everything is loaded: say with which versions, and wait to be asked."""
        self._say(facts)
        self._wait()

    def step(self, losses: Sequence[float] = (), *, last: bool = False) -> None:
        """A step is made. `losses` are all so far; after the last step, `finish` says them."""
        if (cuda := _cuda()) is not None:
            cuda.synchronize()
        self._seconds.append(time.perf_counter() - self._since)
        self._cpu.append(time.process_time() - self._cpu_since)
        self._left -= 1
        if self._left == 0 and not last:
            self.finish(losses)
            self._wait()
        self._start()

    def finish(self, losses: Sequence[float] = ()) -> None:
        """Say how long the steps of this turn took, wall and CPU seconds, and the largest memory so far: the process's,
        or on CUDA what torch held of the device's."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if (cuda := _cuda()) is not None:
            peak = cuda.max_memory_reserved()
        self._say({"seconds": self._seconds, "cpu_seconds": self._cpu, "losses": list(losses), "peak_bytes": peak})
        self._seconds, self._cpu = [], []

    def _start(self) -> None:
        self._since, self._cpu_since = time.perf_counter(), time.process_time()

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        self._left = int(json.loads(line)["steps"])
        self._start()

    def _say(self, what: dict[str, Any]) -> None:
        self._out.write(json.dumps(what) + "\n")
        self._out.flush()
