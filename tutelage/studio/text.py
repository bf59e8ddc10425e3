"""Model output is hostile: what it may do to a page is decided here, and nowhere else.

Markdown without HTML (markdown-it-py), then a list of allowed tags (nh3). No image is ever fetched: it would tell a
stranger the rater's address. A link shows where it leads. Characters that turn the direction of the text, or that no
one can see, are replaced. What is very long is cut, and the rest is plain text in a box that scrolls.
"""

import re
from dataclasses import dataclass

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markupsafe import Markup

LONGEST = 12_000  # characters shown at once; Markdown of more is slow to lay out, and nobody reads it
TURNING = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]")  # overrides, embeddings, isolates and marks
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f]")
DEEPEST = 20  # lists in lists; the parser drops what lies deeper, so such a text is shown as it stands
TAGS = {
    "p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li",
    "table", "thead", "tbody", "tr", "th", "td", "a",
}  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A text as a page shows it."""

    html: Markup
    length: int
    """Characters of the whole text."""
    rest: str | None = None
    """The whole text, plain, when `html` is only its beginning."""

    @property
    def blank(self) -> bool:
        """Whether there is nothing to be seen of it."""
        return not self.html.striptags().strip() and "<hr" not in self.html


def tame(text: str) -> str:
    """The text without control characters and without those that change the direction of what follows."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return TURNING.sub("\N{REPLACEMENT CHARACTER}", CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text))


def markdown(text: str) -> Shown:
    """A text from outside, as Markdown."""
    text = tame(text)
    tokens = _MARKDOWN.parse(text[:LONGEST])
    if any(token.level >= DEEPEST - 2 for token in tokens):
        return plain(text)
    html = clean(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))
    return Shown(html, len(text), text if len(text) > LONGEST else None)


def plain(text: str) -> Shown:
    """A text from outside as it stands, such as a prompt that is to be continued."""
    text = tame(text)
    html = Markup("<p>{}</p>").format(text[:LONGEST].strip("\n"))
    return Shown(html.replace("\n", Markup("<br>\n")), len(text), text if len(text) > LONGEST else None)


def clean(html: str) -> Markup:
    """Only the tags that a text needs, and no attribute but a link's address and a list's first number."""
    return Markup(
        nh3.clean(
            html,
            tags=TAGS,
            attributes={"a": {"href", "target"}, "ol": {"start"}},
            url_schemes={"http", "https"},
            link_rel="nofollow noopener noreferrer",
        )
    )


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": DEEPEST})
    parser.enable(["table", "strikethrough"])
    parser.disable(["image", "html_block", "html_inline", "reference"])
    parser.validateLink = _leads_outside  # type: ignore[method-assign]
    parser.core.ruler.push("show_where_links_lead", _show_addresses)
    parser.core.ruler.push("flatten_headings", _flatten_headings)
    return parser


def _leads_outside(url: str) -> bool:
    """Whether a link may be one: a web address in full. Any other stays the text it was written as."""
    return re.match(r"https?://[^/]", url, re.IGNORECASE) is not None


def _show_addresses(state: StateCore) -> None:
    for block in state.tokens:
        out: list[Token] = []
        address, said = "", ""
        for token in block.children or ():
            out.append(token)
            if token.type == "link_open":
                address, said = str(token.attrs["href"]), ""
                token.attrs = {"href": address, "target": "_blank"}
            elif token.type == "link_close" and said.strip() != address:
                out.append(Token("text", "", 0, content=f" ({address})"))
            else:
                said += token.content
        if block.children is not None:
            block.children = out


def _flatten_headings(state: StateCore) -> None:
    """A heading is a bold paragraph: the headings of the page are the page's own."""
    for opening, inline, closing in zip(state.tokens, state.tokens[1:], state.tokens[2:], strict=False):
        if opening.type == "heading_open":
            opening.tag = closing.tag = "p"
            inline.children = [
                Token("strong_open", "strong", 1),
                *(inline.children or ()),
                Token("strong_close", "strong", -1),
            ]


_MARKDOWN = _parser()
