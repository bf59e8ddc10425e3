"""Our side of the benchmark: the product's own steps, told when to run through standard input.

    python -m tutelage.bench.ours TASK.json

`peers/turns.py` says how both sides speak.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tutelage import __version__
from tutelage.bench.peers.turns import Turns
from tutelage.bench.work import Task
from tutelage.learn.dpo import DPOConfig, DPOState
from tutelage.learn.learner import Learner, OptimizerConfig, Part
from tutelage.learn.ppo import PPOConfig, optimise
from tutelage.learn.ppo_state import PPOState
from tutelage.learn.preference import Preference
from tutelage.learn.reference import completion_logprobs
from tutelage.learn.reward import Groups, Ranking, RewardConfig, RewardModel, reward_loss
from tutelage.learn.sft import SFTConfig, batches, sft_loss
from tutelage.model.adapters import Full, Lora, Top, branch, trainable
from tutelage.model.batch import Example, cut
from tutelage.model.causal import Model, best_device, best_pieces, load
from tutelage.model.decoder import Decoder, DecoderConfig
from tutelage.model.heads import Head, Policy, Scorer
from tutelage.model.tiny import tiny_tokenizer
from tutelage.runs import Run
from tutelage.sample.engine import Engine, Work
from tutelage.sample.sampler import SamplingParams

Step = Callable[[int], float | None]
"""Makes step number i; its loss, where the row has one that the other side's can be compared with."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NEVER = -1  # no token: every completion goes on to its limit


def optimizer(task: Task) -> OptimizerConfig:
    """AdamW as both sides use it."""
    return OptimizerConfig(learning_rate=task.learning_rate, schedule="constant", epsilon=1e-8)


def sft_step(task: Task, model: Model) -> Step:
    """Imitation of each prompt's first answer."""
    config = SFTConfig(
        micro_tokens=task.micro_tokens, optimizer=optimizer(task), train=Lora(rank=task.rank) if task.rank else Full()
    )
    decoder = branch(model.decoder, config.train, torch.Generator())
    policy, learner = Policy(decoder), Learner(trainable(decoder), config.optimizer, task.total_steps)

    def step(number: int) -> float:
        examples = []
        for i in task.part(number):
            prompt, answer = task.prompts[i], task.answers[i][0]
            examples.append(Example((*prompt, *answer), (False,) * len(prompt) + (True,) * len(answer)))
        part = Part(batches(examples, config.micro_tokens), lambda b: sft_loss(policy, b))
        return learner.update(part)["sft/loss"]

    return step


def ranking(task: Task, place: int) -> Ranking:
    """A prompt's answers, best first."""
    sequences = tuple((*task.prompts[place], *answer) for answer in task.answers[place])
    return Ranking(sequences, tuple(range(1, len(sequences) + 1)), None, None)


def reward_head(decoder: Decoder) -> Head:
    """The head that both sides start from."""
    head = Head.reward(decoder.config.hidden_size, torch.Generator().manual_seed(0))
    return head.to(decoder.embed.weight.device)


def reward_step(task: Task, model: Model) -> Step:
    """All pairs of each prompt's answers."""
    config = RewardConfig(micro_tokens=task.micro_tokens, optimizer=optimizer(task))
    decoder = branch(model.decoder, config.train, torch.Generator())
    scorer = Scorer(decoder, reward_head(decoder))
    learner = Learner(trainable(decoder) | {"head": scorer.head.weight}, config.optimizer, task.total_steps)

    def step(number: int) -> float:
        rankings = [ranking(task, i) for i in task.part(number)]
        parts = cut([r.tokens for r in rankings], config.micro_tokens)
        groups = [Groups.of([rankings[i] for i in part], config) for part in parts]
        return learner.update(Part(groups, lambda g: reward_loss(scorer, g, config)))["reward/loss"]

    return step


def dpo_step(task: Task, model: Model) -> Step:
    """Direct preference optimisation; what the reference says is computed before the first step."""
    config = DPOConfig(
        steps=task.total_steps, micro_tokens=task.micro_tokens, optimizer=optimizer(task), runaway=1e9, chosen_drop=1e9
    )
    state = DPOState(model, config)
    items = [Preference(ranking(task, i), len(task.prompts[i])) for i in range(len(task.prompts))]
    known = completion_logprobs(state.reference, items, config.micro_tokens)

    def step(number: int) -> float:
        places = task.part(number)
        return state.update([items[i] for i in places], [known[i] for i in places])["dpo/loss"]

    return step


def ppo_step(task: Task, model: Model) -> Step:
    """A rollout and its epochs. `ppo`: policy and critic trained whole beside reference and reward model; `ppo_shared`:
    the ten upper layers of the policy alone, with a value head on the reward model's features, over one trunk."""
    shared = task.row == "ppo_shared"
    train = Top(layers=min(10, model.decoder.config.num_layers)) if shared else Full()
    scorer = Scorer(branch(model.decoder, train, torch.Generator()), reward_head(model.decoder))
    scorer.requires_grad_(False)
    config = PPOConfig(
        steps=task.total_steps,
        batch_size=task.batch,
        epochs=task.epochs,
        micro_tokens=task.micro_tokens,
        sampling=SamplingParams(max_tokens=task.new_tokens, temperature=0.7),
        critic="features" if shared else "separate",
        train=train,
        optimizer=optimizer(task),
    )
    reward = RewardModel(scorer, model.tokenizer, 0.0, 1.0)
    state = PPOState(model, reward, config, None)
    state.sampler = Engine(state.actor.policy.decoder, NEVER, capture=state.shared or None)
    run = Run.start(Path(tempfile.mkdtemp()), "ppo", config)

    def step(number: int) -> None:
        rollout = state.roll_out([task.prompts[i] for i in task.part(number)], task.seed + number)
        optimise(state, rollout, (), run)
        state.finish_step(0.0)

    return step


class Measured(Engine):
    """An engine in which completion i of a job ends after `lengths[i]` tokens, as those of real prompts would."""

    lengths: Sequence[int] = ()

    def _begin(self, prompts: Sequence[Sequence[int]], params: SamplingParams, seed: int) -> Work:
        work = super()._begin(prompts, params, seed)
        work.job.limits.copy_(torch.tensor(self.lengths))
        return work


def generate_step(task: Task, model: Model) -> Step:
    """Sampling at temperature 1; in the row `lengths`, prompts wait for the rows of completions that have ended."""
    engine = Measured(model.decoder, NEVER)
    params = SamplingParams(max_tokens=task.new_tokens, slots=task.slots)

    def step(number: int) -> None:
        places = task.part(number)
        engine.lengths = [task.lengths[i] if task.row == "lengths" else task.new_tokens for i in places]
        drawn = engine.generate([task.prompts[i] for i in places], params, seed=number)
        assert [len(one.tokens) for one in drawn] == list(engine.lengths)

    return step


STEPS: dict[str, Callable[[Task, Model], Step]] = {
    "sft": sft_step,
    "reward": reward_step,
    "reward4": reward_step,
    "dpo": dpo_step,
    "ppo": ppo_step,
    "ppo_shared": ppo_step,
    "generate": generate_step,
    "lengths": generate_step,
}


def network(task: Task) -> Model:
    """The model of the task's folder, or one of random weights in the shape it asks for."""
    compute, device = DTYPES[task.dtype], best_device()
    if task.shape is None:
        return load(task.model, compute=compute, device=device)
    decoder = Decoder(DecoderConfig(**task.shape)).initialise(torch.Generator().manual_seed(task.seed))
    decoder = decoder.to(device).compute_in(compute).use(best_pieces(device))
    return Model(decoder, tiny_tokenizer(), "random")


def main(path: str) -> None:
    """Load, then take turns until everything is done."""
    task, turns = Task.read(path), Turns()
    model = network(task)
    step = STEPS[task.row](task, model)
    turns.ready(torch=torch.__version__, tutelage=__version__)
    losses: list[float] = []
    for number in range(task.total_steps):
        loss = step(number)
        losses += [] if loss is None else [loss]
        turns.step(losses, last=number + 1 == task.total_steps)
    turns.finish(losses)


if __name__ == "__main__":
    main(sys.argv[1])
