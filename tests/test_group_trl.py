"""Losses and advantages of the group methods equal to TRL's on the same weights and the same responses, to 1e-5.

TRL's own GRPO and RLOO trainers sample from the model as transformers reads it from our folder, score with a function,
and take their loss; ours is taken of the very same tokens. TRL's RLOO clips the ratio of a whole response, ours that of
its tokens: the two are held to the same gradient where the policy is the one that sampled.
"""

import warnings
from dataclasses import replace

import pytest
import torch
from test_dpo_trl import quiet, theirs

from tutelage.learn.group import GroupConfig, GroupState, group_loss
from tutelage.learn.rollout import response_batch
from tutelage.model.causal import Model, save
from tutelage.model.heads import Policy
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.sample.scripted import Scripted

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL and what it loads warn of many things
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install 'tutelage[dev]'")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'tutelage[dev]'")

SIZE, LONGEST, END = 8, 7, 258
PROMPTS = ["Film 1 was", "A"]
NOISE = torch.randn(2, 2 * SIZE, LONGEST, generator=torch.Generator().manual_seed(0))


def worth(tokens):
    """The share of even tokens."""
    return sum(t % 2 == 0 for t in tokens) / len(tokens)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A policy as ours, in which the end token is likely, and its folder in Hugging Face's layout."""
    decoder = tiny_decoder(260, seed=1)
    with torch.no_grad():
        decoder.head_weight()[END] *= 15
    model = Model(decoder, tiny_tokenizer(), "policy")
    folder = tmp_path_factory.mktemp("policy")
    save(model, folder)
    return {"policy": (model, folder)}


def sampled(models, folder, kind, **settings):
    """TRL's trainer and what it made of one batch of its samples; a prompt's responses side by side."""
    config, trainer = {"grpo": (trl.GRPOConfig, trl.GRPOTrainer), "rloo": (trl.RLOOConfig, trl.RLOOTrainer)}[kind]
    batch = {"per_device_train_batch_size": 2 * SIZE, "num_generations": SIZE, "max_completion_length": LONGEST}
    shared = {k: v for k, v in quiet(folder).items() if k != "max_length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = trainer(
            model=theirs(models, "policy"),
            reward_funcs=lambda completion_ids, **_: [worth(row) for row in completion_ids],
            args=config(**shared, **batch, **settings),
            train_dataset=datasets.Dataset.from_list([{"prompt": p} for p in PROMPTS]),
            processing_class=tiny_tokenizer()._inner,
        )
        torch.manual_seed(0)
        inputs = made._generate_and_score_completions([{"prompt": p} for p in PROMPTS for _ in range(SIZE)])
    made.model.eval()  # no accumulation: a plain mean
    return made, inputs


def responses(inputs):
    """The tokens of each response, without padding."""
    mask = inputs["completion_mask"].bool()
    return [row[keep].tolist() for row, keep in zip(inputs["completion_ids"], mask, strict=True)]


class Replayed(Scripted):
    """Says what TRL's sampler said, with the policy's log-probabilities."""

    def __init__(self, model, answers):
        super().__init__(answers, end=END)
        self.policy = Policy(model.decoder)

    @torch.no_grad()
    def generate(self, prompts, params, *, seed, progress=None):
        drawn = super().generate(prompts, params, seed=seed, progress=progress)
        rows = [(*p, *one.tokens) for p, one in zip(prompts, drawn, strict=True)]
        logprobs = self.policy(response_batch(rows, [len(p) for p in prompts])).logprob
        parts = logprobs.split([len(one.tokens) for one in drawn])
        return [replace(one, logprobs=part) for one, part in zip(drawn, parts, strict=True)]


def ours(models, inputs, **settings):
    """Our state and rollout of the very same responses."""
    config = GroupConfig.model_validate(
        {"batch_size": 2 * SIZE, "group_size": SIZE, "minibatches": 1, "micro_tokens": 100_000, "end": {"kind": "none"},
         "sampling": {"max_tokens": LONGEST}, **settings}
    )  # fmt: skip
    t = GroupState(
        models["policy"][0],
        lambda _, rows: torch.tensor([worth(row) for row in rows]),
        config,
        Replayed(models["policy"][0], responses(inputs)),
    )
    t.shared = 0
    prompts = [tiny_tokenizer().encode(p) for p in PROMPTS]
    rollout = t.roll_out([p for p in prompts for _ in range(SIZE)], 0)
    assert [s[n:] for s, n in zip(rollout.sequences, rollout.prompt_lengths, strict=True)] == [
        tuple(row) for row in responses(inputs)
    ]
    return t, replace(rollout, hidden=None)


def moved(inputs, rollout):
    """Both with the same policy that sampled and the same reference, each some way off."""
    mask = inputs["completion_mask"].bool()
    rows = torch.zeros(mask.shape)
    rows[mask] = rollout.reference
    old, reference = rows + 0.4 * NOISE[0, :, : mask.shape[1]], rows + NOISE[1, :, : mask.shape[1]]
    theirs = inputs | {"old_per_token_logps": old, "ref_per_token_logps": reference}
    return theirs, replace(rollout, old=old[mask], reference=reference[mask])


def loss_of(t, rollout, price=0.0):
    """Our loss of the whole rollout as the learner divides it."""
    units = sum(rollout.response_lengths)
    minibatch = rollout.take(range(2 * SIZE))
    length = units / (2 * SIZE)
    loss, _ = group_loss(t.actor.policy, minibatch, t.config, price=price, length=length, shared=0)
    return loss / units


@pytest.fixture(scope="module")
def grpo(models, tmp_path_factory):
    return sampled(models, tmp_path_factory.mktemp("grpo"), "grpo", beta=0.04)


def test_the_samples_are_worth_comparing(grpo):
    _, inputs = grpo
    lengths = [len(row) for row in responses(inputs)]
    assert len(set(lengths)) > 2
    assert any(row[-1] == END for row in responses(inputs))
    assert len({round(worth(row), 3) for row in responses(inputs)}) > 2


@pytest.mark.parametrize(("divide", "by"), [("group", "group"), ("batch", "batch"), ("none", "nothing")])
def test_grpos_advantages(models, tmp_path, divide, by):
    _, inputs = sampled(models, tmp_path, "grpo", scale_rewards=divide)
    t, rollout = ours(models, inputs, kl_in="loss", advantage={"kind": "grpo", "divide_by": by})
    places = torch.tensor(rollout.response_lengths).cumsum(0) - 1
    assert torch.allclose(t.shaped(rollout).advantages[places], inputs["advantages"], atol=1e-5)
    assert inputs["advantages"].abs().max() > 0.1


@pytest.mark.parametrize(
    ("kind", "average", "ratio", "higher", "beta", "kl"),
    [
        ("grpo", "response", "token", 0.2, 0.04, "k3"),
        ("grpo", "response", "token", 0.2, 0.04, "weighted"),
        ("bnpo", "token", "token", 0.28, 0.0, "k3"),
        ("dapo", "token", "token", 0.28, 0.0, "k3"),
        ("dr_grpo", "constant", "token", 0.2, 0.04, "k3"),
        ("grpo", "response", "response", 0.02, 0.0, "k3"),
    ],
)
def test_grpos_losses(models, grpo, kind, average, ratio, higher, beta, kl):
    trainer, inputs = grpo
    t, rollout = ours(
        models, inputs, average=average, ratio=ratio, clip_higher=higher, kl_in="loss", kl_loss=kl,
        advantage={"kind": "grpo"},
    )  # fmt: skip
    inputs, rollout = moved(inputs, t.shaped(rollout))
    inputs["num_items_in_batch"] = torch.tensor(float(sum(rollout.response_lengths)))
    trainer.loss_type, trainer.beta, trainer.epsilon_high = kind, beta, higher
    trainer.args.use_bias_correction_kl = kl == "weighted"
    trainer.importance_sampling_level = {"token": "token", "response": "sequence"}[ratio]
    with torch.no_grad():
        expected = float(trainer._compute_loss(trainer.model, inputs))
        found = float(loss_of(t, rollout, price=beta))
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(expected) > 1e-4


def gradient(loss, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


def test_rloos_advantages_and_gradient(models, tmp_path):
    """The KL is paid in the reward; the gradient is that of the mean over responses of advantage · log π."""
    trainer, inputs = sampled(models, tmp_path, "rloo", beta=0.05)
    t, rollout = ours(models, inputs, average="constant", kl={"coefficient": 0.05})
    rollout = t.shaped(rollout)
    places = torch.tensor(rollout.response_lengths).cumsum(0) - 1
    assert torch.allclose(rollout.advantages[places], inputs["advantages"], atol=1e-5)
    theirs = gradient(trainer._compute_loss(trainer.model, inputs), [trainer.model.get_output_embeddings().weight])
    (weight,) = (p for p in t.policy_weights.values() if p.shape == trainer.model.get_output_embeddings().weight.shape)
    found = LONGEST * gradient(loss_of(t, rollout), [weight])
    assert torch.allclose(found, theirs, atol=1e-5)
    assert float(theirs.norm()) > 1e-2
