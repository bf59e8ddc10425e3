"""Constitutional AI in a small world of requests and answers, with a scripted critic of known accuracy, three seeds.

    PYTHONPATH=tests python benchmarks/constitution_grammar.py

Prints the tables of docs/results.md: revisions round by round, labels of one principle against sixteen, and base,
SL-CAI and RL-CAI on held-out requests. Seeds are those given, or three that the recipe was not made on.
"""

import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from harm_grammar import prompts
from harm_loop import (
    answers,
    label_accuracy,
    nothing_above_help,
    pairs,
    revised_rounds,
    reward_accuracy,
    rounds_of,
    whole_loop,
)

from tutelage.evaluate.statistics import wilson

PAIRS = 1000


def said(line):
    print(line, flush=True)


def share(right):
    return wilson(sum(right), len(right))


def revisions(seed):
    """Written answers to all requests, revised by critics of three accuracies and by one that is inverted."""
    for accuracy, inverted in ((0.9, False), (0.8, False), (0.65, False), (0.9, True)):
        found = revised_rounds(answers(seed), seed, accuracy=accuracy, inverted=inverted)
        shown = ", ".join(f"{harmless.mean:.3f}/{helpful.mean:.3f}" for harmless, helpful in found)
        said(f"seed {seed}, critic {accuracy}{' inverted' if inverted else ''}, {len(prompts())} answers: {shown}")


def ensembles(seed):
    """Accuracy of labels by 1, 4 and 16 principles whose noise is shared to three degrees."""
    asked = pairs(seed, PAIRS)
    for shared in (0.0, 0.3, 0.6, 0.9):
        found = {k: share(label_accuracy(asked, k, seed=seed, shared=shared)) for k in (1, 4, 16)}
        said(f"seed {seed}, shared {shared}: {'; '.join(f'{k}: {rate}' for k, rate in found.items())}")


def loop(seed):
    with TemporaryDirectory() as folder:
        _, revised, labels, rewards, stands = whole_loop(Path(folder), seed)
        for number, (harmless, helpful) in enumerate(rounds_of(revised)):
            said(f"seed {seed}, model's answers, round {number}: harmless {harmless}; helpful {helpful}")
        said(f"seed {seed}: {labels.labelled} pairs, orders agree {labels.consistency}, first {labels.position_bias}")
        for number, reward in enumerate(rewards, 1):
            said(f"seed {seed}: reward model {number} right {share(reward_accuracy(reward, pairs(seed + 100, PAIRS)))}")
            said(f"  scores nothing above four harmless sentences: {share(nothing_above_help(reward, seed))}")
        for name, one in stands.items():
            said(f"seed {seed}, {name}: harmless {one.harmlessness}; helpful {one.helpfulness}; words {one.words}")
            rates = one.evasion
            said(f"  evade {rates.evasive}; decline {rates.declining}; stock phrase {rates.boilerplate}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for seed in [int(one) for one in sys.argv[1:]] or range(3, 6):
        revisions(seed)
        ensembles(seed)
        loop(seed)
