"""From an AI judge to a policy: a judge of 78 % accuracy against the truth, the same pairs, three seeds.

A tiny model first learns to write six letters from a to h. What is wanted of it is even letters (b, d, f, h); an oracle
says which of two of its own samples has more of them. The judge says the opposite on 22 % of the pairs, however far
apart the two are, and its probability says how sure it may be. Both label the same pairs, and DPO learns from each.

    pytest tests/test_ai_labels.py -m slow -s
"""

import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.evaluate.judges import labelled_pairs, validate
from tutelage.evaluate.statistics import bootstrap_mean
from tutelage.judge.asking import Reply
from tutelage.judge.compare import annotator_of, comparison_of, judge_pairs
from tutelage.judge.rubric import read_rubric
from tutelage.judge.scripted import CALL, ScriptedJudge
from tutelage.learn.dpo import DPOConfig, dpo
from tutelage.learn.preference import preference
from tutelage.learn.sft import SFTConfig, sft
from tutelage.model.causal import Model
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.questions import Question
from tutelage.records import Annotator, Comparison, Completion, Prompt, Source
from tutelage.runs import Run
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams

ACCURACY, PAIRS, MEASURED = 0.78, 2000, 400
SAMPLING = SamplingParams(max_tokens=8)
RUBRIC = read_rubric("helpful")
ORACLE = Annotator(id="oracle", kind="simulated", name="oracle (simulated)")
RATE = {"learning_rate": 3e-3, "warmup_steps": 5}


def gold(text):
    """The share of even letters."""
    return sum(ord(letter) % 2 == 0 for letter in text) / max(1, len(text))


def flips(one, other, seed):
    """Whether the judge is wrong about this pair of texts, in whichever order it is asked."""
    return zlib.crc32(repr((seed, *sorted((one, other)))).encode()) / 2**32 > ACCURACY


def judge_of(seed):
    """Right on 78 % of the pairs, and its probability is that."""

    def answer(ask):
        one, other = ask.texts
        side = np.sign(gold(one) - gold(other)) * (-1 if flips(one, other, seed) else 1)
        p = 0.5 + side * (ACCURACY - 0.5)
        return Reply((p, 1 - p), soft=True, usage=CALL)

    return ScriptedJudge(answer)


def writer(seed, run):
    """A tiny model that writes six letters from a to h, and stops."""
    model, rng = Model(tiny_decoder(260, seed=seed), tiny_tokenizer(), "tiny"), np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("abcdefgh"), 6)) for _ in range(256)]
    examples = [model.tokenizer.example(prompt(i), text, max_tokens=32) for i, text in enumerate(texts)]
    config = SFTConfig.model_validate(
        {"steps": 80, "batch_size": 32, "evaluate_every": 0, "optimizer": RATE | {"learning_rate": 1e-2}}
    )
    return sft(model, examples, config, run("sft", config))


def prompt(i):
    return Prompt.text(f"{i}:")


def sample(model, prompts, each, seed):
    """Texts, `each` for every prompt, and how each ended."""
    tokens = [model.tokenizer.prompt(p) for p in prompts for _ in range(each)]
    drawn = Engine(model.decoder, model.tokenizer.end).generate(tokens, SAMPLING, seed=seed)
    made = [
        Completion(text=model.tokenizer.decode(s.tokens), finish=s.finish, source=Source(model="tiny")) for s in drawn
    ]
    return [made[i : i + each] for i in range(0, len(made), each)]


def pairs_of(model, seed):
    """Questions of two samples that differ in what is wanted."""
    found = []
    prompts = [prompt(i) for i in range(2 * PAIRS)]
    for p, done in zip(prompts, sample(model, prompts, 2, seed), strict=True):
        if gold(done[0].text) != gold(done[1].text):
            found.append(Question(prompt=p, completions=tuple(done)))
    assert len(found) >= PAIRS
    return found[:PAIRS]


def by_oracle(question):
    one, other = (gold(c.text) for c in question.completions)
    ranks = (1, 2) if one > other else (2, 1)
    done = question.completions
    return Comparison(prompt=question.prompt, completions=done, ranks=ranks, shown=(0, 1), annotator=ORACLE)


def trained(model, comparisons, seed, run):
    config = DPOConfig.model_validate(
        {"steps": 60, "batch_size": 32, "evaluate_every": 0, "runaway": 1e6, "chosen_drop": 1e6, "seed": seed,
         "loss": {"kind": "dpo", "beta": 0.1}, "optimizer": RATE}
    )  # fmt: skip
    items = [preference(c, model.tokenizer, 32) for c in comparisons]
    return dpo(model, items, config, run("dpo", config))


def scores(model, seed):
    """Gold of fresh answers to prompts that nobody labelled."""
    done = sample(model, [prompt(i) for i in range(5000, 5000 + MEASURED)], 1, 1000 + seed)
    return [gold(one[0].text) for one in done]


def one_seed(seed, folder):
    """Gold of fresh answers before, and after labels of the oracle and of the judge; and the judge's figures."""

    def run(kind, config):
        return Run.start(Path(folder), kind, config)

    model = writer(seed, run)
    asked, judge = pairs_of(model, seed), judge_of(seed)
    judged = list(judge_pairs(asked, [judge], RUBRIC))
    who = annotator_of([judge], RUBRIC)
    true, said = [by_oracle(q) for q in asked], [comparison_of(one, who, RUBRIC) for one in judged]
    labelled = labelled_pairs(true)
    verdicts = {one.question.prompt.id: one for one in judge_pairs([p.question for p in labelled], [judge], RUBRIC)}
    figures = validate(labelled, [verdicts[p.question.prompt.id].together for p in labelled])
    policies = {"start": model, "oracle": trained(model, true, seed, run), "judge": trained(model, said, seed, run)}
    return {name: scores(policy, seed) for name, policy in policies.items()}, figures


@pytest.mark.slow
def test_labels_of_a_judge_of_78_percent_make_as_good_a_policy_as_the_truth():
    """The mean gold of fresh answers is within 5 % at the same number of pairs, over three seeds."""
    torch.set_num_threads(1)
    found = {"start": [], "oracle": [], "judge": []}
    for seed in range(3):
        with tempfile.TemporaryDirectory() as folder:
            one, figures = one_seed(seed, folder)
        assert figures.agreement.rate == pytest.approx(ACCURACY, abs=0.04)
        print(f"\nseed {seed}: the judge agrees with the oracle {figures.agreement}")
        for name, values in one.items():
            found[name] += values
            print(f"  {name}: {bootstrap_mean(values)}")
    means = {name: bootstrap_mean(values) for name, values in found.items()}
    difference = bootstrap_mean(np.subtract(found["judge"], found["oracle"]).tolist())
    print(f"all: {means}; judge less oracle {difference}")
    start, oracle, judge = (float(np.mean(found[name])) for name in ("start", "oracle", "judge"))
    assert oracle > start + 0.2
    assert judge >= 0.95 * oracle
    assert judge > start + 0.2
