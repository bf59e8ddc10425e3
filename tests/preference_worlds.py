"""Data for tests of DPO and its kin: a table of responses known exactly (O2), and texts with a taste to learn."""

from dataclasses import replace

import torch
from exact import table_world

from tutelage.learn.learner import Learner, OptimizerConfig, Part
from tutelage.learn.preference import Preference, Preferences, means, preference_loss
from tutelage.learn.reference import completion_logprobs
from tutelage.learn.reward import Ranking
from tutelage.model.adapters import Full, branch, trainable
from tutelage.model.heads import Policy, PolicyOutput

WORLD = table_world(1.0)  # 64 responses of one token to one prompt, r ~ N(0, 1), b = 1
SKEWED = torch.log_softmax(torch.randn(64, generator=torch.Generator().manual_seed(3), dtype=torch.float64), 0)
"""Another reference of the same responses, log-probabilities: its logits are N(0, 1), so some are rare."""


def whole_table():
    """All 64 responses packed once, with all their 2,016 pairs: targets and weights are then put in."""
    ranking = Ranking(tuple((*WORLD.prompt, *r) for r in WORLD.responses), tuple(range(1, 65)), None, None)
    one = Preference(ranking, len(WORLD.prompt))
    return Preferences.of([one], completion_logprobs(Policy(WORLD.reference), [one], 10**6))


TABLE = whole_table()


def with_pairs(better, worse, target, weight, base=WORLD.base):
    """The table with these pairs, weights summing to 1."""
    groups = replace(TABLE.groups, better=better, worse=worse, target=target, weight=weight / weight.sum())
    return replace(TABLE, groups=groups, reference=base.float())


def population():
    """Every pair as often as two draws of the reference give it, with the Bradley-Terry probability as its target."""
    a, b = TABLE.groups.better, TABLE.groups.worse
    target = torch.sigmoid(WORLD.rewards[a] - WORLD.rewards[b]).float()
    return with_pairs(a, b, target, (WORLD.base[a] + WORLD.base[b]).exp().float())


def draw_pairs(count, seed, base=WORLD.base):
    """Pairs of draws of the reference, labelled by Bradley-Terry: indices of the better and of the worse."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.multinomial(base.exp(), count, True, generator=generator) for _ in range(2))
    a, b = a[a != b], b[a != b]
    won = torch.rand(len(a), generator=generator, dtype=torch.float64) < torch.sigmoid(
        WORLD.rewards[a] - WORLD.rewards[b]
    )
    return torch.where(won, a, b), torch.where(won, b, a)


def unbeaten(better, worse):
    """The responses that won and never lost: where the loss has no minimum."""
    return sorted(set(better.tolist()) - set(worse.tolist()))


def counted(better, worse, base=WORLD.base):
    """Won and lost pairs as the table: each pair once, its share of wins as the target, which is the same loss."""
    wins = torch.zeros(64, 64).index_put((better, worse), torch.ones(len(better)), accumulate=True)
    a, b = (wins + wins.T).triu().nonzero().T
    return with_pairs(a, b, wins[a, b] / (wins[a, b] + wins[b, a]), wins[a, b] + wins[b, a], base)


def sampled(count, seed, base=WORLD.base):
    """Such pairs as the table."""
    return counted(*draw_pairs(count, seed, base), base)


def fit(data, loss, *, steps=150, rate=0.03, schedule="linear", runaway=10.0):
    """Full-batch training of a real decoder from the reference; it, and what was logged, a dict a step."""
    decoder = branch(WORLD.reference, Full(), torch.Generator().manual_seed(0))
    return decoder, _train(Policy(decoder), trainable(decoder), data, loss, steps, rate, schedule, runaway)


def fit_table(data, loss, *, steps=150, rate=0.1, schedule="linear", runaway=10.0):
    """The same of a bare table of logits, which costs a tenth; log π/ref (64,) fp64, and what was logged."""
    table = Table(data.reference)
    logged = _train(table, dict(table.named_parameters()), data, loss, steps, rate, schedule, runaway)
    return torch.log_softmax(table.logits.detach().double(), 0) - data.reference.double(), logged


def _train(policy, weights, data, loss, steps, rate, schedule, runaway):
    learner = Learner(weights, OptimizerConfig(learning_rate=rate, max_grad_norm=1e9, schedule=schedule), steps)
    part = Part([data], lambda b: preference_loss(policy, b, loss, sft_weight=0.0, runaway=runaway))
    return [means(learner.update(part)) for _ in range(steps)]


class Table(torch.nn.Module):
    """A policy that is 64 logits."""

    def __init__(self, base=WORLD.base):
        super().__init__()
        self.logits = torch.nn.Parameter(base.detach().clone().float())

    def forward(self, batch):
        logprob = torch.log_softmax(self.logits, 0)[batch.target]
        return PolicyOutput(logprob, torch.zeros_like(logprob), logprob[:, None])


def kl_to_optimum(ratio, base=WORLD.base):
    """KL(π ‖ π*) in nats of the policy whose log π/ref is given, (64,); the reference is `base`."""
    optimum = torch.log_softmax(base + WORLD.rewards, 0)
    return float(((base + ratio).exp() * (base + ratio - optimum)).sum())


def log_ratio(decoder):
    """log π/ref of every response of the table, (64,) fp64."""
    return WORLD.logprobs(decoder) - WORLD.base


def tasteful(*, swapped=False, count=64, k=2, seed=0):
    """Preferences for more of the token `a` (97) among 97 to 100; swapped, for fewer."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        rows = torch.randint(97, 101, (k, 6), generator=generator).tolist()
        good = [sum(t == 97 for t in row) * (-1 if swapped else 1) for row in rows]
        ranks = tuple(1 + sum(other > mine for other in good) for mine in good)
        found.append(Preference(Ranking(tuple((10, *row) for row in rows), ranks, None, None), 1))
    return found
