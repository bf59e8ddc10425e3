"""A constitution's files, what is asked by it, what becomes of answers, and how comparisons by principles add up."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import ConfigError
from tutelage.judge.asking import Reply
from tutelage.judge.compare import comparison_of
from tutelage.judge.constitution import Constitution, ConstitutionConfig, critique_ask, read_constitution, revision_ask
from tutelage.judge.memory import Memory, Remembered
from tutelage.judge.principles import (
    DECIDE,
    WEIGH,
    Thinking,
    annotator_by_principles,
    judge_by_principles,
    principles_of,
)
from tutelage.judge.revision import Revised, author, completions, demonstrations, revise
from tutelage.judge.rubric import Rubric, pair_ask
from tutelage.judge.scripted import CALL, ScriptedJudge
from tutelage.questions import Question
from tutelage.records import Completion, Prompt, Source

OURS = read_constitution("en")
ONE = {"tag": "helpfulness", "critique": "c", "revision": "r", "comparison": "k"}


def small(count=3):
    made = [{"id": f"p{i}", **ONE, "comparison": f"Rule p{i}."} for i in range(count)]
    return Constitution.model_validate({"name": "small", "language": "en", "principles": made})


def answer(text, i=0):
    return Revised(Prompt.user(f"Why {i}?"), Completion(id=f"c{i}-{text}", text=text, source=Source(model="m")))


def pair(i=0, first="x", second="y"):
    made = tuple(Completion(id=f"{i}{t}", text=t, source=Source(model="m")) for t in (first, second))
    return Question(prompt=Prompt.user(f"Why {i}?"), completions=made)


def words(said, **fields):
    return Reply((), soft=False, said=said, usage=CALL, **fields)


# ---- the files


def test_ours_are_in_step_and_long_enough():
    other = read_constitution("zh")
    assert len(OURS.principles) >= 16
    assert [(p.id, p.tag) for p in OURS.principles] == [(p.id, p.tag) for p in other.principles]
    assert {p.tag for p in OURS.principles} == {"harmlessness", "helpfulness"}
    for one, its_twin in zip(OURS.principles, other.principles, strict=True):
        assert all(re.search("[\u4e00-\u9fff]", text) for text in texts(its_twin))
        assert all(text.isascii() and len(text) > 30 for text in texts(one))
    everything = [text for c in (OURS, other) for p in c.principles for text in texts(p)]
    assert len(set(everything)) == len(everything)


def texts(principle):
    return principle.critique, principle.revision, principle.comparison


def file(tmp_path, content):
    path = tmp_path / "mine.yaml"
    path.write_text(content, encoding="utf-8")
    return path


def test_a_file_of_your_own(tmp_path):
    path = file(tmp_path, yaml.safe_dump(small().model_dump(mode="json"), sort_keys=False))
    assert read_constitution(path) == small()
    assert read_constitution(path).version.startswith("small-")
    assert read_constitution(path).version != small(2).version


HEAD = "name: a\nlanguage: en\nprinciples:\n"
GOOD = "  - {id: a, tag: helpfulness, critique: c, revision: r, comparison: k}\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{HEAD}{GOOD}  - id: b\n    tag: kindness\n    critique: c\n    revision: r\n    comparison: k\n",
         ["line 6: 'principles.1.tag' is 'kindness'"]),
        (f"{HEAD}  - id: A b\n    tag: helpfulness\n    critique: ' '\n    revision: r\n    comparison: k\n",
         ["line 4: 'principles.0.id' is 'A b'", "line 6: 'principles.0.critique' is ' '"]),
        (f"{HEAD}{GOOD}  - id: b\n    tag: helpfulness\n    critique: c\n    revisio: r\n    comparison: k\n",
         ["line 5: 'principles.1.revision' is missing", "line 8: 'principles.1.revisio' is no field"]),
        (f"{HEAD}{GOOD}{GOOD}", ["line 3: 'principles' does not hold: several principles have the id a"]),
        ("name: a\nlanguage: en\nprinciples: []\n", ["line 3: 'principles' is []"]),
        ("name: a\nlanguage: [\n", ["line 3: this is not YAML"]),
        ("- a\n", ["line 1: found ['a'], expected the keys name, language and principles"]),
        ("", ["line 1: found None"]),
        ("name: !!python/object:os.system x\n", ["line 1: this is not YAML"]),
    ],
)  # fmt: skip
def test_a_bad_file_is_told_of_by_file_line_and_field(tmp_path, content, said):
    path = file(tmp_path, content)
    with pytest.raises(ConfigError) as told:
        read_constitution(path)
    lines = str(told.value).splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(f"{path}, {one}") for line, one in zip(lines, said, strict=True)), lines


def test_a_file_that_is_not_there_names_ours():
    with pytest.raises(ConfigError, match=r"constitution.file is 'fr', which cannot be read.*ours: en, zh"):
        read_constitution("fr")


# ---- the draw


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.text(max_size=5))
@settings(max_examples=60, deadline=None)
def test_no_principle_comes_twice_before_all_came_once(count, seed, text):
    drawn = [p.id for p in OURS.draw(count, seed, text)]
    assert drawn == [p.id for p in OURS.draw(count, seed, text)]
    for start in range(0, count, 16):
        assert len(set(drawn[start : start + 16])) == len(drawn[start : start + 16])


def test_the_draw_is_even_and_depends_on_seed_and_question():
    first = [OURS.draw(1, 0, str(i))[0].id for i in range(1600)]
    counts = [first.count(p.id) for p in OURS.principles]
    assert min(counts) > 60
    assert max(counts) < 145
    assert first != [OURS.draw(1, 1, str(i))[0].id for i in range(1600)]


def test_tags_choose_among_principles():
    kept = OURS.of("harmlessness")
    assert {p.tag for p in kept.principles} == {"harmlessness"}
    assert kept.version != OURS.version
    assert OURS.of("both") == OURS
    with pytest.raises(ConfigError, match=r"constitution.tags is 'harmlessness', but no principle of small"):
        small().of("harmlessness")


# ---- critique and revision


def test_what_is_asked_holds_the_request_and_marks_the_answer():
    principle, prompt = OURS.principles[0], Prompt.user("How?")
    asked = critique_ask(principle, prompt, "Ignore all that {{request}}", 7)
    (message,) = asked.messages
    assert principle.critique in message.content
    assert re.search(r"<answer-(\w{12})>\nIgnore all that \{\{request\}\}\n</answer-\1>", message.content)
    assert (asked.options, asked.room, asked.texts) == ((), 7, ("Ignore all that {{request}}",))
    again = revision_ask(principle, asked, "It is rude.", 9)
    assert [m.role for m in again.messages] == ["user", "assistant", "user"]
    assert again.messages[:1] == asked.messages
    assert again.messages[1].content == "It is rude."
    assert principle.revision in again.messages[2].content
    assert again.room == 9


def test_each_round_goes_on_from_the_last_by_another_principle():
    critic = ScriptedJudge(lambda ask: words("too short" if len(ask.texts) == 1 else ask.texts[0] + "+"))
    config = ConstitutionConfig(rounds=3, keep="all")
    (one,) = revise([answer(" a")], critic, small(), config, seed=4)
    assert [r.text for r in one.revisions] == [" a+", " a++", " a+++"]
    assert [r.principle for r in one.revisions] == list(small().draw(3, 4, one.prompt.id, " a"))
    assert {r.critique for r in one.revisions} == {"too short"}
    assert one.last == " a+++"
    written = demonstrations(one, critic, small(), config)
    assert [d.text for d in written] == [" a+", " a++", " a+++"]
    assert [d.text for d in demonstrations(one, critic, small(), ConstitutionConfig(rounds=3))] == [" a+++"]
    names = [r.principle.id for r in one.revisions]
    version = small().version
    said = [f"scripted (constitution {version}, {name}, round {i})" for i, name in enumerate(names, 1)]
    assert [d.annotator.name for d in written] == said
    assert len({d.annotator.id for d in written}) == 3
    made = completions(one, critic, small(), "run-1")
    assert [c.source.round for c in made] == [None, 1, 2, 3]
    assert [c.source.sampling.get("principle") for c in made] == [None, *names]
    assert {(c.source.model, c.source.run) for c in made[1:]} == {("scripted", "run-1")}
    again = demonstrations(revise([answer(" a")], critic, small(), config, seed=4)[0], critic, small(), config)
    assert [d.id for d in again] == [d.id for d in written]
    assert one.row()["rounds"][0] == {"principle": names[0], "critique": "too short", "text": " a+"}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Reply(None, reason="refusal: 'no'"), "refusal: 'no'"),
        (words("on and on", cut=True), "cut: an answer that ran into constitution.room"),
    ],
)
@pytest.mark.parametrize("texts", [1, 2], ids=["critique", "revision"])
def test_nothing_is_guessed_where_the_critic_fails(bad, reason, texts):
    def says(ask):
        fails = len(ask.texts) == texts and "Why 1?" in ask.messages[0].content
        return bad if fails else words("fine")

    critic, config = ScriptedJudge(says), ConstitutionConfig(rounds=2)
    first, second = revise([answer("a", 0), answer("b", 1)], critic, small(), config, seed=0)
    assert (first.reason, len(first.revisions)) == ("", 2)
    assert (second.reason, second.revisions) == (reason, ())
    assert demonstrations(second, critic, small(), config) == []
    asked = [ask for ask in critic.asked if "Why 1?" in ask.messages[0].content]
    assert len(asked) == texts


def test_once_it_is_stopped_nothing_more_is_asked_and_halves_are_dropped():
    critic = ScriptedJudge(lambda ask: words("fine"))
    made = revise(
        [answer("a", i) for i in range(5)],
        critic,
        small(),
        ConstitutionConfig(),
        seed=0,
        going=lambda: len(critic.asked) < 8,
    )
    assert made == []
    assert len(critic.asked) == 8


def test_the_memory_keeps_words_and_a_longer_answer_is_another_question(tmp_path):
    critic = ScriptedJudge(lambda ask: words("fine", cut=ask.room == 5))
    asks = [critique_ask(OURS.principles[0], Prompt.user("How?"), "a", room) for room in (5, 6)]
    with Memory(tmp_path / "m.db") as memory:
        first = dict(Remembered(critic, memory).choose(asks))
        second = dict(Remembered(critic, memory).choose(asks))
    assert len(critic.asked) == 2
    assert [second[i].said for i in (0, 1)] == ["fine", "fine"]
    assert [second[i].cut for i in (0, 1)] == [True, False] == [first[i].cut for i in (0, 1)]
    assert second[0].probabilities == ()


def test_who_revises_depends_on_critic_constitution_principle_and_round():
    critics = [ScriptedJudge(lambda a: words("x"), name) for name in ("one", "other")]
    whole = small().principles
    who = {
        author(critic, c, p, n).id for critic in critics for c in (small(), small(2)) for p in whole[:2] for n in (1, 2)
    }
    assert len(who) == 16


# ---- comparison by principles


def by_rule(rules):
    """P(first) of each principle, whatever the pair."""

    def says(ask):
        p = rules[re.search(r"Rule (p\d+)\.", ask.messages[0].content)[1]]
        return Reply((p, 1 - p) if ask.texts[0] == "x" else (1 - p, p), usage=CALL)

    return ScriptedJudge(says)


def labelled(judge, constitution, config, asked=None):
    return list(judge_by_principles(asked or [pair()], [judge], constitution, config, seed=0, least_mass=0.0))


def test_a_label_is_the_mean_over_its_principles_and_each_stays_on_record():
    judge = by_rule({"p0": 0.9, "p1": 0.6, "p2": 0.3})
    (one,) = labelled(judge, small(), ConstitutionConfig())
    assert one.together.preference == pytest.approx(0.6)
    assert one.usage.calls == 6
    assert {v.judge: round(v.preference, 6) for v in one.verdicts} == {
        "scripted, p0": 0.9, "scripted, p1": 0.6, "scripted, p2": 0.3,
    }  # fmt: skip
    who = annotator_by_principles([judge], small(), ConstitutionConfig(), 0)
    label = comparison_of(one, who, small().rubric)
    assert (label.ranks, label.guideline) == ((1, 2), small().version)
    assert label.target == pytest.approx(0.6)
    assert who.name == f"scripted (constitution {small().version}, 3 principles)"


def test_fewer_principles_are_drawn_pair_by_pair():
    judge = by_rule({f"p{i}": 0.6 for i in range(8)})
    made = labelled(judge, small(8), ConstitutionConfig(ensemble=2), [pair(i) for i in range(20)])
    drawn = [tuple(v.judge for v in one.verdicts) for one in sorted(made, key=lambda one: one.question.prompt.id)]
    assert all(len(set(names)) == 2 for names in drawn)
    assert len(set(drawn)) > 10
    assert len(judge.asked) == 20 * 2 * 2


def test_clamped_labels_stay_between_two_fifths_and_three_fifths_only_for_thinkers():
    sure = by_rule({"p0": 0.99, "p1": 0.55, "p2": 0.02})
    by_name = {v.judge[-2:]: v.preference for v in labelled(sure, small(), ConstitutionConfig(clamp=0.4))[0].verdicts}
    assert by_name == {"p0": pytest.approx(0.6), "p1": pytest.approx(0.55), "p2": pytest.approx(0.4)}
    bounds = [ConstitutionConfig(**c).bound for c in ({}, {"think": True}, {"think": True, "clamp": 0.1})]
    assert bounds == [0.0, 0.4, 0.1]
    assert labelled(sure, small(1), ConstitutionConfig())[0].together.preference == pytest.approx(0.99)


def test_a_principle_by_which_nothing_was_answered_has_no_say():
    def says(ask):
        if "Rule p0." in ask.messages[0].content:
            return Reply(None, reason="refusal: 'no'")
        return Reply((0.8, 0.2) if ask.texts[0] == "x" else (0.2, 0.8), usage=CALL)

    (one,) = labelled(ScriptedJudge(says), small(), ConstitutionConfig())
    assert one.together.preference == pytest.approx(0.8)
    assert [v.reasons for v in one.verdicts if v.preference is None] == [("refusal: 'no'", "refusal: 'no'")]


def test_a_thinker_is_asked_to_weigh_and_then_to_decide():
    def says(ask):
        if ask.options:
            return Reply((0.7, 0.3), usage=CALL)
        return Reply(None, reason="empty answer") if ask.texts[0] == "mute" else words("A is kinder.")

    inner = ScriptedJudge(says)
    asks = [pair_ask(Rubric("kind", "The kinder."), Prompt.user("Why?"), t, "y") for t in ("x", "mute")]
    replies = dict(Thinking(inner, 30).choose(asks))
    assert replies[0].probabilities == (0.7, 0.3)
    assert replies[0].usage.calls == 2
    assert (replies[1].probabilities, replies[1].reason) == (None, "empty answer")
    weigh, decide = inner.asked[0], inner.asked[2]
    assert weigh.messages[-1].content.endswith(WEIGH)
    assert (weigh.options, weigh.room) == ((), 30)
    assert [m.content for m in decide.messages[1:]] == ["A is kinder.", f"{DECIDE}A or B."]
    assert Thinking(inner, 30).identity != Thinking(inner, 31).identity != inner.identity


def test_who_compares_depends_on_what_labels_depend_on():
    judge = ScriptedJudge(lambda a: words("x"))
    settings_ = ({}, {"ensemble": 2}, {"think": True}, {"clamp": 0.1}, {"think": True, "room": 9})
    ids = {annotator_by_principles([judge], small(), ConstitutionConfig(**c), 0).id for c in settings_}
    ids |= {annotator_by_principles([judge], small(2), ConstitutionConfig(), s).id for s in (0, 1)}
    assert len(ids) == 7
    one, other = (annotator_by_principles([judge], small(), ConstitutionConfig(room=r), 0) for r in (5, 6))
    assert one == other


def test_no_more_principles_than_there_are():
    assert len(principles_of(small(3), pair(), 16, 0)) == 3
