"""Each algorithm's file is its own: what it says in the very words of a sibling is less than 15 % of its lines."""

import ast
from collections import Counter
from pathlib import Path

import pytest

LEARN = Path(__file__).parent.parent / "tutelage" / "learn"
SIBLINGS = ("sft", "reward", "ppo", "group", "best_of_n", "dpo", "online_dpo", "kto", "two_rewards")
FIRST = ("sft", "reward", "ppo")  # what the others were written beside; a new one must not be a copy of any
MOST = 0.15
SHORT = 12  # characters: brackets, `try:` and the like are nobody's


def lines(source: str) -> Counter[str]:
    """A file's lines of code without indentation, imports, and what is short.

    Neither comments nor docstrings count: a page of words of its own would make a copy look original.
    """
    dropped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        said = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if said or isinstance(node, ast.Import | ast.ImportFrom):
            dropped |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    found = (line.split("  #")[0].strip() for i, line in enumerate(source.splitlines(), 1) if i not in dropped)
    return Counter(line for line in found if len(line) >= SHORT and not line.startswith("#"))


def shared(source: str, sibling: str) -> float:
    """The share of a file's lines that the sibling has too, each as often as both have it."""
    own = lines(source)
    return (own & lines(sibling)).total() / own.total()


def texts() -> dict[str, str]:
    return {name: (LEARN / f"{name}.py").read_text(encoding="utf-8") for name in SIBLINGS}


@pytest.mark.parametrize("name", [name for name in SIBLINGS if name not in FIRST])
def test_an_algorithm_is_no_copy_of_a_sibling(name: str) -> None:
    found = texts()
    for sibling, source in found.items():
        if sibling != name:
            assert shared(found[name], source) < MOST, f"{name}.py says too much in the words of {sibling}.py"


def test_a_copy_would_be_seen() -> None:
    """A loop carried over from a sibling, indented otherwise and under another name, is over the bar."""
    found = texts()
    loop = found["ppo"][found["ppo"].index("def ppo(") :].replace("def ppo(", "def renamed(")
    carried = "if True:\n" + "".join(f"    {line}\n" for line in loop.splitlines())
    for name in ("online_dpo", "kto"):
        assert shared(found[name], found["ppo"]) < 0.07
        assert shared(f"{found[name]}\n{carried}", found["ppo"]) > MOST
    assert shared(found["dpo"], found["dpo"]) == 1
    said = '"""What it is."""\nimport os\nx = call(1)  # why\n# a remark of some length\n\nlonger = call_me(2)  # why\n'
    assert lines(said) == {"longer = call_me(2)": 1}


def test_every_algorithm_is_looked_at() -> None:
    """A file with a settings section and a loop of its own is an algorithm."""
    algorithms = {
        path.stem
        for path in LEARN.glob("*.py")
        if "run.log(" in (text := path.read_text(encoding="utf-8")) and "run.interruptible()" in text
    }
    assert algorithms <= set(SIBLINGS)
