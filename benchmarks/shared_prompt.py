"""What reading a prompt once for all its completions saves, and what it changes: nothing but time.

    python benchmarks/shared_prompt.py --layers 8 --width 384

Reward-model updates on made-up rankings of K, whole and shared, in turns in one process: tokens, seconds of processor
time (median, least and greatest), and the largest difference of loss and gradient.
"""

import argparse
import random
import statistics
import time

import torch
from torch import Tensor

from tutelage.bench.growth import shape
from tutelage.learn.reward import Groups, Ranking, RewardConfig, reward_loss
from tutelage.model.decoder import Decoder
from tutelage.model.heads import Head, Scorer

VOCABULARY, PROMPT, ANSWER, PROMPTS = 4096, 64, (32, 192), 2
CONFIG = RewardConfig()


def rankings(k: int, seed: int) -> list[Ranking]:
    """PROMPTS rankings of K completions."""
    r = random.Random(seed)
    made = []
    for _ in range(PROMPTS):
        prompt = [r.randrange(VOCABULARY) for _ in range(PROMPT)]
        answers = [[r.randrange(VOCABULARY) for _ in range(r.randint(*ANSWER))] for _ in range(k)]
        made.append(Ranking(tuple((*prompt, *a) for a in answers), tuple(range(1, k + 1)), None, None))
    return made


def update(scorer: Scorer, groups: Groups) -> tuple[float, float, Tensor]:
    """Processor seconds, loss, and the gradient of the lowest layer's first matrix."""
    since = time.process_time()
    loss = reward_loss(scorer, groups, CONFIG)[0]
    loss.backward()  # type: ignore[no-untyped-call]
    taken = time.process_time() - since
    slope = next(scorer.decoder.layers.parameters()).grad
    assert slope is not None
    slope = slope.clone()
    scorer.zero_grad(set_to_none=True)
    return taken, loss.item(), slope


def main() -> None:
    """One line for each K."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    decoder = Decoder(shape(given.layers, given.width, VOCABULARY)).initialise(torch.Generator().manual_seed(0))
    scorer = Scorer(decoder, Head.reward(given.width, torch.Generator().manual_seed(0)))
    print(f"{sum(p.numel() for p in decoder.parameters()) / 1e6:.1f} M parameters, {torch.get_num_threads()} threads")
    for k in (2, 4):
        seconds: dict[bool, list[float]] = {False: [], True: []}
        tokens = {False: 0, True: 0}
        apart = 0.0
        for step in range(given.steps + 1):
            found = {}
            for share in (False, True):
                groups = Groups.of(rankings(k, step), CONFIG, share=share)
                found[share] = update(scorer, groups)
                if step:
                    seconds[share].append(found[share][0])
                    tokens[share] += len(groups.packed.tokens)
            slopes = found[False][2], found[True][2]
            apart = max(apart, float((slopes[0] - slopes[1]).norm() / slopes[0].norm()))
            assert abs(found[False][1] - found[True][1]) < 1e-4
        ratios = [a / b for a, b in zip(seconds[False], seconds[True], strict=True)]
        print(
            f"K = {k}: tokens {tokens[False]} → {tokens[True]} (−{1 - tokens[True] / tokens[False]:.0%}), seconds "
            f"{statistics.median(seconds[False]):.3f} → {statistics.median(seconds[True]):.3f}, "
            f"ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}], "
            f"gradients apart by {apart:.1e} of their norm",
            flush=True,
        )


if __name__ == "__main__":
    main()
