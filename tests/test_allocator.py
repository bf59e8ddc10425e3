"""The memory settings: who gets them, who does not, and that a command really starts again with them."""

import json
import os
import subprocess
import sys

import pytest

from tutelage import allocator
from tutelage.allocator import SETTINGS, SWITCH, has_glibc, missing
from tutelage.cli import works_long


def test_nobody_gets_them_who_chose_otherwise(monkeypatch):
    monkeypatch.setattr(allocator, "has_glibc", lambda: True)
    assert missing({"PATH": "/bin"}) == SETTINGS
    assert missing({SWITCH: "off"}) == {}
    assert missing({SWITCH: "on"}) == SETTINGS
    assert missing({"LD_PRELOAD": "libjemalloc.so"}) == {}
    assert all(missing({name: "x"}) == {} for name in SETTINGS)
    assert missing(SETTINGS) == {}, "a process that has them must not start again for ever"
    monkeypatch.setattr(allocator, "has_glibc", lambda: False)
    assert missing({}) == {}


def test_other_systems_are_left_alone(monkeypatch):
    assert has_glibc() == (sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or ""))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not has_glibc()


def test_commands_that_train_or_sample_start_again():
    assert all(
        works_long([name, "--project", "x"]) for name in ("sft", "reward", "ppo", "dpo", "group", "demo", "sample")
    )
    assert not any(works_long([name]) for name in ("init", "import", "runs", "label", "studio", "bench", "unknown"))
    assert not works_long(["sft", "--help"])
    assert not works_long([])


AGAIN = """
import json, os, sys
from tutelage.allocator import SETTINGS, start_again
start_again()
print(json.dumps([{name: os.environ.get(name) for name in SETTINGS}, sys.argv, os.getpid()]))
"""


@pytest.mark.skipif(not has_glibc(), reason="only GNU's C library reads these settings")
@pytest.mark.parametrize("switch", ["on", "off"])
def test_the_same_command_in_the_same_process(tmp_path, switch):
    script = tmp_path / "again.py"
    script.write_text(AGAIN)
    around = {k: v for k, v in os.environ.items() if k not in SETTINGS and k != "LD_PRELOAD"} | {SWITCH: switch}
    process = subprocess.Popen(
        [sys.executable, str(script), "two words", "--x"], env=around, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, said = process.communicate()
    found, arguments, pid = json.loads(out)
    assert arguments == [str(script), "two words", "--x"]
    assert pid == process.pid, "a job that is stopped by its number must be this one"
    assert found == (SETTINGS if switch == "on" else dict.fromkeys(SETTINGS))
    assert said.count("\n") == (switch == "on")
    assert (f"{SWITCH}=off" in said) == (switch == "on")


@pytest.mark.parametrize(
    ("executable", "command"), [("", ["python", "x.py"]), ("/python", ["python", "-", "sft"]), ("/python", ["python"])]
)
def test_what_cannot_be_given_again_is_not(monkeypatch, capsys, executable, command):
    """A program on standard input is read up; and a Python that doesn't know where it lies can't be started."""
    started = []
    monkeypatch.setattr(allocator, "missing", lambda _: SETTINGS)
    monkeypatch.setattr(os, "execve", lambda *a: started.append(a))
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(sys, "orig_argv", command)
    allocator.start_again()
    assert started == []
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "executable", "/python")
    monkeypatch.setattr(sys, "orig_argv", ["python", "x.py", "a b"])
    allocator.start_again()
    assert [a[:2] for a in started] == [("/python", ["/python", "x.py", "a b"])]
