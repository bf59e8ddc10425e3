"""Every sentence of the studio is there in Chinese, with the same gaps."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from babel.messages.extract import extract
from jinja2.ext import babel_extract

from tutelage.studio.lead_words import ACTIONS
from tutelage.studio.locale import catalogues

STUDIO = Path(__file__).parent.parent / "tutelage" / "studio"
API_ONLY = "api*.py caller.py client.py pace.py outbox.py serving.py throttle.py webhooks.py"  # English, as the API is
WORDS = {"_": None, "gettext": None, "ngettext": (1, 2)}


def sentences() -> Iterator[tuple[str, str]]:
    """Every sentence of templates and code with the file it stands in; of counted ones the singular."""
    for path in sorted((STUDIO / "templates").rglob("*.html")):
        with path.open("rb") as file:
            for _line, _function, found, _comments in babel_extract(file, ("_", "ngettext"), [], {}):
                yield (found[0] if isinstance(found, tuple) else found), path.name
    for path in sorted(STUDIO.glob("*.py")):
        with path.open("rb") as file:
            for _line, found, _comments, _context in extract("python", file, WORDS):
                yield (found[0] if isinstance(found, tuple) else found), path.name


def test_every_sentence_is_there_in_chinese() -> None:
    known, found = catalogues()["zh_CN"].messages, list(sentences())
    assert len({sentence for sentence, _file in found}) > 150
    assert [(sentence, file) for sentence, file in found if sentence not in known] == []


def test_gaps_are_the_same() -> None:
    gaps = re.compile(r"\{\w*\}|%\(\w+\)s")
    for language in catalogues().values():
        for english, forms in language.messages.items():
            for said in forms:
                assert set(gaps.findall(said)) <= set(gaps.findall(english)), english
                assert set(gaps.findall(english)) - set(gaps.findall(said)) <= {"{count}"}, english


def calls(*names: str, leaving_out: str = "") -> Iterator[tuple[ast.Call, str]]:
    """Every call of these functions in the studio and below it, with the file it stands in."""
    for path in sorted([*STUDIO.glob("*.py"), *(STUDIO.parent / "feedback").glob("*.py")]):
        if any(path.match(name) for name in leaving_out.split()):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                yield node, path.name


def refusals() -> Iterator[tuple[str, str]]:
    """What every StudioError that a page can show says, values as numbered gaps, with the file it stands in."""
    for call, file in calls("StudioError", leaving_out=API_ONLY):
        match call.args[0]:
            case ast.Constant(value=str(said)):
                yield said, file
            case ast.JoinedStr(values=parts):
                gaps = iter(range(9))
                yield "".join(str(p.value) if isinstance(p, ast.Constant) else f"{{{next(gaps)}}}" for p in parts), file


def test_what_goes_wrong_is_told_in_chinese_too() -> None:
    chinese, found = catalogues()["zh_CN"], list(refusals())
    assert len({said for said, _file in found}) > 60
    assert [(said, file) for said, file in found if said not in chinese.messages] == []
    assert chinese.told("There is no batch 'a {0} b'") == "没有批次“a {0} b”"
    forbidden = "This is for people with the role lead; yours is rater"
    assert chinese.told(forbidden) == "这里需要角色 lead；你的角色是 rater"
    assert chinese.told("Sign in first") == "请先登录"
    assert chinese.told("Nobody has translated this") == "Nobody has translated this"
    assert catalogues()["en"].told("There is no batch 'x'") == "There is no batch 'x'"


def test_every_action_of_the_trail_has_words() -> None:
    said = {call.args[2].value for call, _file in calls("record", "note") if isinstance(call.args[2], ast.Constant)}
    assert len(said) > 15
    assert said - ACTIONS.keys() == set()
