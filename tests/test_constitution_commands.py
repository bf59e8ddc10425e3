"""`tutelage constitution` as a person types it: demonstrations and labels by an endpoint, and what is told of them."""

import json
import os
import re
import signal

import pytest
from judge_server import ChatServer, chat, fault, soft
from test_judge_commands import QUICK, figures, question, run, sampled

from tutelage import cli
from tutelage.feedback.store import Store
from tutelage.history import list_runs
from tutelage.judge.asking import Reply
from tutelage.judge.constitution import critique_ask, read_constitution
from tutelage.judge.endpoint import Endpoint, EndpointConfig
from tutelage.judge.local import LocalJudge
from tutelage.model.causal import Model
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.project import Project
from tutelage.records import Prompt
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams

SHORT = ["--sampling.max_tokens", "6", "--constitution.rounds", "2"]


@pytest.fixture
def project(tmp_path, capsys):
    """A tiny project with twelve prompts, of which some are for evaluation."""
    folder = tmp_path / "films"
    assert cli.run(["init", str(folder), "--model", "tiny"]) == 0
    with Store(folder / "tutelage.db") as store:
        store.add(*(Prompt.user(f"How {i}?") for i in range(8)))
        assert 3 < store.count("prompts", "train") < 9
    capsys.readouterr()
    return folder


def critic(body, _):
    """A critique of the first turn, and a revision that says which round of turns it is."""
    if len(body["messages"]) == 1:
        return chat(f"  It says too little about {re.search('How [0-9]+', body['messages'][0]['content'])[0]}. ")
    return chat(f"A better answer to {re.search('How [0-9]+', body['messages'][0]['content'])[0]}.")


def train_prompts(folder):
    with Store(folder / "tutelage.db") as store:
        return list(store.prompts("train"))


def test_an_endpoint_revises_and_sft_trains_on_it_without_a_step_between(project, capsys):
    prompts = train_prompts(project)
    with ChatServer(critic) as server:
        command = ["constitution", "revise", "--judge", f"{server.url}#critic-1", *QUICK, *SHORT]
        command += ["--judge.endpoint.prices", "{critic-1: [1000, 2000]}", "--constitution.room", "77"]
        found = figures(capsys, project, *command)
        assert (found["answers"], found["revised"], found["demonstrations"]) == (len(prompts),) * 3
        assert len(server.requests) == 4 * len(prompts)
        assert {body["max_tokens"] for *_, body in server.requests} == {77}
        assert not any("logprobs" in body for *_, body in server.requests)
        assert found["bill"][0]["calls"] == 4 * len(prompts)
        again = figures(capsys, project, *command)
        assert (again["demonstrations"], len(server.requests)) == (0, 4 * len(prompts))
    with Store(project / "tutelage.db") as store:
        made = list(store.demonstrations())
    assert {d.text for d in made} == {f"A better answer to {p.messages[0].content[:-1]}." for p in prompts}
    assert sum(found["principles"].values()) == 2 * len(prompts)
    version = read_constitution("en").version
    assert all(re.fullmatch(rf"critic-1 \(constitution {version}, [\w-]+, round 2\)", d.annotator.name) for d in made)
    rounds = found["rounds"]
    assert [one["round"] for one in rounds] == [0, 1, 2]
    assert rounds[1]["changed"]["rate"] == 1.0
    assert rounds[2]["changed"]["rate"] == 0.0
    trained = figures(capsys, project, "sft", "--sft.steps", "1", "--sft.batch_size", "2")
    lineage = run(capsys, project, "runs", "lineage", trained["run"])
    assert re.search(rf"critic-1 \(constitution {version}, [\w-]+, round 2\) \(model, \d\)", lineage)
    samples = (project / "runs" / found["run"] / "samples.jsonl").read_text().splitlines()
    first = json.loads(samples[0])["rounds"][0]
    assert first["critique"].startswith("It says too little about How")
    assert first["principle"] in found["principles"]
    text = run(capsys, project, "constitution", "report", found["run"])
    assert "round 2: evade" in text
    told = figures(capsys, project, "constitution", "report")
    assert told["rounds"] == again["rounds"]


def test_what_was_not_revised_is_told_of_and_taught_to_nobody(project, capsys):
    name = train_prompts(project)[0].messages[0].content

    def fails(body, before):
        mine = name in body["messages"][0]["content"]
        return chat("I", refusal="I will not") if mine and len(body["messages"]) > 1 else critic(body, before)

    with ChatServer(fails) as server:
        text = run(capsys, project, "constitution", "revise", "--judge", f"{server.url}#m", *QUICK, *SHORT)
    assert re.search(r"not revised: refusal +1\b", text)
    with Store(project / "tutelage.db") as store:
        assert name not in {d.prompt.messages[0].content for d in store.demonstrations()}
        assert store.count("demonstrations") == len(train_prompts(project)) - 1


def test_faults_are_retried_and_what_never_came_is_asked_by_the_next_run(project, capsys):
    name = train_prompts(project)[0].messages[0].content

    def broken(body, before):
        never = name in body["messages"][0]["content"]
        return fault(500, "broken") if before == 0 or never else critic(body, before)

    with ChatServer(broken) as server:
        command = ["constitution", "revise", "--judge", f"{server.url}#m", *QUICK, *SHORT]
        found = figures(capsys, project, *command)
        assert found["not_revised"] == {"HTTP 500": 1}
        server.answer = critic
        asked = len(server.requests)
        again = figures(capsys, project, *command)
        assert (again["demonstrations"], again["not_revised"]) == (1, {})
        assert len(server.requests) - asked == 4


def test_ctrl_c_keeps_every_answer_and_the_same_command_goes_on(project, capsys):
    def interrupted(body, before):
        if len(server.requests) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return critic(body, before)

    with ChatServer(interrupted) as server:
        command = ["constitution", "revise", "--judge", f"{server.url}#m", *QUICK, *SHORT]
        text = run(capsys, project, *command, expect=130)
        assert "Interrupted. Every answer so far is kept: the same command goes on." in text
        server.answer = critic
        found = figures(capsys, project, *command)
        assert found["demonstrations"] == len(train_prompts(project))
        assert len(server.requests) == 4 * found["demonstrations"]
    assert [r.status for r in list_runs(project / "runs", "constitution")] == ["done", "interrupted"]


def by_number(body, _):
    first, second = (int(n) for n in re.findall(r"answer \d+ (\d)", body["messages"][0]["content"]))
    return soft(0.9 if first > second else 0.3)


def test_pairs_are_labelled_by_principles_and_only_once(project, capsys):
    sampled(project, [question(0), question(1)])
    with ChatServer(by_number) as server:
        command = ["constitution", "compare", "--judge", f"{server.url}#m", *QUICK, "--constitution.ensemble", "3"]
        found = figures(capsys, project, *command)
        assert (found["asked"], found["labelled"], len(server.requests)) == (2, 2, 2 * 3 * 2)
        again = figures(capsys, project, *command)
        assert (again["asked"], again["known"], len(server.requests)) == (0, 2, 12)
    asked = [body["messages"][0]["content"] for *_, body in server.requests]
    comparisons = [p.comparison for p in read_constitution("en").principles]
    assert all(sum(c in text for c in comparisons) == 1 for text in asked)
    with Store(project / "tutelage.db") as store:
        labels = list(store.comparisons())
    assert [label.target for label in labels] == pytest.approx([0.2, 0.2])
    assert {label.guideline for label in labels} == {read_constitution("en").version}
    assert labels[0].annotator.name == f"m (constitution {read_constitution('en').version}, 3 principles)"


def test_thinking_labels_are_clamped(project, capsys):
    sampled(project, [question(0)])

    def thinks(body, before):
        return chat("The second says more.") if len(body["messages"]) == 1 else by_number(body, before)

    with ChatServer(thinks) as server:
        command = ["constitution", "compare", "--judge", f"{server.url}#m", *QUICK, "--constitution.ensemble", "1"]
        figures(capsys, project, *command, "--constitution.think", "--judge.endpoint.max_tokens", "8")
        assert len(server.requests) == 4
    with Store(project / "tutelage.db") as store:
        (label,) = store.comparisons()
    assert label.target == pytest.approx(0.4)
    assert label.ranks == (2, 1)


def test_show_checks_a_file(project, capsys, tmp_path):
    assert figures_of(capsys, "constitution", "show", "zh")["principles"][0]["id"] == "violence"
    (tmp_path / "mine.yaml").write_text("name: mine\nlanguage: en\nprinciples:\n  - id: a\n")
    assert cli.run(["constitution", "show", str(tmp_path / "mine.yaml")]) == 2
    assert "mine.yaml, line 4: 'principles.0.tag' is missing" in capsys.readouterr().err


def figures_of(capsys, *tokens):
    assert cli.run([*tokens, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["revise"], "no judge is named: give --judge a model or URL#model, or set judge.panel"),
        (["revise", "--judge", "a", "--judge", "b"], "one critic revises an answer, judge.panel names 2"),
        (["revise", "--judge", "tiny", "--constitution.file", "fr"], "constitution.file is 'fr', which cannot be read"),
        (["revise", "--judge", "tiny", "--constitution.rounds", "9"], "'constitution.rounds' is 9"),
        (["compare", "--judge", "tiny", "--constitution.clamp", "0.5"], "'constitution.clamp' is '0.5'"),
        (["report"], "there is no finished constitution run"),
    ],
)
def test_mistakes_are_explained(project, capsys, tokens, message):
    assert message in run(capsys, project, "constitution", *tokens, expect=2)


# ---- a model as the critic


def model():
    return Model(tiny_decoder(context=4096, seed=1), tiny_tokenizer(), "tiny")


def test_a_model_at_home_answers_open_questions_by_its_likeliest_tokens():
    home = model()
    asks = [
        critique_ask(read_constitution("en").principles[0], Prompt.user("Why?"), t, 5 + len(t)) for t in ("x", "yy")
    ]
    replies = dict(LocalJudge(home, Engine(home.decoder, home.tokenizer.end)).choose(asks))
    for i, ask in enumerate(asks):
        tokens = home.tokenizer.prompt(Prompt(messages=ask.messages))
        params = SamplingParams(max_tokens=ask.room, temperature=0)
        (one,) = Engine(home.decoder, home.tokenizer.end).generate([tokens], params, seed=3)
        text = home.tokenizer.decode(one.tokens).strip()
        assert (replies[i].said, replies[i].usage.written) == (text, len(one.tokens))
        assert replies[i].cut == (one.finish == "length" and bool(text))
    assert any(reply.said for reply in replies.values())
    assert dict(LocalJudge(home).choose(asks))[0].reason == "not for this model: it has no sampler"


def test_a_model_at_home_revises_from_python(project):
    home = model()
    judge = LocalJudge(home, Engine(home.decoder, home.tokenizer.end))
    done = Project.open(project).constitution_revise(
        {"sampling.max_tokens": 4, "constitution.room": 6, "constitution.rounds": 1}, prompts=3, critic=judge
    )
    assert done.answers == 3
    assert done.revised + sum(done.not_revised.values()) == 3
    assert set(done.not_revised) <= {"cut", "empty answer"}


def test_an_endpoint_gives_words_and_says_when_they_were_cut():
    def answer(body, _):
        text = chat("Well, now")[2]
        return 200, {}, text.replace('"stop"', '"length"') if "yy" in body["messages"][0]["content"] else text

    asks = [critique_ask(read_constitution("en").principles[0], Prompt.user("Why?"), t, 9) for t in ("x", "yy")]
    with ChatServer(answer) as server:
        replies = dict(Endpoint(f"{server.url}#m", EndpointConfig()).choose(asks))
    assert isinstance(replies[0], Reply)
    assert [(r.said, r.cut, r.probabilities) for r in (replies[0], replies[1])] == [
        ("Well, now", False, ()),
        ("Well, now", True, ()),
    ]
