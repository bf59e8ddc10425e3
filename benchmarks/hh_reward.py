"""A SmolLM2 reward model on HH-RLHF harmless-base, five folds, beside its baselines.

    python benchmarks/hh_reward.py ../shared/data/hh-rlhf/harmless-base-test.jsonl.gz

To fit a laptop, each dialogue keeps its last 64 tokens, the lower 28 of 30 layers stay as pretrained and are
run once for all folds, and the two on top are trained on Bradley-Terry pairs. Pairs of one dialogue stay in one fold.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from tutelage.evaluate.accuracy import bag_of_words_accuracy, longer_wins, pair_accuracy, text_pairs
from tutelage.feedback.exchange import import_file
from tutelage.feedback.store import Store
from tutelage.learn.learner import Learner, OptimizerConfig, Part
from tutelage.learn.reward import Groups, Ranking, RewardConfig, render
from tutelage.model import causal
from tutelage.model.adapters import Top, branch, trainable
from tutelage.model.batch import Packed, pick
from tutelage.model.heads import Head, Scorer, trunk
from tutelage.model.maths import pair_loss
from tutelage.progress import progress
from tutelage.records import Annotator

TOP = Top(layers=2)
CONFIG = RewardConfig(batch_size=32, optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=10))


class Pairs:
    """Some rankings with what enters the first trained layer, ready for the loss."""

    def __init__(self, rankings: list[Ranking], below: list[tuple[Tensor, Tensor]]) -> None:
        self.groups = Groups.of(rankings, CONFIG, share=False)
        self.hidden = torch.cat([h for pair in below for h in pair]).float()

    @property
    def units(self) -> int:
        """Dialogues."""
        return self.groups.units


def margin(scorer: Scorer, pairs: Pairs, start: int) -> Tensor:
    """r(better) − r(worse) of each pair, (P,)."""
    groups = pairs.groups
    score = scorer(groups.packed, groups.packed.last, hidden=pairs.hidden, start=start).score
    return score[groups.better] - score[groups.worse]


def train(
    model: causal.Model, rankings: list[Ranking], below: list[tuple[Tensor, Tensor]], epochs: int, seed: int
) -> Scorer:
    """A reward model trained on these pairs."""
    generator = torch.Generator().manual_seed(seed)
    decoder = branch(model.decoder, TOP, generator)
    head = Head.reward(decoder.config.hidden_size, generator)
    scorer, start = Scorer(decoder, head), decoder.config.num_layers - TOP.layers
    steps = epochs * len(rankings) // CONFIG.batch_size
    learner = Learner(trainable(decoder) | {"head": head.weight}, CONFIG.optimizer, steps)

    def loss(pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
        nll = pair_loss(margin(scorer, pairs, start), pairs.groups.target).sum()
        return nll, {"loss": nll}

    for step in range(steps):
        chosen = pick(len(rankings), CONFIG.batch_size, step, seed)
        learner.update(Part([Pairs([rankings[i] for i in chosen], [below[i] for i in chosen])], loss))
    return scorer


def main() -> None:
    """Print accuracy and baselines as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = causal.load("smollm2-135m")
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "hh.db") as store:
        import_file(args.file, "hh-rlhf", store, annotator=Annotator(id="hh", kind="human", name="HH-RLHF"))
        comparisons = list(store.comparisons())[: args.pairs]
    whole = [render(c, model.tokenizer, 4096) for c in comparisons]
    rankings = [Ranking(tuple(s[-args.tokens :] for s in r.sequences), r.ranks, None, None) for r in whole]
    start = model.decoder.config.num_layers - TOP.layers
    below: list[tuple[Tensor, Tensor]] = []
    with progress("Frozen layers", len(rankings)) as report:
        for at in range(0, len(rankings), 32):
            rows = [s for r in rankings[at : at + 32] for s in r.sequences]
            hidden = trunk(model.decoder, Packed.of(rows), start)
            assert hidden is not None
            parts = torch.split(hidden.bfloat16(), [len(s) for s in rows])
            below += list(zip(parts[::2], parts[1::2], strict=True))
            report(len(below))
    pairs = text_pairs(comparisons)
    prompts = sorted({p.prompt for p in pairs})
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(args.seed)).tolist()
    fold = {prompts[i]: place % 5 for place, i in enumerate(order)}
    found = torch.zeros(len(pairs))
    with progress("Folds", 5) as report:
        for k in range(5):
            training = [i for i, p in enumerate(pairs) if fold[p.prompt] != k]
            held = [i for i, p in enumerate(pairs) if fold[p.prompt] == k]
            scorer = train(model, [rankings[i] for i in training], [below[i] for i in training], args.epochs, args.seed)
            with torch.no_grad():
                for at in range(0, len(held), 64):
                    part = held[at : at + 64]
                    found[part] = margin(scorer, Pairs([rankings[i] for i in part], [below[i] for i in part]), start)
            report(k + 1)
    figures = {
        "reward model": pair_accuracy(found.tolist(), [p.prompt for p in pairs]),
        "bag of words": bag_of_words_accuracy(pairs, seed=args.seed),
        "longer wins": longer_wins(pairs),
    }
    for name, rate in figures.items():
        print(f"{name}: {rate}")
    print(json.dumps({name: rate.__dict__ for name, rate in figures.items()}))


if __name__ == "__main__":
    main()
