"""What is true of means over draws, not of each: where DPO on a thousand pairs goes to, and rankings against pairs.

    PYTHONPATH=tests python benchmarks/oracle_draws.py

Prints the figures of docs/dpo.md: minus log π* of whoever never lost, for references more and more uneven, and the
errors of scores estimated from whole rankings, from all their pairs, and from one pair of each.
"""

import numpy as np
import torch
from preference_worlds import WORLD, draw_pairs, unbeaten
from ranking_worlds import squared_errors

SPREADS, DRAWS, SEEDS = (0.05, 0.5, 1.0), 40, 200


def limits(spread):
    """−log π* of the responses that never lost, of those draws of 1,000 pairs in which there are some."""
    found = []
    for seed in range(DRAWS):
        logits = spread * torch.randn(64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        base = torch.log_softmax(logits, 0)
        champions = unbeaten(*draw_pairs(1000, seed, base))
        if champions:
            found.append(-float(torch.logsumexp(torch.log_softmax(base + WORLD.rewards, 0)[champions], 0)))
    return found


def main():
    for spread in SPREADS:
        found = limits(spread)
        said = f"{min(found):.1f} to {max(found):.1f}" if found else "none"
        print(f"reference's logits N(0, {spread}²): {len(found)} of {DRAWS} draws never end, KL goes to {said}")
    errors = np.array([squared_errors(seed) for seed in range(SEEDS)])
    print("RMSE of whole rankings, all pairs, one pair:", np.sqrt(errors.mean(0)).round(4))
    better = errors[:, 1] - errors[:, 0]
    print(f"rankings better than all pairs in {np.mean(better >= 0):.0%} of {SEEDS} draws")
    print(f"difference in squared error {better.mean():.2g} ± {better.std(ddof=1) / SEEDS**0.5:.1g}")


if __name__ == "__main__":
    main()
