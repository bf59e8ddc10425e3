"""What models write cannot act on a page: no tag of theirs, no address fetched, no direction turned."""

import re
import time
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.studio.text import DEEPEST, LONGEST, TAGS, Shown, markdown, plain, tame

HOSTILE = {
    "image with a handler": "<img src=x onerror=alert(1)>",
    "script": "<script>alert(1)</script>",
    "svg": "<svg/onload=alert(1)>",
    "handler in a list": "- <b onmouseover=alert(1)>x</b>",
    "javascript link": "[a](javascript:alert(1))",
    "javascript link, spelled": "[a](JaVaScRiPt:alert(1)) [b](java&#115;cript:alert(1)) [c](\tjavascript:alert(1))",
    "data link": "[a](data:text/html,<script>alert(1)</script>)",
    "vbscript autolink": "<vbscript:alert(1)> <javascript:alert(1)>",
    "link of our own": "[sign out](/sign-out) [b](//evil.example) [c](#main) [d](?lang=en)",
    "remote image": "![p](https://evil.example/p.png) ![q][r]\n\n[r]: https://evil.example/q.png",
    "image in a link": "[![i](https://evil.example/i)](https://evil.example)",
    "reference": "[a][r]\n\n[r]: javascript:alert(1)",
    "broken attribute": '[a](https://e.example/"onclick="alert(1)) [b](<https://e.example/\' onclick=alert(1)>)',
    "form": "<form action=https://evil.example><input name=csrf></form>",
    "style": "<style>*{display:none}</style> <p style='position:fixed'>x</p>",
    "frame": "<iframe src=https://evil.example></iframe><object data=x></object><embed src=x>",
    "base": "<base href=https://evil.example><meta http-equiv=refresh content=0>",
    "template": "{{ csrf }} {% include 'base.html' %}",
    "comment": "<!--><img src=x onerror=alert(1)>-->",
    "math": "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "entity": "&lt;img src=x onerror=alert(1)&gt; &#60;script&#62;",
    "html in code": "```\n</code></pre><script>alert(1)</script>\n```\n`</code><script>`",
    "fence with a handler": '```"><script>alert(1)</script>\nx\n```',
    "name of our own": '<input id="status"><a id=csrf name=csrf>',
}
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class Seen(HTMLParser):
    """The tags and attributes of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str, str]] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(tag, name, value or "") for name, value in attrs}


def assert_inert(html: str) -> None:
    seen = Seen(html)
    assert seen.tags <= TAGS
    for tag, name, value in seen.attributes:
        assert (tag, name) in {("a", "href"), ("a", "target"), ("a", "rel"), ("ol", "start")}, (tag, name, value)
        assert name != "href" or re.match(r"https?://", value), value


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_output_is_inert(text: str) -> None:
    html = markdown(text).html
    assert_inert(html)
    assert not {"img", "script", "svg", "form", "input"} & Seen(html).tags
    assert_inert(plain(text).html)


@settings(max_examples=150, deadline=None)
@given(st.text("<>\"'=/()[]!`*_#-|:&;\\ \n\tabjavscriptonerr1\u202e\x00", max_size=200))
def test_any_text_is_inert(text: str) -> None:
    assert_inert(markdown(text).html)
    assert not set(TURNING) & set(markdown(text).html)


def test_markdown_is_shown() -> None:
    html = markdown("# Title\n\n**bold** and `code`\nnext\n\n2. two\n\n| a | b |\n|--|--|\n| 1 | ~~2~~ |").html
    assert "<p><strong>Title</strong></p>" in html  # the headings of the page are the page's own
    assert "<strong>bold</strong> and <code>code</code><br>" in html
    assert '<ol start="2">' in html
    assert "<td>1</td>\n<td><s>2</s></td>" in html


def test_a_link_shows_where_it_leads_and_tells_nothing() -> None:
    html = markdown("[your bank](https://evil.example/x) and <https://plain.example>").html
    assert ">your bank</a> (https://evil.example/x)" in html
    assert html.count('rel="nofollow noopener noreferrer"') == 2
    assert "(https://plain.example)" not in html  # it says so itself
    assert "xn--xample-2of.com" in markdown("[a](https://\u0435xample.com)").html  # a Cyrillic letter in disguise


def test_an_image_is_never_fetched() -> None:
    html = markdown(HOSTILE["remote image"]).html
    assert "<img" not in html
    assert "https://evil.example/p.png" in html  # what was written can still be read


def test_direction_and_controls_are_replaced() -> None:
    for character in (*TURNING, "\x00", "\x1b", "\x7f", "\u2028", "\u200f", "\U000e0041"):
        assert tame(f"a{character}b") == "a\ufffdb"
    assert tame("tab\tline\r\nnext\rlast") == "tab\tline\nnext\nlast"
    assert (
        tame("\u0639\u0631\u0628\u064a \U0001f469\u200d\U0001f4bb")
        == "\u0639\u0631\u0628\u064a \U0001f469\u200d\U0001f4bb"
    )


def test_a_200_kb_reply_is_cut_and_can_be_read_whole() -> None:
    text = "word " * 40_000
    shown = markdown(text)
    assert (shown.length, shown.rest) == (200_000, text)
    assert len(shown.html) < LONGEST + 100
    short = markdown("x" * LONGEST)
    assert short.rest is None


PATHS = {
    "brackets": "[" * 200_000,
    "images": "![" * 100_000,
    "quotes": ">" * 200_000,
    "stars": "**a*" * 50_000,
    "backticks": "".join("`" * i + " " for i in range(600)),
    "links": "[a](" * 50_000,
    "tables": "|a" * 5000 + "\n" + "|-" * 5000 + "\n" + "|b" * 5000,
    "lists": "\n".join(" " * i + "- a" for i in range(600)),
}


@pytest.mark.parametrize("text", PATHS.values(), ids=PATHS)
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    assert_inert(markdown(text).html)
    assert time.process_time() - began < 3


def test_what_is_too_deep_is_shown_as_it_stands() -> None:
    """The parser drops what lies deeper than it goes; nobody would see that something is missing."""
    deep = ">" * (DEEPEST + 5) + " the point"
    assert "the point" in markdown(deep).html
    assert "<blockquote>" not in markdown(deep).html
    assert markdown("> > > the point").html.count("<blockquote>") == 3


@pytest.mark.parametrize("show", [plain, markdown])
def test_what_shows_nothing_is_known(show: Callable[[str], Shown]) -> None:
    assert all(show(text).blank for text in ("", " ", "\n\n"))
    assert not any(show(text).blank for text in ("a", "0", "---" if show is markdown else "-"))
