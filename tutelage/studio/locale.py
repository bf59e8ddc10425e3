"""The languages of the pages: gettext `.po` files read at start, kept in memory. No compiled file, no build step."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po
from fastapi import Request

from tutelage.feedback.people import Language, User

FOLDER = Path(__file__).parent / "locale"
LANGUAGES: tuple[Language, ...] = ("en", "zh_CN")
COOKIE = "tutelage_language"
GAP = re.compile(r"\\\{\d\\\}")  # of a message that was escaped for a pattern


@dataclass(frozen=True)
class Catalogue:
    """What each English message is in one language. A message without translation stays English."""

    language: Language
    messages: Mapping[str, tuple[str, ...]]
    """Singular, or the plural forms of a message counted by `ngettext`."""

    def gettext(self, message: str) -> str:
        """The message in this language."""
        return (self.messages.get(message) or (message,))[0]

    def told(self, message: str) -> str:
        """What went wrong, in this language: also where the message has values in its gaps, which stay as they are."""
        if message not in self.messages:
            for pattern, said in self._with_gaps:
                if found := pattern.fullmatch(message):
                    return said.format(*found.groups())
        return self.gettext(message)

    @cached_property
    def _with_gaps(self) -> list[tuple[re.Pattern[str], str]]:
        """Messages such as `There is no batch '{0}'`, as patterns of what is said with the gaps filled."""
        numbered = [(message, forms[0]) for message, forms in self.messages.items() if "{0}" in message]
        return [(re.compile(GAP.sub("(.*)", re.escape(message)), re.DOTALL), said) for message, said in numbered]

    def ngettext(self, one: str, many: str, count: int) -> str:
        """The message for a count; `{count}` in it is for the caller to fill in."""
        forms = self.messages.get(one)
        if not forms:
            return one if count == 1 else many
        return forms[0] if len(forms) == 1 or count == 1 else forms[1]


@cache
def catalogues() -> Mapping[str, Catalogue]:
    """Every language's catalogue, by its name."""
    return {language: _read(language) for language in LANGUAGES}


def _read(language: Language) -> Catalogue:
    path = FOLDER / language / "LC_MESSAGES" / "messages.po"
    found: Catalog = Catalog(locale=language)
    if path.is_file():
        with path.open("rb") as file:
            found = read_po(file, locale=language)
    messages: dict[str, tuple[str, ...]] = {}
    for message in found:
        if not message.id or message.fuzzy:
            continue
        key, said = message.id, message.string
        forms = tuple(said) if isinstance(said, (tuple, list)) else (said,)
        if all(forms):
            messages[key if isinstance(key, str) else key[0]] = tuple(str(f) for f in forms)
    return Catalogue(language, messages)


def chosen_language(request: Request, user: User | None) -> Language:
    """The user's language; else the cookie's of whoever is not signed in; else the browser's; else English."""
    if user is not None:
        return user.language
    for language in LANGUAGES:
        if request.cookies.get(COOKIE) == language:
            return language
    accepted = request.headers.get("accept-language", "")
    for part in accepted.split(","):
        tag = part.split(";")[0].strip().lower()
        if tag.startswith("zh"):
            return "zh_CN"
        if tag.startswith("en"):
            return "en"
    return "en"
