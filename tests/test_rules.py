"""Rules as rewards: the tricky cases of numbers, patterns and instructions, and files of them."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.errors import DataError
from tutelage.judge.instructions import NEEDS, Instruction, followed, sentences
from tutelage.judge.language import language_of
from tutelage.judge.rules import (
    Exact,
    Instructions,
    Number,
    Regex,
    RuleReward,
    RulesConfig,
    final_number,
    numbers,
    plainly,
    read_instructions,
)
from tutelage.records import Prompt

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
HOW_MANY = Prompt.user("How many?")


def reward(*rules, answers=(), instructions=()):
    return RuleReward(rules, {HOW_MANY.id: tuple(answers)}, {HOW_MANY.id: tuple(instructions)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is 72.", 72),
        ("3 + 4 = 7", 7),
        ("3-4", 4),
        ("x = -5", -5),
        ("a change of −5 %", -5),
        ("$1,234.50 in all", Fraction("1234.5")),
        ("1,2,3", 3),
        ("1,2345", 2345),
        ("half, i.e. .5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("7.0", 7),
        ("#### 18", 18),
        ("first 5, then\n#### 1,080 (of 2,000)", 1080),
        (r"so \boxed{42}, not 41", 42),
        ("#### 3\nno, wait\n#### 4", 4),
        ("12 apples, 3rd row", 12),
        ("version 1.2.3", None),
        ("5/0", None),
        ("one", None),
        ("", None),
    ],
)
def test_the_final_number(text, expected):
    assert final_number(text) == expected


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "{}.0", "${}", "= {}.", "#### {}", "{}%"]))
def test_a_number_survives_its_spelling(n, form):
    assert final_number(f"We had 3 and 4.\n{form.format(n)}") == n


@settings(deadline=None)
@given(st.text())
def test_no_text_breaks_a_rule(text):
    numbers(text)
    rules = (Regex(pattern="a+"), Exact(answer="b"), Number(answer="1"), Instructions(follow=EVERY))
    assert 0 <= reward(*rules)(HOW_MANY, text) <= 4


@settings(deadline=None)
@given(st.text(alphabet="aB 1.", max_size=12), st.sampled_from(["{}", " {} ", "{}.", '"{}"', "**{}**"]))
def test_exact_is_blind_to_case_space_and_what_stands_at_the_ends(text, form):
    assert plainly(form.format(text.swapcase())) == plainly(text)


def test_exact_is_not_blind_to_anything_else():
    rule = reward(Exact(), answers=["Paris", "The city of Paris"])
    assert [rule(HOW_MANY, t) for t in ("paris.", "the city  of paris", "Paris, France", "")] == [1, 1, 0, 0]


def test_the_answer_comes_from_the_prompts_demonstrations():
    rule = reward(Number(), answers=["no number here", "16 - 3 = <<16-3=13>>13\n#### 13"])
    assert rule(HOW_MANY, "I get 13 in the end") == 1
    assert rule(HOW_MANY, "13, no, 14") == 0
    with pytest.raises(DataError, match=r"demonstration.*answer"):
        rule(Prompt.user("Another"), "13")
    with pytest.raises(DataError, match="number"):
        reward(Number(), answers=["nothing to count"]).check(HOW_MANY)


def test_rules_add_up_with_their_weights():
    rule = reward(
        Number(answer="4", weight=2.0), Regex(pattern=r"(?m)^####", weight=0.5), Regex(pattern="sorry", weight=-1)
    )
    assert rule(HOW_MANY, "#### 4") == 2.5
    assert rule(HOW_MANY, "sorry, 4") == 1.0
    assert rule(HOW_MANY, "sorry") == -1.0
    assert rule.rewards([(HOW_MANY, "#### 4"), (HOW_MANY, "4")]) == [2.5, 2.0]


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="no regular expression"):
        Regex(pattern="(")
    with pytest.raises(ValueError, match="there is no instruction"):
        Instruction(id="length_constraints:number_word")
    with pytest.raises(ValueError, match="takes relation, num_words; got num_words"):
        Instruction(id="length_constraints:number_words", arguments={"num_words": 3})
    with pytest.raises(ValueError, match="at least"):
        Instruction(id="length_constraints:number_words", arguments={"relation": "more", "num_words": 3})
    made = RulesConfig.model_validate({"checks": [{"kind": "regex", "pattern": "x"}, {"kind": "number"}]})
    assert [type(rule) for rule in made.checks] == [Regex, Number]


CASES = [
    ("keywords:existence", {"keywords": ("sun", "C++")}, ["Sunny C++ days"], ["sun and c"]),
    ("keywords:frequency", {"keyword": "na", "relation": "at least", "frequency": 2}, ["banana"], ["nab"]),
    ("keywords:frequency", {"keyword": "na", "relation": "less than", "frequency": 2}, ["nab"], ["banana"]),
    ("keywords:forbidden_words", {"forbidden_words": ("rock",)}, ["rocket rocks"], ["a Rock."]),
    ("keywords:letter_frequency", {"letter": "#", "let_relation": "at least", "let_frequency": 2}, ["# #"], ["#"]),
    ("language:response_language", {"language": "de"}, ["Das ist nicht der Hund."], ["That is not the dog."]),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3},
     ["Dr. Who is here. He left!", "One... two?"], ["One. Two. Three.", "A! B! C"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***\na\n***\nb"],
     ["a\n\nb", "a\n***\n***\nb"]),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, ["one two-three"], ["one two"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
     ["a\n\n\"Weekend, at last", "a\n\n\n\nweekend"], ["weekend\n\na", "a\n\nb\n\nweekend"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] of [place]"], ["[name]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP.S. hi", "p. s. hi"], ["Bye", "PS hi"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S. hi"], ["P.S. hi"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n  - b", "- a\n- b"], ["* a", "**a**\n- b"]),
    ("detectable_format:constrained_response", {}, ["Well. My answer is no."], ["no", "my answer is no."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and **b c**"], ["*a* and ** **"]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     ["SECTION 1\na\nSECTION 2\nb"], ["SECTION 1\na", "Section 1 Section 2"]),
    ("detectable_format:json_format", {}, ['{"a": 1}', '```json\n{"a": 1}\n```'], ["{'a': 1}", 'a {"a": 1}']),
    ("detectable_format:title", {}, ["<<Ode>>\nla"], ["<< >>", "<Ode>"]),
    ("combination:two_responses", {}, ["a\n******\nb"], ["a\n******\na", "a", "a******b******c"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, ["say it. It."], ["It. Say it."]),
    ("startend:end_checker", {"end_phrase": "Any more?"}, ['Yes. any more?"'], ["Any more? No."]),
    ("startend:quotation", {}, ['"Yes."'], ['"Yes', '"']),
    ("change_case:capital_word_frequency", {"capital_relation": "at least", "capital_frequency": 2},
     ["GO NOW please"], ["Go Now"]),
    ("change_case:english_capital", {}, ["THIS IS THE END"], ["THIS IS the END", "DAS IST NICHT DER HUND"]),
    ("change_case:english_lowercase", {}, ["this is the end"], ["this is The end"]),
    ("punctuation:no_comma", {}, ["a b"], ["a, b"]),
]  # fmt: skip
EVERY = tuple(Instruction(id=name, arguments=given) for name, given, *_ in CASES)


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_instructions(name, arguments, good, bad):
    instruction = Instruction(id=name, arguments=arguments)
    assert [text for text in good if not followed(instruction, text)] == []
    assert [text for text in bad if followed(instruction, text)] == []
    assert not followed(instruction, " \n")


def test_every_kind_of_instruction_has_a_case():
    assert {name for name, *_ in CASES} == set(NEEDS)


def test_the_share_of_instructions_or_all_of_them():
    both = (Instruction(id="punctuation:no_comma"), Instruction(id="startend:quotation"))
    share, whole = reward(Instructions(follow=both)), reward(Instructions(follow=both, all_or_nothing=True))
    assert [share(HOW_MANY, t) for t in ('"a"', "a", 'a, b"')] == [1, 0.5, 0]
    assert [whole(HOW_MANY, t) for t in ('"a"', "a")] == [1, 0]
    with pytest.raises(DataError, match="no instruction"):
        reward(Instructions()).check(HOW_MANY)
    assert reward(Instructions(), instructions=both[:1])(HOW_MANY, "a") == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("Mr. Fox, e.g. him, ran.", 1),
        ("Pi is 3.14 today. Yes", 2),
        ("好。再见！", 2),
        ("...", 0),
    ],
)
def test_sentences(text, count):
    assert sentences(text) == count


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat is on the mat and it was not you.", "en"),
        ("Le chat est dans la maison et il ne sort pas.", "fr"),
        ("O gato não está na casa e é muito bonito.", "pt"),
        ("Il gatto è nella casa e non è sul tavolo.", "it"),
        ("Kissa on talossa ja se ei ole pöydällä.", "fi"),
        ("Con mèo là của tôi và không được ra ngoài.", "vi"),
        ("Paka ni wa mtoto na yuko katika nyumba ya bibi.", "sw"),
        ("Это не кот, я так и сказал, что он дома.", "ru"),
        ("Введите правильный адрес.", "ru"),
        ("Котката е в къщата и не се вижда.", "bg"),
        ("यह बिल्ली घर में है और बाहर नहीं जाती।", "hi"),
        ("ही मांजर घरात आहे आणि बाहेर जात नाही.", "mr"),
        ("यो बिरालो घर मा छ र बाहिर जाँदैन।", "ne"),
        ("ಬೆಕ್ಕು ಮನೆಯಲ್ಲಿದೆ", "kn"),
        ("고양이는 집에 있다", "ko"),
        ("猫は家にいます", "ja"),
        ("猫在家里", "zh"),
        ("گربه در خانه است و چیزی نمی‌خورد", "fa"),
        ("بلی گھر میں ہے اور باہر نہیں جاتی", "ur"),
        ("یہ خانہ خالی نہیں چھوڑا جا سکتا کیونکہ یہ لازمی ہے", "ur"),
        ("Вікторія вдома", "uk"),
        ("القطة في البيت", "ar"),
        ("123 !?", None),
        ("xyzzy", None),
    ],
)
def test_languages(text, language):
    assert language_of(text) == language


def test_the_published_prompts_are_read_whole():
    path = DATA / "ifeval" / "input_data.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there: the set lies beside the project")
    found = read_instructions(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(found) == 2 * len(rows) == 1082
    first = rows[0]
    assert [i.id for i in found[Prompt.user(first["prompt"]).id]] == first["instruction_id_list"]
    assert {i.id for made in found.values() for i in made} == set(NEEDS)


def test_gsm8k_answers_are_found_in_their_own_solutions():
    path = DATA / "gsm8k" / "test.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there: the set lies beside the project")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        stated = row["answer"].split("####")[1].strip().replace(",", "")
        assert final_number(row["answer"]) == Fraction(stated)
        steps = row["answer"].split("####")[0]
        assert reward(Number(), answers=[row["answer"]])(HOW_MANY, steps) in (0.0, 1.0)
    without_mark = [final_number(r["answer"].split("####")[0]) == final_number(r["answer"]) for r in rows]
    assert sum(without_mark) / len(rows) > 0.9


def test_a_broken_file_of_instructions_is_named_with_its_line(tmp_path):
    path = tmp_path / "asked.jsonl"
    good = {"prompt": "Hi", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | {"instruction_id_list": ["x:y"]}) + "\n")
    with pytest.raises(DataError, match=r"asked.jsonl, line 2: .*no instruction 'x:y'"):
        read_instructions(path)
    path.write_text(json.dumps(good) + "\n")
    assert len(read_instructions(path)) == 2
    with pytest.raises(DataError, match="cannot read"):
        read_instructions(tmp_path / "none.jsonl")
