"""DPO on a table of 64 responses whose optimum is known: KL to it over the steps, from all pairs, and from samples.

    PYTHONPATH=tests python benchmarks/dpo_table.py docs/dpo-table.png

Prints the table of docs/dpo.md and draws its curves.
"""

import sys
from statistics import mean, stdev

import matplotlib
import torch
from preference_worlds import WORLD, draw_pairs, fit, population, sampled

from tutelage.learn.preference_losses import DPO, IPO

matplotlib.use("agg")
import matplotlib.pyplot as plt

COUNTS, SEEDS, STEPS = (100_000, 10_000, 1_000), range(10), 300
MARKS = (1, 25, 50, 100, 150, 200, 250, 300)


def course(data, loss):
    """KL(π ‖ π*) in nats after so many steps of one and the same run, its rate constant."""
    found = []
    for steps in MARKS:
        policy, _ = fit(data, loss, steps=steps, rate=0.03, schedule="constant")
        found.append(WORLD.kl_to_optimum(policy))
    return found


def spread(values):
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.2g} ± {stdev(values):.1g}"


def main(path):
    torch.set_num_threads(1)
    _, axes = plt.subplots(figsize=(7, 3.6))
    print(f"reference: {WORLD.kl_to_optimum(WORLD.reference):.3f}")
    whole = fit(population(), DPO(beta=1.0), steps=STEPS)[0]
    print(f"all pairs, DPO: {WORLD.kl_to_optimum(whole):.1e}")
    for count in COUNTS:
        ends = {}
        for seed in SEEDS:
            unbeaten = 64 - len(set(draw_pairs(count, seed)[1].tolist()))
            policy, _ = fit(sampled(count, seed), DPO(beta=1.0), steps=STEPS)
            ends.setdefault(unbeaten > 0, []).append(WORLD.kl_to_optimum(policy))
        for never, values in ends.items():
            said = "some response never lost" if never else "every response lost once"
            shown = spread(values) if len(values) > 1 else f"{values[0]:.2g}"
            print(f"{count} pairs, {said}: {shown} ({len(values)} of {len(SEEDS)} seeds)")
    lines = {
        "all pairs": (population(), DPO(beta=1.0)),
        "10,000 pairs": (sampled(10_000, 0), DPO(beta=1.0)),
        "1,000 pairs, seed 0": (sampled(1_000, 0), DPO(beta=1.0)),
        "1,000 pairs, seed 29: one response never lost": (sampled(1_000, 29), DPO(beta=1.0)),
        "the same by IPO (τ = 1/2)": (sampled(1_000, 29), IPO(tau=0.5)),
    }
    for label, (data, loss) in lines.items():
        values = course(data, loss)
        print(label, [f"{v:.2g}" for v in values])
        axes.semilogy(MARKS, [max(v, 1e-7) for v in values], label=label, marker=".")
    axes.set_xlabel("step")
    axes.set_ylabel("KL to the optimum, nats")
    axes.legend(fontsize=7)
    plt.tight_layout()
    plt.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1])
