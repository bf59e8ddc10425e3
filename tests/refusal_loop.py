"""Rule-based rewards from end to end in the world of `refusal_grammar`, by the verbs of a project.

A tiny policy is taught to answer out of all habits, whatever is asked. People who only want help rank its samples, and
a reward model learns from them; other samples are labelled with the propositions of the rulebook `safety`. From these
the grader and its weights are fitted, and the policy is trained against the sum.
"""

import json
import random
from dataclasses import dataclass

import numpy as np
from harm_grammar import harmful, model, prompts
from harm_loop import person
from refusal_grammar import BOOK, WORDS, behaviour, ideal, refuses, truth, written

import tutelage
from tutelage.evaluate.statistics import Rate, clustered_rate
from tutelage.model import causal
from tutelage.questions import FILE, read_questions
from tutelage.records import Annotator, Demonstration
from tutelage.rule_based import Graded
from tutelage.sample.sampler import SamplingParams
from tutelage.wire import generate

WRITER = Annotator(id="all-habits", kind="simulated", name="who has all habits (simulated)")
ROOM = 28  # tokens of an answer
SETTINGS = {
    "sft.steps": 2000, "sft.batch_size": 32, "sft.max_tokens": 64, "sft.optimizer.learning_rate": 5e-3,
    "sft.evaluate_every": 0, "sft.save_every": 1000, "sampling.max_tokens": ROOM,
    "reward.steps": 100, "reward.batch_size": 16, "reward.max_tokens": 64, "reward.optimizer.learning_rate": 2e-3,
    "reward.evaluate_every": 0, "reward.save_every": 1000,
    "group.steps": 300, "group.batch_size": 64, "group.group_size": 4, "group.minibatches": 1, "group.epochs": 1,
    "group.sampling.max_tokens": ROOM, "group.optimizer.learning_rate": 1e-3, "group.kl.coefficient": 0.2,
    "group.evaluate_every": 0, "group.save_every": 1000,
}  # fmt: skip


@dataclass(frozen=True)
class Manners:
    """How a model answers; by the grammar, not by any grader."""

    complies: Rate
    """Safe requests: answers that do all that was asked and nothing else."""
    refuses: Rate
    """Unsafe requests: answers that say no and do nothing."""
    politely: Rate
    """Unsafe requests: answers that say sorry and no, and nothing else."""
    overrefuses: Rate
    """Safe requests: answers that say no."""
    babbles: Rate
    """Answers that do not follow from what was asked."""


def wrote(made, seed):
    """Four answers to every request that nobody trained on."""
    held_out = [p for p in prompts() if p.split == "evaluation"]
    groups = generate(made, held_out, 4, SamplingParams(max_tokens=ROOM), seed=seed + 1000)
    return [(p, made.tokenizer.decode(one.tokens)) for p, group in zip(held_out, groups, strict=True) for one in group]


def manners(rows):
    """What such answers come to."""
    safe, unsafe = ([row for row in rows if harmful(row[0]) == wanted] for wanted in (False, True))
    return Manners(
        complies=share(ideal, safe),
        refuses=share(refuses, unsafe),
        politely=share(ideal, unsafe),
        overrefuses=share(refuses, safe),
        babbles=share(lambda p, text: truth(p, text)["illogical_continuation_of_prompt"], rows),
    )


def share(claim, rows):
    """Of how many answers it holds, with an interval over prompts."""
    return clustered_rate([float(claim(*row)) for row in rows], [p.id for p, _ in rows])


def project(folder, seed):
    """A project whose model answers out of all habits, its sft run, and people's rankings of its samples."""
    rng, train = random.Random(seed), [p for p in prompts() if p.split == "train"]
    causal.save(model(seed, WORDS), folder / "blank")
    made = tutelage.init(folder / "p", model=str(folder / "blank"))
    with made.store() as store:
        answers = [(p, written(rng, p)) for p in rng.choices(train, k=8000)]
        store.add_all(Demonstration(prompt=p, text=text, annotator=WRITER) for p, text in answers)
    made.sft({**SETTINGS, "seed": seed})
    run, _ = made.sample({**SETTINGS, "seed": seed}, prompts=1000, completions=4)
    asked, draws = read_questions(run.path / FILE), np.random.default_rng(seed)
    with made.store() as store:
        store.add_all(person(q).compare(q.prompt, q.completions, draws) for q in asked)
    return made, asked


def label(folder, asked, book=BOOK):
    """The files of rule-based rewards: labelled answers, what each prompt asks for, and the rulebook."""
    rows = [
        {"prompt": [m.model_dump() for m in q.prompt.messages], "completion": c.text, "behaviour": behaviour(q.prompt),
         "propositions": truth(q.prompt, c.text)}
        for q in asked for c in q.completions
    ]  # fmt: skip
    behaviours = [{"prompt": [m.model_dump() for m in p.messages], "behaviour": behaviour(p)} for p in prompts()]
    for name, lines in (("labelled", rows), ("behaviours", behaviours)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "book.yaml").write_text(json.dumps(book.model_dump(mode="json")))
    return {
        "propositions.rulebook": str(folder / "book.yaml"),
        "propositions.labelled": str(folder / "labelled.jsonl"),
        "propositions.behaviours": str(folder / "behaviours.jsonl"),
    }


def inverted(book):
    """The rulebook with all that is wanted unacceptable, and all that is unacceptable wanted by nobody."""
    nobodys = {"desired": (), "undesired": ()}
    changed = [one.model_copy(update=nobodys | {"unacceptable": one.desired}) for one in book.propositions]
    return book.model_copy(update={"propositions": tuple(changed)})


@dataclass(frozen=True)
class Trained:
    """What came of one seed."""

    manners: dict[str, Manners]
    """By policy: before; with rules, whose grader knows what the first wrote; with rules, whose grader knows what that
    one wrote too; and of the controls against the reward model alone and with rules that are inverted."""
    graded: Graded
    """What `tutelage propositions` says of grader and weights."""


def whole_loop(folder, seed, *, labelled=150, controls=False):
    """The policy before, and after training against each reward. `labelled`: prompts whose samples are labelled.

    With `controls` also against the reward model alone, and against rules that are inverted.
    """
    made, asked = project(folder, seed)
    common = {**SETTINGS, "seed": seed}
    made.reward(common)
    before = made.runs("sft")[0]
    runs = {"before": before.id}
    if controls:
        runs["reward model"] = made.group(common).id
    common |= {"propositions.reader": str(before.path / "model")}
    rules, few = common | {"group.reward": "propositions"}, asked[:labelled]
    runs["with rules, labelled once"] = made.group(rules | label(folder, few)).id
    more, _ = made.sample(common, model=runs["with rules, labelled once"], prompts=labelled, completions=4)
    few += read_questions(more.path / FILE)
    runs["with rules"] = made.group(rules | label(folder, few)).id
    graded = made.propositions(common | label(folder, few))
    if controls:
        runs["inverted"] = made.group(rules | label(folder, few, inverted(BOOK))).id
    found = {name: causal.load(tutelage.runs.Run.open(made.folder.runs / run).final) for name, run in runs.items()}
    return Trained({name: manners(wrote(one, seed)) for name, one in found.items()}, graded)
