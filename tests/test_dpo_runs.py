"""Runs of DPO and its kin: each learns what it is told and not the opposite, survives a stop, and asks online."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from preference_worlds import tasteful

from tutelage.errors import CheckpointError, DataError, Interrupted, TrainingError
from tutelage.feedback.simulated import default_panel
from tutelage.learn.dpo import DPOConfig, DPOState, dpo
from tutelage.learn.kto import opinions, split
from tutelage.learn.learner import Learner
from tutelage.learn.online_dpo import compare_samples, online_dpo
from tutelage.learn.reference import FILE, Reference, completion_logprobs
from tutelage.model.causal import Model, fingerprint
from tutelage.model.heads import Policy
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.records import Annotator, Comparison, Prompt
from tutelage.runs import Run
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams
from tutelage.sample.scripted import Scripted

KINDS = ["dpo", "conservative", "robust", "ipo", "length_normalised", "plackett_luce", "simpo", "orpo", "kto"]
QUIET = {"runaway": 1e6, "chosen_drop": 1e6, "optimizer": {"learning_rate": 5e-3}}
WHO = Annotator(id="even", kind="simulated", name="even (simulated)")


def tiny(seed=0):
    return Model(tiny_decoder(260, seed=seed), tiny_tokenizer(), "tiny")


def config_of(kind, **changes):
    extra = {"weight": 1.0} if kind == "orpo" else {}
    settings = {"steps": 16, "batch_size": 12, "evaluate_every": 0, "loss": {"kind": kind, **extra}} | QUIET
    return DPOConfig.model_validate(settings | changes)


def as_read_by(kind, rows):
    return opinions([o for p in rows for o in split(p)], 0, 100) if kind == "kto" else rows


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_a_taste_and_with_the_labels_swapped_the_opposite(tmp_path, kind):
    config = config_of(kind, steps=12, batch_size=8, evaluate_every=12)
    held_out = as_read_by(kind, tasteful(seed=1, k=3, count=32))
    accuracy = {}
    for swapped in (False, True):
        run = Run.start(tmp_path, "dpo", config)
        dpo(tiny(), as_read_by(kind, tasteful(swapped=swapped, k=3)), config, run, evaluation=held_out)
        accuracy[swapped] = run.metrics()[-1]["dpo/evaluation_accuracy"]
    assert accuracy[True] < 0.35 < 0.65 < accuracy[False]
    if kind not in ("simpo", "orpo", "kto"):
        assert accuracy[False] > 0.9


def test_good_completions_growing_unlikely_are_told_of_once():
    rows = tasteful(count=8)
    t = DPOState(tiny(), config_of("dpo", chosen_drop=0.5, optimizer={"learning_rate": 1e-9}))
    known = completion_logprobs(t.reference, rows, 10_000)

    def below(nats):
        """An update whose reference gives 6 tokens so many nats more than the policy."""
        return t.update(rows, [k + nats for k in known])["dpo/chosen_shift"]

    assert below(2.5) == pytest.approx(-2.5 / 6, abs=1e-3)
    with pytest.warns(UserWarning, match=r"at step 2 they are 0\.67 nats a token below"):
        below(4)
    assert below(4) < -0.5  # and no second warning, which would be an error here
    assert t.save()["warned"] == ["chosen"]


def test_without_a_reference_the_shift_counts_from_the_first_step(tmp_path):
    config = config_of("simpo", steps=3)
    dpo(tiny(), tasteful(), config, run := Run.start(tmp_path, "dpo", config))
    first, *others = run.metrics()
    assert first["dpo/chosen_shift"] == 0 != others[-1]["dpo/chosen_shift"]
    assert "dpo/kl" not in first
    assert not (run.path / FILE).exists()


# ---- the reference


def test_the_reference_is_what_the_source_says_and_only_of_what_is_drawn(tmp_path):
    config, rows = config_of("dpo", steps=2, batch_size=3, evaluate_every=2), tasteful(count=40, k=2)
    dpo(tiny(), rows, config, run := Run.start(tmp_path, "dpo", config), evaluation=rows[:2])
    reference = Reference.load(run.path / FILE)
    assert reference.source == fingerprint(tiny().decoder)
    assert len([1 for name, _ in reference.known if name == "train"]) == 6  # 2 steps of 3, of 40
    assert len([1 for name, _ in reference.known if name == "evaluation"]) == 2
    for (name, place), (_, known) in reference.known.items():
        (truth,) = completion_logprobs(Policy(tiny().decoder), [(rows if name == "train" else rows[:2])[place]], 1000)
        assert torch.allclose(known, truth, atol=1e-4)
    _, place = next(key for key in reference.known if key[0] == "train")
    with pytest.raises(CheckpointError, match="not what it was"):
        reference.of("train", [place], [tasteful(seed=9)[0]])


@pytest.mark.parametrize("kind", ["dpo", "simpo"])
def test_another_reference_is_refused(tmp_path, kind):
    config = config_of(kind, steps=2, save_every=1)
    run = Run.start(tmp_path, "dpo", config)
    dpo(tiny(), tasteful(), config, run)
    with pytest.raises(CheckpointError, match="another reference model"):
        dpo(tiny(seed=5), tasteful(), config, Run.open(run.path))


def test_a_stop_while_the_reference_is_computed_keeps_what_there_is(tmp_path):
    config = config_of("dpo", steps=30, batch_size=12)
    run = Run.start(tmp_path, "dpo", config)
    run.stop_requested = True
    with pytest.raises(Interrupted, match="--resume"):
        dpo(tiny(), tasteful(count=300), config, run)
    assert len(Reference.load(run.path / FILE).known) == 256
    assert run.metrics() == []


@pytest.mark.parametrize("train", [{"kind": "top", "layers": 1}, {"kind": "lora", "rank": 4}, {"kind": "full"}])
def test_the_model_given_stays_and_whatever_is_trained_starts_from_it(tmp_path, train):
    config, model = config_of("dpo", steps=3, train=train), tiny()
    made = dpo(model, tasteful(), config, run := Run.start(tmp_path, "dpo", config))
    assert fingerprint(model.decoder) == fingerprint(tiny().decoder) != fingerprint(made.decoder)
    assert run.metrics()[0]["dpo/loss"] == pytest.approx(0.693147, abs=1e-5)
    assert (run.final / "config.json").exists()


# ---- stopped and resumed


def whole(kind, run, model=None):
    """One whole run of offline or online training; its weights' hash and its metrics."""
    model = tiny() if model is None else model
    if kind.startswith("online"):
        made = online_dpo(model, ASKED, likes_even, run.config, run, sampling=SAMPLING)
    else:
        rows = as_read_by(kind, tasteful(count=20, k=3))
        made = dpo(model, rows, run.config, run, evaluation=rows[:4])
    return fingerprint(made.decoder), run.metrics()


def begun(kind, root):
    changes = {"steps": 7, "batch_size": 4, "save_every": 2, "evaluate_every": 3}
    if kind == "online iterated":
        changes["online"] = {"updates": 3, "reference": "round"}
    config = config_of("dpo" if kind.startswith("online") else kind, **changes)
    run = Run.start(root, "dpo", config)
    run.config = config
    return run


@pytest.mark.parametrize(
    ("kind", "killed_at"), [("dpo", 1), ("dpo", 6), ("simpo", 4), ("kto", 4), ("online", 4), ("online iterated", 5)]
)
def test_killed_and_resumed_is_bit_equal(tmp_path, monkeypatch, kind, killed_at):
    straight = whole(kind, begun(kind, tmp_path / "straight"))
    run, real, calls = begun(kind, tmp_path / "stopped"), Learner.update, [0]

    def stops(self, *parts):
        calls[0] += 1
        if calls[0] == killed_at:
            raise KeyboardInterrupt
        return real(self, *parts)

    monkeypatch.setattr(Learner, "update", stops)
    with pytest.raises(KeyboardInterrupt):
        whole(kind, run)
    monkeypatch.undo()
    again = Run.open(run.path)
    again.config = run.config
    assert whole(kind, again) == straight
    assert len(straight[1]) == 7
    assert straight[0] != fingerprint(tiny().decoder)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[2]))
sys.path.insert(0, sys.argv[3])
import tutelage.learn.reference as reference
from test_dpo_runs import begun, whole
real, seen = reference.save_file, [0]
def half(tensors, path, **rest):
    real(tensors, path, **rest)
    seen[0] += 1
    if seen[0] == 2:
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
reference.save_file = half
whole("dpo", begun("dpo", Path(sys.argv[1])))
"""


def test_killed_while_the_reference_is_half_written_and_resumed_is_bit_equal(tmp_path):
    """By SIGKILL, in its second writing: that of what is held out, over that of what is trained on."""
    straight = begun("dpo", tmp_path / "straight")
    given = [str(tmp_path), str(torch.get_num_threads()), str(Path(__file__).parent)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *given], capture_output=True, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    again = Run.open(next(tmp_path.glob("dpo-*")))
    assert (again.path / FILE).exists()
    again.config = straight.config
    assert whole("dpo", again) == whole("dpo", straight)


@pytest.mark.parametrize("kind", ["simpo", "online"])
def test_ctrl_c_saves_and_goes_on_bit_equal(tmp_path, monkeypatch, kind):
    straight = whole(kind, begun(kind, tmp_path / "straight"))
    run, real = begun(kind, tmp_path / "stopped"), Learner.update

    def asks(self, *parts):
        run.stop_requested = self.step == 2  # as the first Ctrl-C does, during the third step
        return real(self, *parts)

    monkeypatch.setattr(Learner, "update", asks)
    with pytest.raises(Interrupted, match="--resume"):
        whole(kind, run)
    monkeypatch.undo()
    assert run.restore()[0] == 3
    again = Run.open(run.path)
    again.config = run.config
    assert whole(kind, again) == straight


# ---- online

SAMPLING = SamplingParams(max_tokens=6)
ASKED = [Prompt.text(f"Film {i}") for i in range(12)]


def evenness(text):
    return sum(ord(letter) % 2 == 0 for letter in text) / max(1, len(text))


def likes_even(prompt, completions, sign=1):
    """Ranks by the share of even letters, and lists the completions backwards, as an annotator may."""
    shown = tuple(reversed(completions))
    scores = [sign * evenness(c.text) for c in shown]
    ranks = tuple(1 + sum(other > mine for other in scores) for mine in scores)
    order = tuple(range(len(shown)))
    return Comparison(prompt=prompt, completions=shown, ranks=ranks, shown=order, annotator=WHO)


def mean_evenness(model):
    tokens = [model.tokenizer.prompt(p) for p in ASKED for _ in range(40)]
    sampled = Engine(model.decoder, model.tokenizer.end).generate(tokens, SAMPLING, seed=99)
    return float(np.mean([evenness(model.tokenizer.decode(s.tokens)) for s in sampled]))


@pytest.mark.parametrize(("kind", "online"), [("dpo", {}), ("kto", {"updates": 4, "completions": 4})])
def test_online_it_learns_what_the_annotator_likes_and_with_its_taste_turned_the_opposite(tmp_path, kind, online):
    config = config_of(kind, steps=16, batch_size=24, online=online, loss={"kind": kind, "beta": 0.5})
    reached = {}
    for sign in (1, -1):
        run = Run.start(tmp_path, "dpo", config)
        made = online_dpo(tiny(), ASKED, lambda p, c, s=sign: likes_even(p, c, s), config, run, sampling=SAMPLING)
        reached[sign] = mean_evenness(made)
    start = mean_evenness(tiny())
    assert reached[-1] < start - 0.05 < start + 0.05 < reached[1]
    assert 0 < run.metrics()[0]["dpo/answered"] <= 1


def test_online_any_annotator_will_do_such_as_the_simulated_panel(tmp_path):
    panel = default_panel(lambda texts: np.array([20 * evenness(t) for t in texts]))
    config = config_of("dpo", steps=12, batch_size=16, online={"completions": 3}, loss={"kind": "dpo", "beta": 0.5})
    rng = np.random.default_rng(0)
    run = Run.start(tmp_path, "dpo", config)
    made = online_dpo(tiny(), ASKED, lambda p, c: panel.compare(p, c, rng), config, run, sampling=SAMPLING)
    assert mean_evenness(made) > mean_evenness(tiny()) + 0.05


def test_online_the_very_tokens_are_learned_from_and_equal_texts_are_not_asked_about():
    """Half a letter decodes to U+FFFD, which is other tokens; the half of another letter decodes to the same."""
    model, asked = tiny(), []
    half, other, even, end = *(model.tokenizer.encode(c)[0] for c in "é中b"), model.tokenizer.end

    def annotate(prompt, completions):
        asked.append(prompt)
        return likes_even(prompt, completions)

    script = Scripted([[half, end], [even, end], [half, end], [other, end]], end)
    (made,) = compare_samples(model, ASKED[:2], annotate, script, config_of("dpo"), SAMPLING, 0)
    before = model.tokenizer.prompt(ASKED[0])
    assert asked == ASKED[:1]
    assert dict(zip(made.sequences, made.ranking.ranks, strict=True)) == {
        (*before, even, end): 1,
        (*before, half, end): 2,
    }
    assert made.prompt == len(before)


def test_iterated_its_reference_is_the_round_it_begins_with(tmp_path):
    config = config_of("dpo", steps=6, batch_size=8, online={"updates": 3, "reference": "round"})
    online_dpo(tiny(), ASKED, likes_even, config, run := Run.start(tmp_path, "dpo", config), sampling=SAMPLING)
    shifts = [row["dpo/chosen_shift"] for row in run.metrics()]
    assert [abs(s) < 1e-4 for s in shifts] == [True, False, False, True, False, False]


def test_online_a_prompt_may_be_longer_than_stored_labels_may_be(tmp_path):
    """KTO's strangers were once cut at `max_tokens`, inside their prompt, and nothing could be packed."""
    config = config_of("kto", steps=2, batch_size=8, max_tokens=4)
    run = Run.start(tmp_path, "dpo", config)
    online_dpo(tiny(), ASKED, likes_even, config, run, sampling=SAMPLING)
    assert len(run.metrics()) == 2


def test_online_faults_say_what_to_do(tmp_path):
    config = config_of("dpo", steps=2)

    def begin():
        return Run.start(tmp_path, "dpo", config)

    with pytest.raises(TrainingError, match="no prompts"):
        online_dpo(tiny(), [], likes_even, config, begin(), sampling=SAMPLING)
    with pytest.raises(TrainingError, match="round 1: of 12 prompts"):
        online_dpo(tiny(), ASKED, lambda p, c: None, config, begin(), sampling=SAMPLING)

    def others(prompt, completions):
        answer = likes_even(prompt, completions)
        return answer.model_copy(update={"completions": tuple(c.model_copy(update={"id": "x"}) for c in completions)})

    with pytest.raises(DataError, match="not shown"):
        online_dpo(tiny(), ASKED, others, config, begin(), sampling=SAMPLING)
