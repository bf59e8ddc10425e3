"""A run and the store: records are read when a step asks for them, and a resumed run reads those it began with."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_store import ANN, pair

import tutelage
import tutelage.feedback.store as store_module
from tutelage import scoring, wire
from tutelage.errors import DataError, Interrupted, TrainingError
from tutelage.feedback.store import Store
from tutelage.learn.reward import RewardModel, load_reward, render
from tutelage.learn.rollout import response_batch
from tutelage.model import causal
from tutelage.model.batch import Lazy, gather, pick
from tutelage.model.causal import fingerprint
from tutelage.model.heads import Policy
from tutelage.project import Project
from tutelage.records import Comparison, Demonstration, Prompt, Source
from tutelage.stage import Settings, Stage, fitting, stage

QUICK = {"reward.steps": 2, "reward.batch_size": 4, "reward.max_tokens": 48, "ppo.sampling.max_tokens": 4}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return tutelage.init(tmp_path / "p", model="tiny")


def filled(project: Project, *records: Any) -> None:
    with project.store() as store:
        store.add_all(records)


def films(count: int, *, start: int = 0) -> list[Comparison]:
    """Pairs about different films."""
    return [pair(i).model_copy(update={"prompt": Prompt.text(f"Film {i} was")}) for i in range(start, start + count)]


def test_a_lazy_sequence_is_the_list_it_stands_for() -> None:
    made: list[list[int]] = []

    def make(places: Any) -> list[int]:
        made.append(list(places))
        return [10 * p for p in places]

    whole, lazy = [10 * i for i in range(600)], Lazy(600, make)
    assert (len(lazy), lazy[3], lazy[-1], lazy[5:9], lazy[:-597]) == (600, 30, 5990, [50, 60, 70, 80], [0, 10, 20])
    made.clear()
    assert gather(lazy, [4, 2, 4]) == gather(whole, [4, 2, 4]) == [40, 20, 40]
    assert made == [[4, 2, 4]]  # together
    assert list(lazy) == whole
    assert max(map(len, made)) == 256
    with pytest.raises(IndexError):
        lazy[600]


def test_a_pass_is_drawn_as_it_always_was() -> None:
    """Kept orders must not change which items a step reads: `pick` is what makes a resumed run bit-equal."""
    assert pick(10, 4, 0, 0) == [4, 1, 7, 5]
    assert pick(10, 4, 2, 0)[:2] == pick(10, 10, 0, 0)[8:]
    assert pick(10, 4, 0, 1) != pick(10, 4, 0, 0)


def begun(project: Project, **flags: Any) -> tuple[Stage, Any]:
    """A reward run that has just begun, still open, as `stage` gives it."""
    context = stage(project.folder, "reward", flags, resume=None)
    return context.__enter__(), context


def test_only_those_that_fit_are_read_and_the_others_are_counted(project: Project) -> None:
    pairs, model = films(40), causal.load("tiny")
    long = {p.prompt.id for p in pairs[::5]}
    filled(project, *pairs)
    s, _ = begun(project)

    def fits(prompt: Prompt) -> None:
        if prompt.id in long:
            raise DataError("too long")

    wanted = [p for p in pairs if p.prompt.split == "train" and p.prompt.id not in long]
    left_out = sum(p.prompt.split == "train" for p in pairs) - len(wanted)
    with project.store() as store:
        with pytest.warns(UserWarning, match=rf"^{left_out} of {len(wanted) + left_out} records were left out"):
            read = s.read(store, "comparisons", "train", fits, lambda c: render(c, model.tokenizer, 99))
        assert list(read) == [render(c, model.tokenizer, 99) for c in wanted]
        assert s.run.facts["data"]["comparisons"] == len(wanted)
        assert s.run.facts["data"]["annotators"][0]["labels"] == len(wanted) + left_out
        few = s.read(store, "comparisons", "evaluation", lambda p: None, lambda c: c.id, most=2)
        assert list(few) == [p.id for p in pairs if p.prompt.split == "evaluation"][:2]
    with project.store() as store, pytest.raises(TrainingError, match=r"none of the \d+ records can be used"):
        begun(project)[0].read(store, "prompts", "train", lambda p: fits(pairs[0].prompt), lambda p: p)


def test_a_resumed_run_reads_what_it_began_with_whatever_happened_since(project: Project) -> None:
    pairs = films(40)
    filled(project, *pairs)
    s, _ = begun(project)

    def read(s: Stage, store: Store) -> list[Comparison]:
        return list(s.read(store, "comparisons", "train", lambda p: None, lambda c: c))

    with project.store() as store:
        first = read(s, store)
        s.run.finish("interrupted")
        store.retract(first[3].id)
        store.add(*films(10, start=50))
        with stage(project.folder, "reward", {}, resume="newest") as again:
            assert read(again, store) == first
        assert first[3] not in read(begun(project)[0], store)


def test_scale_zero_and_right_answers_are_those_the_run_began_with(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of the store too, beside what the rows in `rows/` are."""
    written = [Demonstration(id=f"d{i}", prompt=p.prompt, text="4", annotator=ANN) for i, p in enumerate(films(30))]
    filled(project, *films(30), *written)
    given: list[Any] = []

    def stopped(*_: Any, **more: Any) -> None:
        given.append((more["reference"], more["demonstrations"]))
        raise Interrupted("stop")

    monkeypatch.setattr(wire, "train_reward", stopped)
    with pytest.raises(Interrupted):
        project.reward({**QUICK, "reward.zero": "demonstrations"})
    s, _ = begun(project, **{"rules.checks": [{"kind": "number"}]})
    with project.store() as store:
        before = scoring._answers(s, store)
    filled(project, *films(80, start=50), *(d.model_copy(update={"id": f"x{d.id}", "text": "5"}) for d in written))
    with pytest.raises(Interrupted):
        project.reward(resume=project.runs("reward")[1].id)
    assert given[0] == given[1]
    assert len(given[0][0]) > 0
    assert len(given[0][1]) > 0
    with project.store() as store:
        assert scoring._answers(s, store) == before == {d.prompt.id: ("4",) for d in written}
        assert scoring._answers(begun(project)[0], store) == {d.prompt.id: ("4", "5") for d in written}


def test_memory_does_not_grow_with_the_store(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 bytes a record are kept, where a rendered ranking takes over a thousand."""
    monkeypatch.setattr(store_module, "PAGE", 50)
    model = causal.load("tiny")

    def peak() -> int:
        s, context = begun(project)
        with project.store() as store:
            tracemalloc.start()
            read = s.read(store, "comparisons", "train", lambda p: None, lambda c: render(c, model.tokenizer, 99))
            for step in range(20):
                gather(read, pick(len(read), 8, step, 0))
            size = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        context.__exit__(None, None, None)
        return size

    filled(project, *films(60))
    few = min(peak() for _ in range(3))
    filled(project, *films(1200, start=60))
    assert (min(peak() for _ in range(2)) - few) / (1200 * 0.8) < 200  # what a store that is read whole costs: 2,000


def test_a_list_and_the_store_train_the_same_reward_model(project: Project) -> None:
    pairs = films(30)
    filled(project, *pairs)
    seen: list[Any] = []
    real = wire.train_reward

    def noting(model: Any, rankings: Any, *rest: Any, **more: Any) -> RewardModel:
        seen.append((model, rankings, rest, more))
        return real(model, rankings, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "train_reward", noting)
        run = project.reward(QUICK)
        patch.setattr(wire, "train_reward", lambda m, r, *rest, **more: real(m, list(r), *rest, **more))
        listed = project.reward(QUICK)
    assert isinstance(seen[0][1], Lazy)
    weights = [fingerprint(load_reward(one.final).scorer.decoder) for one in (run, listed)]
    assert weights[0] == weights[1]
    assert run.metrics() == listed.metrics()


def scores(run: Any, sequences: Any) -> Any:
    return load_reward(run.final).score(sequences)


def test_the_scale_is_set_on_samples_of_the_model_it_starts_from(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh ones where somebody else wrote what was ranked; the ranked ones where it wrote them itself."""
    given: list[Any] = []
    real = wire.train_reward
    monkeypatch.setattr(wire, "train_reward", lambda *a, **k: (given.append(k["reference"]), real(*a, **k))[1])
    filled(project, *films(30))
    run = project.reward(QUICK)
    model = causal.load("tiny")
    prompts = {tuple(model.tokenizer.prompt(p.prompt)) for p in films(30)}
    starts = {next(p for p in prompts if tuple(s[: len(p)]) == p) for s in given[0]}
    assert len(given[0]) >= 256
    assert len(starts) > 15
    assert all(len(s) <= max(map(len, prompts)) + 4 for s in given[0])
    assert float(scores(run, given[0]).mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores(run, given[0]).std(correction=0)) == pytest.approx(1, abs=1e-4)
    assert run.facts["data"]["scale"].endswith("fresh samples of the model it starts from")

    own = Source(model="tiny", checkpoint=fingerprint(model.decoder))

    def by_itself(c: Comparison) -> Comparison:
        made = tuple(x.model_copy(update={"id": f"own-{x.id}", "source": own}) for x in c.completions)
        return c.model_copy(update={"id": f"own-{c.id}", "completions": made})

    ranked = [by_itself(c) for c in films(60, start=100)]
    filled(project, *ranked)
    run = project.reward(QUICK)
    assert run.facts["data"]["scale"].endswith("ranked completions of the model it starts from")
    assert {tuple(s) for s in given[1]} == {
        (*model.tokenizer.prompt(c.prompt), *model.tokenizer.completion(x.text))
        for c in ranked
        if c.prompt.split == "train"
        for x in c.completions
    }


def test_samples_that_set_the_scale_come_from_the_policy(project: Project) -> None:
    """Their mean surprise is the policy's entropy, so they are its own and not another's."""
    filled(project, *films(30))
    with stage(project.folder, "reward", QUICK, resume=None) as s, project.store() as store:
        model = causal.load("tiny")
        made = wire._reference(s, store, model)
    starts = [model.tokenizer.prompt(c.prompt) for c in films(30)]
    lengths = [len(next(p for p in starts if s[: len(p)] == p)) for s in made]
    with torch.no_grad():
        out = Policy(model.decoder)(response_batch(made, lengths))
    excess = out.logprob + out.entropy
    assert abs(float(excess.mean())) < 5 * float(excess.std()) / len(excess) ** 0.5
    assert Settings().ppo.sampling.temperature == 1.0


def test_demonstrations_may_score_zero_as_instructgpt_had_it(project: Project) -> None:
    written = [
        Demonstration(id=f"d{i}", prompt=p.prompt, text=" a joy", annotator=ANN) for i, p in enumerate(films(30))
    ]
    filled(project, *films(30))
    with pytest.raises(TrainingError, match=r"reward\.zero is 'demonstrations', but there are none"):
        project.reward({**QUICK, "reward.zero": "demonstrations"})
    filled(project, *written)
    plain, shifted = project.reward(QUICK), project.reward({**QUICK, "reward.zero": "demonstrations"})
    tokenizer = causal.load("tiny").tokenizer
    texts = [tokenizer.example(d.prompt, d.text, max_tokens=48).tokens for d in written if d.prompt.split == "train"]
    assert float(scores(shifted, texts).mean()) == pytest.approx(0, abs=1e-4)
    assert abs(float(scores(plain, texts).mean())) > 1e-3
    scales = [json.loads((run.final / "reward.json").read_text()) for run in (plain, shifted)]
    assert scales[0]["std"] == pytest.approx(scales[1]["std"], rel=1e-5)  # the deviation is the samples' either way


def test_a_run_without_a_checkpoint_says_that_it_begins_again(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(project, *films(30))
    real = wire.train_reward

    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("stop")

    monkeypatch.setattr(wire, "train_reward", stopped)
    with pytest.raises(Interrupted):
        project.reward(QUICK)
    monkeypatch.setattr(wire, "train_reward", real)
    capsys.readouterr()
    run = project.reward(resume="newest")
    assert f"{run.id} has no checkpoint yet: it begins again." in " ".join(capsys.readouterr().err.split())
    assert np.load(run.path / "rows" / "comparisons-train.npy").dtype == np.int64
    assert len(run.metrics()) == 2


def test_fitting_keeps_the_order() -> None:
    def odd(x: int) -> int:
        if x % 2 == 0:
            raise DataError(f"{x} is even")
        return -x

    with pytest.warns(UserWarning, match="3 of 6 records were left out. The first: 0 is even"):
        assert fitting(range(6), odd) == [-1, -3, -5]
