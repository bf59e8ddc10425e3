"""Instructions that a program can check, as IFEval defines them (Zhou et al. 2023, table 1; 25 kinds).

1. Names, arguments and rules are those of the published checker, so its file of prompts can be read as it is.
2. Sentences are told by punctuation and languages by script and function words (`judge/language.py`), where the
   original loads trained models: close calls may differ.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from tutelage.config import Section
from tutelage.judge.language import language_of

Value = str | int | tuple[str, ...]
NEEDS: Mapping[str, tuple[str, ...]] = {
    "keywords:existence": ("keywords",),
    "keywords:frequency": ("keyword", "relation", "frequency"),
    "keywords:forbidden_words": ("forbidden_words",),
    "keywords:letter_frequency": ("letter", "let_relation", "let_frequency"),
    "language:response_language": ("language",),
    "length_constraints:number_sentences": ("relation", "num_sentences"),
    "length_constraints:number_paragraphs": ("num_paragraphs",),
    "length_constraints:number_words": ("relation", "num_words"),
    "length_constraints:nth_paragraph_first_word": ("num_paragraphs", "nth_paragraph", "first_word"),
    "detectable_content:number_placeholders": ("num_placeholders",),
    "detectable_content:postscript": ("postscript_marker",),
    "detectable_format:number_bullet_lists": ("num_bullets",),
    "detectable_format:constrained_response": (),
    "detectable_format:number_highlighted_sections": ("num_highlights",),
    "detectable_format:multiple_sections": ("section_spliter", "num_sections"),
    "detectable_format:json_format": (),
    "detectable_format:title": (),
    "combination:two_responses": (),
    "combination:repeat_prompt": ("prompt_to_repeat",),
    "startend:end_checker": ("end_phrase",),
    "startend:quotation": (),
    "change_case:capital_word_frequency": ("capital_relation", "capital_frequency"),
    "change_case:english_capital": (),
    "change_case:english_lowercase": (),
    "punctuation:no_comma": (),
}
RELATIONS = ("at least", "less than")
WORD = re.compile(r"\w+")
TOKEN = re.compile(r"\w+(?:['’-]\w+)*")
ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|vs|etc|e\.g|i\.e|[A-Z])\.(?=\s)")
SENTENCE_END = re.compile(r"[.!?。！？…]+[\"'”’)\]]*(?=\s|$)|[。！？]")


class Instruction(Section):
    """One instruction and its arguments."""

    id: str
    """Its name, such as `length_constraints:number_words`."""
    arguments: dict[str, Value] = Field(default_factory=dict)
    """What it says besides, such as `{relation: at least, num_words: 300}`."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.id not in NEEDS:
            raise ValueError(f"there is no instruction {self.id!r}; known: {', '.join(NEEDS)}")
        if self.arguments.keys() != set(NEEDS[self.id]):
            raise ValueError(
                f"{self.id} takes {', '.join(NEEDS[self.id]) or 'no arguments'}; got "
                f"{', '.join(self.arguments) or 'none'}"
            )
        wrong = [v for name, v in self.arguments.items() if name.endswith("relation") and v not in RELATIONS]
        if wrong:
            raise ValueError(f"a relation is 'at least' or 'less than', not {wrong[0]!r}")
        return self


def followed(instruction: Instruction, text: str) -> bool:
    """Whether a text follows an instruction. An empty text follows none."""
    if not text.strip():
        return False
    family, _, name = instruction.id.partition(":")
    a: Mapping[str, Any] = instruction.arguments
    match family:
        case "keywords":
            return _keywords(name, a, text)
        case "length_constraints":
            return _length(name, a, text)
        case "detectable_content" | "detectable_format":
            return _format(name, a, text)
        case "change_case":
            return _case(name, a, text)
        case "language":
            return language_of(text) == str(a["language"])
        case "punctuation":
            return "," not in text
        case _:
            return _frame(name, a, text)


def _holds(count: int, relation: str, bound: int) -> bool:
    return count >= bound if relation == "at least" else count < bound


def _keywords(name: str, a: Mapping[str, Any], text: str) -> bool:
    match name:
        case "existence":
            return all(re.search(re.escape(word), text, re.IGNORECASE) for word in a["keywords"])
        case "frequency":
            found = re.findall(re.escape(a["keyword"]), text, re.IGNORECASE)
            return _holds(len(found), a["relation"], a["frequency"])
        case "forbidden_words":
            return not any(re.search(rf"\b{re.escape(w)}\b", text, re.IGNORECASE) for w in a["forbidden_words"])
        case _:
            return _holds(text.lower().count(a["letter"].lower()), a["let_relation"], a["let_frequency"])


def _length(name: str, a: Mapping[str, Any], text: str) -> bool:
    match name:
        case "number_sentences":
            return _holds(sentences(text), a["relation"], a["num_sentences"])
        case "number_words":
            return _holds(len(WORD.findall(text)), a["relation"], a["num_words"])
        case "number_paragraphs":
            return _between(text, "***", a["num_paragraphs"])
        case _:
            parts = [part for part in text.split("\n\n") if part.strip()]
            if len(parts) != a["num_paragraphs"] or not 1 <= a["nth_paragraph"] <= len(parts):
                return False
            first = re.match(r"\W*(\w+)", parts[a["nth_paragraph"] - 1])
            return first is not None and first[1].lower() == str(a["first_word"]).lower()


def sentences(text: str) -> int:
    """How many sentences a text has; what stands behind the last full stop counts as one."""
    plain = ABBREVIATION.sub(lambda m: m[0][:-1], text.strip())
    pieces = [piece for piece in SENTENCE_END.split(plain) if WORD.search(piece)]
    return len(pieces)


def _between(text: str, divider: str, wanted: int) -> bool:
    """Whether the divider cuts the text into that many parts, none of them empty but before or behind all."""
    parts = [part.strip() for part in text.split(divider)]
    return all(parts[1:-1]) and sum(bool(part) for part in parts) == wanted


def _format(name: str, a: Mapping[str, Any], text: str) -> bool:
    match name:
        case "number_placeholders":
            return len(re.findall(r"\[.*?\]", text)) >= int(a["num_placeholders"])
        case "postscript":
            letters = re.findall(r"\w", a["postscript_marker"])  # P.P.S, P. P. S. and p.p.s are one marker, PPS is not
            last = r"\." if a["postscript_marker"].endswith(".") else r"(?!\w)"
            marker = r"\.\s?".join(re.escape(letter) for letter in letters) + last
            return re.search(rf"(?<!\w){marker}", text, re.IGNORECASE) is not None
        case "number_bullet_lists":
            return len(re.findall(r"^\s*(?:\*[^*\n]|-)", text, re.MULTILINE)) == int(a["num_bullets"])
        case "constrained_response":
            return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))
        case "number_highlighted_sections":
            found = re.findall(r"\*\*[^\n*]+\*\*|\*[^\n*]+\*", text)
            return sum(bool(one.strip("*").strip()) for one in found) >= int(a["num_highlights"])
        case "multiple_sections":
            found = re.findall(rf"{re.escape(a['section_spliter'])}\s?\d+", text)
            return len(found) >= int(a["num_sections"])
        case "json_format":
            return _is_json(text)
        case _:
            return any(title.strip("<> ") for title in re.findall(r"<<[^\n]+?>>", text))


def _is_json(text: str) -> bool:
    bare = re.sub(r"^```(?:json)?|```$", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(bare)
    except ValueError:
        return False
    return True


def _case(name: str, a: Mapping[str, Any], text: str) -> bool:
    match name:
        case "capital_word_frequency":
            count = sum(word.isupper() for word in TOKEN.findall(text))
            return _holds(count, a["capital_relation"], a["capital_frequency"])
        case "english_capital":
            return text.isupper() and language_of(text) == "en"
        case _:
            return text.islower() and language_of(text) == "en"


def _frame(name: str, a: Mapping[str, Any], text: str) -> bool:
    """What a text begins and ends with, and texts in two parts."""
    bare = text.strip()
    match name:
        case "two_responses":
            parts = [part.strip() for part in bare.split("******")]
            return _between(bare, "******", 2) and len({part for part in parts if part}) == 2
        case "repeat_prompt":
            return bare.lower().startswith(a["prompt_to_repeat"].strip().lower())
        case "end_checker":
            return bare.strip('"').lower().endswith(a["end_phrase"].strip().strip('"').lower())
        case _:
            return len(bare) > 1 and bare[0] == bare[-1] == '"'
