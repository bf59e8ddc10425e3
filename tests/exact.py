"""Worlds small enough to know everything of: every response listed, the optimum in closed form (O1)."""

import itertools
from types import SimpleNamespace

import torch

from tutelage.learn.learner import OptimizerConfig
from tutelage.learn.ppo import PPOConfig, optimise
from tutelage.learn.ppo_state import PPOState
from tutelage.learn.rollout import EndRule, Shaping, response_batch
from tutelage.model.causal import Model
from tutelage.model.decoder import Decoder, DecoderConfig
from tutelage.model.heads import Policy
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams

PROMPT = (0,)


def decoder(vocab, *, layers, width, seed, std):
    """A real decoder; with 0 layers it is a table of logits."""
    config = DecoderConfig(
        family="llama", vocab_size=vocab, hidden_size=width, intermediate_size=2 * width, num_layers=layers,
        num_heads=2, num_kv_heads=1, head_dim=width // 2, rope_theta=10_000.0, rms_norm_eps=1e-6,
        tie_embeddings=False, context=64,
    )  # fmt: skip
    made = Decoder(config)
    made.initialise(torch.Generator().manual_seed(seed), std=0.1 if layers else 0.3)
    made.lm_head.weight.data.normal_(0, std, generator=torch.Generator().manual_seed(seed + 1))
    return made


class World:
    """A finite set of responses to one prompt, a reward for each, and what follows from them exactly."""

    def __init__(self, reference, responses, rewards, coefficient, prompt=PROMPT):
        self.reference, self.responses, self.rewards, self.coefficient = reference, responses, rewards, coefficient
        self.prompt = prompt
        self.table = dict(zip(responses, rewards.tolist(), strict=True))
        self.base = self.logprobs(reference)
        weighted = self.base + rewards / coefficient
        self.log_z = torch.logsumexp(weighted, 0)
        self.optimum = weighted - self.log_z  # log pi*
        self.best = float(coefficient * self.log_z)  # J*

    @torch.no_grad()
    def logprobs(self, network):
        """log pi(y | x) of every response, (R,) fp64."""
        batch = response_batch([self.prompt + r for r in self.responses], [1] * len(self.responses))
        out = Policy(network)(batch).logprob.double()
        return torch.zeros(len(self.responses), dtype=torch.float64).index_add(0, batch.segment, out)

    def kl_to_optimum(self, network):
        """KL(pi || pi*) in nats."""
        logp = self.logprobs(network)
        return float((logp.exp() * (logp - self.optimum)).sum())

    def objective(self, network):
        """J = E[r] - b KL(pi || ref)."""
        logp = self.logprobs(network)
        return float((logp.exp() * (self.rewards - self.coefficient * (logp - self.base))).sum())

    def reward(self, prompts, responses):
        """The reward function handed to PPO."""
        return torch.tensor([self.table[tuple(r)] for r in responses])


def table_world(coefficient, seed=0, responses=64):
    """O1, tabular: 64 responses of one token, r ~ N(0, 1)."""
    network = decoder(responses, layers=0, width=64, seed=seed, std=0.05)
    rewards = torch.randn(responses, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64)
    return World(network, [(i,) for i in range(responses)], rewards, coefficient)


def token_world(coefficient, seed=0, words=4, steps=4):
    """O1, token level: all sequences over a few words that stop at the end token (the last) or the limit.

    The prompt is the end token: were it a word, rotary positions could not tell that word from that word twice.
    """
    network = decoder(words + 1, layers=1, width=32, seed=seed, std=0.1)
    end, found = words, []
    for n in range(1, steps + 1):
        for body in itertools.product(range(words), repeat=n):
            if n == steps:
                found.append(body)
        for body in itertools.product(range(words), repeat=n - 1):
            found.append((*body, end))
    rewards = torch.randn(len(found), generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64)
    return World(network, found, rewards, coefficient, prompt=(end,))


def ppo_config(coefficient, **changes):
    """Settings that reach the optimum to the bar: large batches, rate annealed to zero."""
    settings = {
        "steps": 80, "batch_size": 1024, "epochs": 4, "minibatches": 2, "micro_tokens": 100_000,
        "sampling": SamplingParams(max_tokens=1, slots=1024), "critic": "shared", "value_weight": 0.1,
        "kl": {"coefficient": coefficient}, "shaping": Shaping(end=EndRule(kind="none"), whiten_advantages=False),
        "optimizer": OptimizerConfig(learning_rate=0.01, max_grad_norm=1e9), "evaluate_every": 0,
    }  # fmt: skip
    return PPOConfig.model_validate(settings | changes)


def train(world, config, *, end, reward=None, drift=False, sampler=None):
    """PPO as `ppo` runs it, without a run directory; `drift` plants a reference that follows the policy."""
    tokenizer = SimpleNamespace(end=end)
    state = PPOState(Model(world.reference, tokenizer, "exact"), reward or world.reward, config, sampler)
    if drift:
        object.__setattr__(state.nets, "reference", state.actor.policy)
    run = SimpleNamespace(stop_requested=False)
    while state.step < config.steps:
        state.rollout = state.roll_out([world.prompt] * config.batch_size, config.seed * 1000 + state.step)
        optimise(state, state.rollout, (), run)
        state.finish_step(float(state.rollout.sequence_kl.mean()))
    return state.actor.policy.decoder


class ColdSampler:
    """The planted bug: samples at temperature 0.7, says log-probabilities at 1."""

    def __init__(self, network, end):
        self.engine = Engine(network, end)

    def load(self, network):
        self.engine.load(network)

    def generate(self, prompts, params, *, seed, progress=None):
        cold = self.engine.generate(prompts, params.model_copy(update={"temperature": 0.7}), seed=seed)
        batch = response_batch([(*p, *s.tokens) for p, s in zip(prompts, cold, strict=True)], [len(p) for p in prompts])
        with torch.no_grad():
            warm = Policy(self.engine.decoder)(batch).logprob.split([len(s.tokens) for s in cold])
        return [type(s)(s.tokens, logprob, s.finish) for s, logprob in zip(cold, warm, strict=True)]
