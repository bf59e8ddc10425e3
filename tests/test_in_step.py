"""The Chinese pages say what the English ones say: the same headings, commands, code, pictures, links and tables."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "docs/studio.md")
CHINESE = re.compile("[\u4e00-\u9fff]")


def chinese(name: str) -> str:
    return name.replace(".md", ".zh-CN.md")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def code(text: str) -> list[tuple[str, list[str]]]:
    """Every block's language and lines; comments, which are translated, left out."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(language, [line.split("  #")[0].rstrip() for line in block.splitlines()]) for language, block in found]


def targets(text: str) -> list[str]:
    """Where links and pictures lead, without the switch between languages on top."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return sorted(target.replace(".zh-CN.md", ".md") for target in found)


@pytest.mark.parametrize("name", PAGES)
def test_the_same_headings_code_links_and_tables(name: str) -> None:
    english, other = read(name), read(chinese(name))
    levels = [re.findall(r"^#+(?= )", prose(text), re.MULTILINE) for text in (english, other)]
    assert levels[0] == levels[1]
    assert code(english) == code(other)
    assert targets(english) == targets(other)
    shapes = [
        [line.count("|") for line in prose(text).splitlines() if line.startswith("|")] for text in (english, other)
    ]
    assert shapes[0] == shapes[1]
    spoken = [sorted(re.findall(r"`([^`\n]+)`", prose(text))) for text in (english, other)]
    assert spoken[0] == spoken[1], set(spoken[0]) ^ set(spoken[1])


@pytest.mark.parametrize("name", PAGES)
def test_every_heading_and_most_lines_are_chinese(name: str) -> None:
    text = prose(read(chinese(name)))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)[1:]
    kept = {"API", "Webhook"}
    assert [heading for heading in headings if not CHINESE.search(heading) and heading not in kept] == []
    paragraphs = [part for part in re.split(r"\n\n+", text) if len(part) > 80 and not part.startswith(("|", "!", "#"))]
    words = [re.sub(r"`[^`]*`|\]\([^)]*\)", "", part) for part in paragraphs]  # what is not code or an address
    assert [part for part in words if len(CHINESE.findall(part)) < 0.2 * len(part)] == []


@pytest.mark.parametrize("name", PAGES)
def test_links_of_the_chinese_page_lead_somewhere(name: str) -> None:
    page = ROOT / chinese(name)
    for target in re.findall(r"\]\(([^)\s#]+)\)", prose(page.read_text(encoding="utf-8"))):
        assert "://" in target or (page.parent / target).exists(), target
