"""How time and memory of the store and of a reward stage grow with the number of comparisons.

    python benchmarks/many_comparisons.py 1000 1000000

Each phase is a command of its own, so that its memory is its own: import a file of made-up pairs, stream the training
split once, train a reward model of the tiny decoder for 20 steps of 16, export everything again.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

STREAM = """
import sys
from tutelage.feedback.store import Store
with Store(sys.argv[1]) as store:
    print(sum(1 for _ in store.comparisons("train")), file=sys.stderr)
"""
TRAIN = ["--reward.steps", "20", "--reward.max_tokens", "128"]


def write_pairs(path: Path, count: int) -> None:
    """Short texts, a different prompt for every four pairs."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            good, bad = f" a quiet joy, number {i}, from beginning to end.", f" long, number {i}, and then some more."
            file.write(json.dumps({"prompt": f"Film {i // 4} was", "chosen": good, "rejected": bad}) + "\n")


def measure(name: str, command: Sequence[str]) -> None:
    """Run a command and print its wall seconds, CPU seconds and peak memory."""
    since = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{name} failed:\n{said.decode()[-2000:]}")
    wall, cpu = time.monotonic() - since, used.ru_utime + used.ru_stime
    print(f"  {name:28} {wall:8.1f} s wall {cpu:8.1f} s CPU {used.ru_maxrss / 1024:8.0f} MB", flush=True)


def main(count: int) -> None:
    """All phases for so many comparisons."""
    print(f"{count:,} comparisons", flush=True)
    tutelage = [sys.executable, "-m", "tutelage"]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pairs(folder / "pairs.jsonl", count)
        here = ["--project", place]
        subprocess.run([*tutelage, "init", place, "--model", "tiny"], check=True, stdout=subprocess.DEVNULL)
        measure("import", [*tutelage, "import", str(folder / "pairs.jsonl"), *here])
        print(f"  {'database':28} {(folder / 'tutelage.db').stat().st_size / 1e6:8.0f} MB on disk", flush=True)
        measure("stream", [sys.executable, "-c", STREAM, str(folder / "tutelage.db")])
        measure("reward, 20 steps", [*tutelage, "reward", *TRAIN, *here])
        measure("export, preference", [*tutelage, "export", str(folder / "out.jsonl"), "--format", "preference", *here])


if __name__ == "__main__":
    for given in sys.argv[1:]:
        main(int(given))
