"""Constitutional AI from end to end in the world of `harm_grammar`, by the verbs of a project."""

import random
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import yaml
from harm_grammar import (
    SENTENCES,
    Critic,
    constitution,
    harm,
    harmful,
    helpfulness,
    model,
    prompts,
    safe_answer,
    worths,
    written,
)

import tutelage
from tutelage.evaluate.arena import word_counts
from tutelage.evaluate.evasion import Evasion, evasion
from tutelage.evaluate.statistics import Mean, mean
from tutelage.feedback.simulated import Panel, SimulatedAnnotator
from tutelage.judge.constitution import ConstitutionConfig
from tutelage.judge.principles import judge_by_principles
from tutelage.judge.revision import Revised, revise
from tutelage.learn.reward import load_reward
from tutelage.model import causal
from tutelage.questions import FILE, Question, read_questions, write_questions
from tutelage.records import Annotator, Completion, Demonstration, Source
from tutelage.sample.sampler import SamplingParams
from tutelage.wire import generate

WRITER = Annotator(id="writer", kind="simulated", name="who only helps (simulated)")
ITSELF = Annotator(id="itself", kind="model", name="the model before")
PERSON = Annotator(id="person", kind="simulated", name="who wants help (simulated)")
SLOPE = 1.0
ROOM = 28  # tokens of an answer
SETTINGS = {
    "sft.steps": 250, "sft.batch_size": 32, "sft.max_tokens": 64, "sft.optimizer.learning_rate": 5e-3,
    "sft.evaluate_every": 0, "sft.save_every": 1000, "sampling.max_tokens": ROOM,
    "reward.steps": 300, "reward.batch_size": 16, "reward.max_tokens": 64, "reward.optimizer.learning_rate": 2e-3,
    "reward.evaluate_every": 0, "reward.save_every": 1000,
    "group.steps": 30, "group.batch_size": 64, "group.group_size": 4, "group.minibatches": 1, "group.epochs": 1,
    "group.sampling.max_tokens": ROOM, "group.optimizer.learning_rate": 1e-3, "group.kl.coefficient": 0.1,
    "group.evaluate_every": 0, "group.save_every": 1000,
}  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """What a model is worth on prompts nobody trained on."""

    harmlessness: Mean
    """Where harm is asked for: 1 less the share of sentences that do harm."""
    helpfulness: Mean
    evasion: Evasion
    words: Mean


def standing(made, seed):
    """Four answers to each held-out prompt."""
    held_out = [p for p in prompts() if p.split == "evaluation"]
    groups = generate(made, held_out, 4, SamplingParams(max_tokens=ROOM), seed=seed + 1000)
    rows = [(p, made.tokenizer.decode(one.tokens)) for p, group in zip(held_out, groups, strict=True) for one in group]
    texts = [text for _, text in rows]
    found = evasion([p.messages[0].content for p, _ in rows], texts)
    return Standing(*worths(rows), found, mean(word_counts(texts)))


def written_by_hand(seed, count):
    """Demonstrations of the writer who helps with whatever is asked."""
    rng, asked = random.Random(seed), [p for p in prompts() if p.split == "train"]
    return [Demonstration(prompt=p, text=written(rng, p), annotator=WRITER) for p in rng.choices(asked, k=count)]


def projects(folder, seed):
    """A project whose model was trained on the writer's answers, with the requests for harm in its store."""
    causal.save(model(seed), folder / "blank")
    begin = tutelage.init(folder / "base", model=str(folder / "blank"))
    with begin.store() as store:
        store.add_all(written_by_hand(seed, 2000))
    base = begin.sft({**SETTINGS, "seed": seed})
    project = tutelage.init(folder / "cai", model=str(base.final))
    with project.store() as store:
        store.add_all(p for p in prompts() if p.split == "train" and harmful(p))
    rules = yaml.safe_dump(constitution().model_dump(mode="json"), sort_keys=False)
    (folder / "cai" / "grammar.yaml").write_text(rules)
    return project, base


def supervise(project, common, critic, draws):
    """SL-CAI: revisions of answers to requests for harm, and the model's own answers to all others."""
    revised = []
    for draw in range(draws):
        flags = {**common, "constitution.tags": "harmlessness", "seed": common["seed"] * draws + draw}
        revised.append(project.constitution_revise(flags, prompts=1000, critic=critic))
    with project.store() as store:
        store.add_all(p for p in prompts() if p.split == "train")
    mine, _ = project.sample(common, prompts=1000, completions=draws)
    asked = read_questions(mine.path / FILE)
    with project.store() as store:
        own = [(q.prompt, c.text) for q in asked if not harmful(q.prompt) for c in q.completions]
        store.add_all(Demonstration(prompt=p, text=text, annotator=ITSELF) for p, text in own)
    return revised, project.sft(common), asked


def pairs_of(*samplings, each=2):
    """Every two different ones of what several models wrote to a request, `each` of every model."""
    wrote = {}
    for question in (q for one in samplings for q in one):
        wrote.setdefault(question.prompt, []).extend(question.completions[:each])
    return [
        Question(prompt=prompt, completions=two)
        for prompt, made in wrote.items()
        for two in combinations(made, 2)
        if two[0].text != two[1].text
    ]


def label(folder, project, common, asked, judge):
    """Requests for harm are compared by principles, the others by people who want help, as in the paper."""
    red = write_questions(folder, [q for q in asked if harmful(q.prompt)])
    labels = project.constitution_compare(common, file=red, judges=[judge])
    rng, others = np.random.default_rng(common["seed"]), [q for q in asked if not harmful(q.prompt)]
    with project.store() as store:
        store.add_all(person(q).compare(q.prompt, q.completions, rng) for q in others)
    return labels


def person(question):
    """Somebody who wants help with one request: log-odds of SLOPE for every sentence that helps."""
    worth = [SLOPE * SENTENCES * helpfulness(question.prompt, c.text) for c in question.completions]
    said = {c.text: value for c, value in zip(question.completions, worth, strict=True)}
    return Panel((SimulatedAnnotator(PERSON, slope=1.0),), lambda texts: np.array([said[text] for text in texts]))


def whole_loop(folder, seed, *, draws=4, revising=0.9, comparing=0.65, inverted=False):
    """Base, SL-CAI and RL-CAI: where each stands, and what came of each stage.

    RL is run twice from SL-CAI: against labels on what came before it, and, since that policy may write what nobody
    has labelled, against labels on what it wrote too.
    """
    project, base = projects(folder, seed)
    common = {**SETTINGS, "seed": seed, "constitution.file": str(folder / "cai" / "grammar.yaml")}
    revised, supervised, mine = supervise(project, common, Critic(revising, seed, inverted=inverted).judge(), draws)
    judge = Critic(comparing, seed, inverted=inverted).judge()
    runs, rewards, before, policy = {"base": base, "SL-CAI": supervised}, [], mine, supervised
    for number, name in enumerate(("RL-CAI, labelled once", "RL-CAI"), 1):
        run, _ = project.sample(common, model=policy.id, prompts=1000, completions=draws)
        wrote = read_questions(run.path / FILE)
        labels = label(folder, project, common, pairs_of(before, wrote), judge)
        rewards.append(project.reward({**common, "reward.steps": number * SETTINGS["reward.steps"]}))
        policy = runs[name] = project.group(common, start=supervised.id, scorer=rewards[-1].id)
        before = wrote
    stands = {name: standing(causal.load(run.final), seed) for name, run in runs.items()}
    return project, revised, labels, rewards, stands


def rounds_of(revised):
    """Harmlessness and helpfulness of all answers, round by round."""
    questions = [q for one in revised for q in read_questions(one.run.path / "questions.jsonl")]
    number = len(questions[0].completions)
    return [worths([(q.prompt, q.completions[k].text) for q in questions]) for k in range(number)]


def answers(seed):
    """An answer to every request by the writer who helps with whatever is asked."""
    rng = random.Random(seed)
    return [Revised(p, Completion(text=written(rng, p), source=Source(model="writer"))) for p in prompts()]


def revised_rounds(begin, seed, *, accuracy, inverted=False):
    """Harmlessness and helpfulness of answers after 0 to 4 rounds, without any model."""
    critic = Critic(accuracy, seed, inverted=inverted).judge()
    made = revise(begin, critic, constitution().of("harmlessness"), ConstitutionConfig(), seed=seed)
    assert not any(one.reason for one in made)
    texts = [[(one.prompt, one.first.text), *((one.prompt, r.text) for r in one.revisions)] for one in made]
    return [worths(rows) for rows in zip(*texts, strict=True)]


def pairs(seed, count):
    """Pairs of answers to one request for harm, of which one does less."""
    rng, found = random.Random(seed), []
    asked = [p for p in prompts() if harmful(p)]
    while len(found) < count:
        prompt = rng.choice(asked)
        made = [Completion(text=written(rng, prompt), source=Source(model="writer")) for _ in range(2)]
        if harm(made[0].text) != harm(made[1].text):
            found.append(Question(prompt=prompt, completions=tuple(made)))
    return found


def label_accuracy(asked, ensemble, *, seed, accuracy=0.65, shared=0.3, inverted=False):
    """How often the label of so many principles together names the answer that does less harm."""
    config = ConstitutionConfig(ensemble=ensemble)
    judge = Critic(accuracy, seed, shared=shared, inverted=inverted).judge()
    rules = constitution().of("harmlessness")
    right = []
    for one in judge_by_principles(asked, [judge], rules, config, seed=seed, least_mass=0.0):
        first, second = (harm(c.text) for c in one.question.completions)
        right.append((one.together.preference > 0.5) == (first < second))
    return right


def scored(run, pairs):
    """What a reward model says of both answers to each prompt."""
    found = load_reward(run.path / "model")
    read = found.tokenizer
    rows = [[*read.prompt(prompt), *read.completion(text)] for prompt, *two in pairs for text in two]
    return found.score(rows).view(-1, 2).tolist()


def reward_accuracy(run, asked):
    """How often a reward model scores the answer that does less harm higher."""
    texts = [[c.text for c in q.completions] for q in asked]
    scores = scored(run, [(q.prompt, *two) for q, two in zip(asked, texts, strict=True)])
    return [(a > b) == (harm(x) < harm(y)) for (a, b), (x, y) in zip(scores, texts, strict=True)]


def nothing_above_help(run, seed):
    """Whether a reward model scores an empty answer above four harmless sentences, by held-out request for harm."""
    rng, held_out = random.Random(seed), [p for p in prompts() if p.split == "evaluation" and harmful(p)]
    return [nothing > helps for nothing, helps in scored(run, [(p, "", safe_answer(rng, p)) for p in held_out])]
