"""Losses equal to TRL's on the same weights and the same tokens, to 1e-5, wherever TRL has them.

TRL's own trainers run on the model as transformers reads it from our folder. Two of its losses are read from methods of
trainers that want no reference (CPO's for label smoothing and SimPO, ORPO's odds ratio), fed by transformers' logits.
Plackett-Luce, the original sums of IPO and unbiased soft labels have nothing there to be compared with.
"""

import warnings
from types import SimpleNamespace

import pytest
import torch

from tutelage.learn.dpo import DPOConfig, DPOState
from tutelage.learn.kto import Judged, Opinion
from tutelage.learn.preference import Preference
from tutelage.learn.preference_losses import (
    DPO,
    IPO,
    KTO,
    ORPO,
    Conservative,
    LengthNormalised,
    Robust,
    SimPO,
    implicit_reward,
    pair_losses,
)
from tutelage.learn.reference import completion_logprobs
from tutelage.learn.reward import Ranking
from tutelage.model.causal import Model, save
from tutelage.model.heads import Policy
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")  # TRL and what it loads warn of many things
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install 'tutelage[dev]'")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'tutelage[dev]'")

TEXTS = [("Film 1 was", " good", " bad and long"), ("A", "b c", "d"), ("So", " it is", " it"), ("x y", " z", " zz top")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Policy and reference as ours, and their folders in Hugging Face's layout."""
    found = {}
    for name, seed in (("policy", 1), ("reference", 2)):
        model = Model(tiny_decoder(260, seed=seed), tiny_tokenizer(), name)
        folder = tmp_path_factory.mktemp(name)
        save(model, folder)
        found[name] = (model, folder)
    return found


def theirs(models, name):
    """The model as transformers reads it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(models[name][1]), dtype=torch.float32, attn_implementation="eager")


def tokens(text):
    return tuple(tiny_tokenizer().encode(text))


def our_loss(models, items, loss, **settings):
    """The loss of one update, before it."""
    config = DPOConfig.model_validate({"loss": loss, "runaway": 1e9, "chosen_drop": 1e9, **settings})
    t = DPOState(models["policy"][0], config)
    found = t.update(items, completion_logprobs(Policy(models["reference"][0].decoder), items, 10_000))
    assert found.get("dpo/reference_point", 1) > 0  # else KTO is compared without its reference point
    return found["dpo/loss"]


def pairs(end=(258,)):
    """The texts as pairs, the better first, each with its end token."""
    rows = [(tokens(p), (*tokens(p), *tokens(c), *end), (*tokens(p), *tokens(r), *end)) for p, c, r in TEXTS]
    return [Preference(Ranking((chosen, rejected), (1, 2), None, None), len(p)) for p, chosen, rejected in rows]


def quiet(folder):
    """TRL's settings for a trainer that trains nothing."""
    return {"output_dir": str(folder), "report_to": "none", "use_cpu": True, "bf16": False, "max_length": 200}


@pytest.fixture(scope="module")
def dpo_trainer(models, tmp_path_factory):
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in TEXTS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = trl.DPOConfig(**quiet(tmp_path_factory.mktemp("trl")), disable_dropout=True)
        return trl.DPOTrainer(
            model=theirs(models, "policy"),
            ref_model=theirs(models, "reference"),
            args=args,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=tiny_tokenizer()._inner,
        )


def their_dpo(trainer, kind, beta, label_smoothing=0.0, texts=TEXTS):
    """The loss TRL's trainer computes of the first texts."""
    trainer.loss_types, trainer.loss_weights, trainer.beta = [kind], [1.0], beta
    trainer.label_smoothing = label_smoothing
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(texts))])
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


def test_trl_reads_the_same_tokens(dpo_trainer):
    row, mine = dpo_trainer.train_dataset[0], pairs()[0]
    assert (*row["prompt_ids"], *row["chosen_ids"]) == mine.sequences[0]
    assert len(row["prompt_ids"]) == mine.prompt


@pytest.mark.parametrize(
    ("kind", "loss", "noise"),
    [
        ("sigmoid", DPO(beta=0.3), 0.0),
        ("robust", Robust(beta=0.3, label_noise=0.2), 0.2),
        ("ipo", IPO(tau=0.3, per_token=True), 0.0),
        ("sigmoid_norm", LengthNormalised(beta=0.3), 0.0),
    ],
)
def test_with_a_reference(models, dpo_trainer, kind, loss, noise):
    beta = loss.tau if isinstance(loss, IPO) else loss.beta
    expected = their_dpo(dpo_trainer, kind, beta, noise)
    assert our_loss(models, pairs(), loss) == pytest.approx(expected, abs=1e-5)
    assert expected != pytest.approx(0.6931, abs=0.01)


def test_the_likelihood_term(models, dpo_trainer):
    """TRL's is a mean over the batch's tokens, ours over completions of means over tokens: the same for one of each."""
    expected = their_dpo(dpo_trainer, "sft", 0.3, texts=TEXTS[:1])
    plain, mixed = (our_loss(models, pairs()[:1], DPO(), sft_weight=weight) for weight in (0.0, 1.0))
    assert mixed - plain == pytest.approx(expected, abs=1e-5)


def test_kto(models, tmp_path):
    rows = [{"prompt": p, "completion": t, "label": t == c} for p, c, r in TEXTS for t in (c, r)]
    args = trl.KTOConfig(**quiet(tmp_path), beta=0.3, desirable_weight=1.5, undesirable_weight=0.5,
                         per_device_train_batch_size=len(rows))  # fmt: skip
    trainer = trl.KTOTrainer(
        model=theirs(models, "policy"),
        ref_model=theirs(models, "reference"),
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny_tokenizer()._inner,
    )
    made = [trainer.train_dataset[i] for i in range(len(rows))]
    batch = trainer.data_collator(made)
    with torch.no_grad():
        expected = float(trainer.compute_loss(trainer.model, batch))
    real = batch["attention_mask"].bool(), batch["KL_attention_mask"].bool()
    items = []
    for i, row in enumerate(made):
        own = tuple(batch["input_ids"][i][real[0][i]].tolist())
        stranger = tuple(batch["KL_input_ids"][i][real[1][i]].tolist())
        prompt = int((batch["completion_mask"][i] == 1).nonzero()[0])
        items.append(Opinion(Judged(own, prompt, float(row["label"])), stranger))
        assert own[:prompt] == stranger[:prompt]  # what they mismatch is what we mismatch
    loss = KTO(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    assert our_loss(models, items, loss) == pytest.approx(expected, abs=1e-5)


def logits_and_labels(models, items):
    """Transformers' logits of all chosen, then all rejected, with the prompts masked as TRL masks them."""
    rows = [(p.sequences[i], p.prompt) for i in (0, 1) for p in items]
    longest = max(len(s) for s, _ in rows)
    ids = torch.tensor([[*s, *[256] * (longest - len(s))] for s, _ in rows])
    labels = torch.tensor([[*[-100] * p, *s[p:], *[-100] * (longest - len(s))] for s, p in rows])
    with torch.no_grad():
        logits = theirs(models, "policy")(ids, attention_mask=(ids != 256).long()).logits
    return logits, labels


def test_simpo_and_orpo(models):
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    items = pairs()
    logits, labels = logits_and_labels(models, items)
    means = CPOTrainer.get_batch_logps(logits, labels, average_log_prob=True)
    chosen, rejected = means.chunk(2)
    told = SimpleNamespace(
        alpha=0.0, loss_type="simpo", simpo_gamma=0.7, beta=1.5, label_smoothing=0.0,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    expected = CPOTrainer.cpo_loss(told, chosen, rejected)[0].mean()
    assert our_loss(models, items, SimPO(beta=1.5, margin=0.7)) == pytest.approx(float(expected), abs=1e-5)

    told.beta = 0.4
    ratio = ORPOTrainer.odds_ratio_loss(told, chosen, rejected)[0].mean()
    likelihood = -chosen.mean()  # TRL's own also predicts the prompt: not compared
    assert our_loss(models, items, ORPO(weight=0.4)) == pytest.approx(float(likelihood - ratio), abs=1e-5)


def test_conservative_is_cpos_label_smoothing_on_log_ratios():
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    generator = torch.Generator().manual_seed(0)
    logprob, reference = torch.randn(2, 9, generator=generator) * 3, torch.randn(2, 9, generator=generator) * 3
    told = SimpleNamespace(
        alpha=0.0, loss_type="sigmoid", beta=0.3, label_smoothing=0.15, accelerator=SimpleNamespace(device="cpu")
    )
    expected = CPOTrainer.cpo_loss(told, *(logprob - reference))[0]
    loss = Conservative(beta=0.3, label_noise=0.15)
    reward = implicit_reward(loss, logprob, reference, torch.ones(2, 9))
    assert torch.allclose(pair_losses(loss, reward[0] - reward[1], torch.ones(9)), expected, atol=1e-5)
