"""Every sentence of the studio is there in Chinese, with the same gaps."""

import re
from collections.abc import Iterator
from pathlib import Path

from babel.messages.extract import extract
from jinja2.ext import babel_extract

from tutelage.studio.locale import catalogues

STUDIO = Path(__file__).parent.parent / "tutelage" / "studio"
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
