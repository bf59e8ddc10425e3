"""Active selection end to end: two reward runs, a batch, and the queue that raters then meet."""

from itertools import count, islice

import numpy as np
import pytest
import torch
from sqlalchemy import select

from tutelage.cli import run as run_command
from tutelage.errors import DataError, StudioError
from tutelage.feedback.assignment import Desk
from tutelage.feedback.batches import Batches
from tutelage.feedback.database import read
from tutelage.feedback.oversight import Oversight
from tutelage.feedback.work import BatchSpec, NewItem, Ranked
from tutelage.feedback.work_tables import work_items
from tutelage.learn.reward import RewardModel, load_reward, save_reward
from tutelage.model.heads import Head, Scorer
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.project import Project
from tutelage.quality.choosing import ranking_gain
from tutelage.records import Completion, Prompt, Source, new_id
from tutelage.runs import Run
from tutelage.stage import Settings

PLAIN = {"overlap_share": 0.0, "gold_share": 0.0, "repeat_share": 0.0}


def reward_run(project, seed, std, **reward):
    """A reward model with random weights, saved with this scale."""
    torch.manual_seed(seed)
    decoder = tiny_decoder(seed=seed)
    width = decoder.head_weight().shape[1]
    head = Head.reward(width, torch.Generator().manual_seed(seed))
    settings = Settings.model_validate({"reward": reward})
    made = Run.start(project.folder.runs, "reward", settings, parents=[])
    made.leave(lambda folder: save_reward(RewardModel(Scorer(decoder, head), tiny_tokenizer(), 0.3, std), folder))
    made.finish("done")
    return made.id


def of_split(split):
    """Prompts that fall into this split."""
    return (p for i in count() if (p := Prompt.text(f"play {i}")).split == split)


@pytest.fixture
def films(tmp_path):
    """A project with two reward runs and a batch of twelve comparisons."""
    project = Project.init(tmp_path / "films", model="tiny")
    runs = [reward_run(project, 1, 0.5), reward_run(project, 2, 2.0)]
    rng = np.random.default_rng(0)
    with project.store() as store:
        words = ["".join(rng.choice(list("abcdef "), 12)) for _ in range(24)]
        made = [Completion(text=word, source=Source(model="m")) for word in words]
        items = [
            NewItem(prompt=Prompt.text(f"film {i}"), completions=tuple(made[2 * i : 2 * i + 2])) for i in range(12)
        ]
        batch = Batches(store).open(BatchSpec(name="b", kind="comparison", random_share=0.0, **PLAIN), items).id
    return project, runs, batch


def test_raters_meet_first_what_the_models_disagree_about(films, capsys):
    project, runs, batch = films
    with project.store() as store:
        left = Oversight(store).waiting(batch)
    margins = []
    for name in runs:  # the slow twin: one text at a time, raw scores
        model = load_reward(project.folder.runs / name / "model")

        def raw(prompt, text, model=model):
            return float(model.score([model.tokenizer.example(prompt, text, max_tokens=512).tokens])[0]) * model.std

        margins.append([[raw(p, c.text) for c in done] for _, p, done in left])
    order = [left[i][1].messages[0].content for i in np.argsort(-ranking_gain(np.array(margins)))]
    assert run_command(["prioritise", batch, *runs, "--project", str(project.folder.path)]) == 0
    assert "12 of 12 open items put in order by 2 reward models" in capsys.readouterr().out
    with project.store() as store:
        desk, met = Desk(store), []
        for _ in range(12):
            held = desk.next("person-1", batch)
            met.append(held.messages[0].content)
            desk.skip("person-1", held.id, "other")
    assert met == order


def test_what_does_not_fit_a_model_keeps_its_place(films):
    """The second run was trained with little room, as its own settings say; the project's would have been enough."""
    project, runs, _ = films
    runs[1] = reward_run(project, 2, 2.0, max_tokens=16)
    with project.store() as store:
        made = [Completion(text=text, source=Source(model="m")) for text in ("aaa", "bbb")]
        asked = ["film " * (4 if i == 1 else 1) + str(i) for i in range(4)]
        items = [NewItem(prompt=Prompt.text(text), completions=tuple(made)) for text in asked]
        batch = Batches(store).open(BatchSpec(name="long", kind="comparison", random_share=0.0, **PLAIN), items).id
    with pytest.warns(UserWarning, match="1 of 4 records were left out. The first: the prompt that starts"):
        done = project.prioritise(batch, runs)
    assert (done.items, done.moved) == (4, 3)


def test_a_reward_model_of_each_arm_and_both_side_by_side(films, capsys):
    """Half of a batch is put in order; each arm's run learns from its own labels alone, and names who gave them."""
    project, runs, _ = films
    with project.store() as store:
        spec = BatchSpec(name="half", kind="comparison", random_share=0.5, **PLAIN)
        made = [Completion(text=text, source=Source(model="m")) for text in ("aaa", "bbb")]
        prompts = list(islice(of_split("train"), 24))
        batch = Batches(store).open(spec, [NewItem(prompt=p, completions=tuple(made)) for p in prompts]).id
    project.prioritise(batch, runs)
    with project.store() as store:
        desk, arms, said = Desk(store), Oversight(store).arms(batch), {}
        for n in range(24):
            held = desk.next(f"person-{n % 2}", batch)
            [said[held.id]] = desk.submit(f"person-{n % 2}", held.id, held.id, Ranked(ranks=(1, 2))).labels
        with read(store.engine) as connection:
            arm_of = {row.id: row.arm for row in connection.execute(select(work_items.c.id, work_items.c.arm))}
        one = next(store.comparisons())
        for away in islice(of_split("evaluation"), 2):  # what both are measured on
            store.add(one.model_copy(update={"id": new_id(), "prompt": away}))
    made = {arm: project.reward({"reward.arm": arm, "reward.steps": 1}) for arm in ("active", "random")}
    for arm, run in made.items():
        wanted = {label for item, label in said.items() if arm_of[item] == arm}
        with project.store() as store:
            rows = store.comparisons_at(np.load(run.path / "rows" / "comparisons-train.npy").tolist())
        assert {c.id for c in rows} == wanted
        assert len(wanted) == arms[arm][0] > 0
        assert sum(one["labels"] for one in run.facts["data"]["annotators"]) == len(wanted)
    found = project.compare_arms([made["random"].id, made["active"].id])
    assert found.labels == {arm: items for arm, (items, _) in arms.items()}
    assert found.arms.active.n == found.arms.random.n == 2
    names = [run.id for run in made.values()]
    assert run_command(["compare-arms", *names, "--project", str(project.folder.path)]) == 0
    assert "active - random" in capsys.readouterr().out
    with project.store() as store:  # a pair that fits neither
        away = next(p for i in count() if (p := Prompt.text("play " * 200 + str(i))).split == "evaluation")
        store.add(one.model_copy(update={"id": new_id(), "prompt": away}))
    with pytest.warns(UserWarning, match="1 of 3 records were left out"):
        assert project.compare_arms(names).arms.active.n == 2
    with pytest.raises(DataError, match=r"one run of each arm is needed, here: .* of all"):
        project.compare_arms([runs[0], names[0]])


def test_what_cannot_be_put_in_order(films):
    project, runs, batch = films
    with pytest.raises(DataError, match="1 reward runs: disagreement needs two"):
        project.prioritise(batch, [runs[0], runs[0]])
    with pytest.raises(StudioError, match="There is no batch 'x'"):
        project.prioritise("x", runs)
    with project.store() as store:
        writing = Batches(store).open(BatchSpec(name="w", kind="demonstration"), [NewItem(prompt=Prompt.text("a"))]).id
    with pytest.raises(DataError, match="nothing is left"):
        project.prioritise(writing, runs)
