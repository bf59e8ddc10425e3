"""Our side of a benchmark row twice, step by step in turns on the same batches: what a change or a switch brings.

    python benchmarks/in_turns.py sft 8 --a TUTELAGE_KERNELS=off
    python benchmarks/in_turns.py sft 8 --untuned_a
    python benchmarks/in_turns.py reward 8 --tree_a ../before

Prints seconds a step, their ratio (median of the steps', least and greatest), the peaks of memory and the last losses
of a, which is given something else, and of b, which is as it is.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

from tutelage.bench.sides import Side, our_command
from tutelage.bench.work import ROWS, BenchConfig, environment, task
from tutelage.model.causal import load, model_folder

HERE = Path(__file__).resolve().parents[1]


def asked() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("steps", type=int)
    parser.add_argument("--a", nargs="*", default=[], metavar="NAME=VALUE", help="environment of a alone")
    parser.add_argument("--tree_a", type=Path, default=HERE, help="sources of a")
    parser.add_argument("--untuned_a", action="store_true", help="a without the memory settings")
    return parser.parse_args()


def main() -> None:
    """Run it."""
    given = asked()
    config, folder = BenchConfig(steps=given.steps, rounds=1), model_folder("smollm2-135m")
    model = load(folder)
    dtype = str(model.decoder.compute).removeprefix("torch.")
    work = task(given.row, config, model=str(folder), dtype=dtype, vocabulary=model.decoder.config.vocab_size)
    del model
    with tempfile.TemporaryDirectory() as place:
        command = [*our_command(), str(work.write(Path(place) / "task.json"))]
        plain = environment(config) | {"PYTHONPATH": str(HERE)}
        other = environment(config.model_copy(update={"tuned": not given.untuned_a}))
        other |= {"PYTHONPATH": str(given.tree_a.resolve()), **dict(one.split("=", 1) for one in given.a)}
        sides = [Side.start(name, command, Path(place), env) for name, env in (("a", other), ("b", plain))]
        first = [side.turn(1) for side in sides]
        turns = [[side.turn(1) for side in sides] for _ in range(given.steps)]
        for side in sides:
            side.end()
    seconds = [[turn.seconds[0] for turn in one] for one in zip(*turns, strict=True)]
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    for name, side, before, mine, last in zip("ab", sides, first, seconds, turns[-1], strict=True):
        print(
            f"{name}: {median(mine):.2f} s a step, {last.peak_bytes / 2**30:.2f} GiB; first step done after "
            f"{side.load_seconds + before.seconds[0]:.1f} s; loss {last.losses[-1] if last.losses else '–'}"
        )
    print(f"{given.row}: a takes {median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] times as long as b")


if __name__ == "__main__":
    main()
