"""What a file holds does not control a terminal, and nothing of ours goes around the console."""

import ast
import json
import pickle
import sys
from pathlib import Path

import pytest

from captioner import console
from captioner.errors import UNSAFE, InputError, escape

ROOT = Path(__file__).parents[1]
NASTY = [
    "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\x7f", "\r", "\0", "\u202eabc", "\u2066", "\u2028",
    "\ud800", "\u200f",
]  # fmt: skip
PLAIN = ["ein Hund läuft", "一只狗", "می\u200cخواهم", "👩\u200d🚀", "", "[/x] [bold]", "a\\x1b"]


@pytest.mark.parametrize("text", NASTY)
def test_what_is_unsafe_is_shown_as_python_writes_it(text, capsys):
    shown = escape(text)
    assert not UNSAFE.search(shown) and shown == text.encode("unicode_escape").decode()
    error = InputError(f"config.json: {text}")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == f"config.json: {shown}"
    assert json.loads(console.json_text({text: text})) == {text: text}
    assert not UNSAFE.search(console.json_text({text: text}))
    console.say(text)
    console.note(text)
    console.show(console.make_table([text], [[text]], title=text))
    out, err = capsys.readouterr()
    assert not UNSAFE.search((out + err).replace("\n", "")) and out.count(shown) == 4
    assert err == f"{shown}\n"


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays_as_it_is(text, capsys):
    assert escape(text) == text and str(InputError(text)) == text
    assert console.json_text([text]) == json.dumps([text], ensure_ascii=False)
    console.show(console.make_table(["name"], [[text]]), width=40)  # and brackets are no markup
    assert text in capsys.readouterr().out


def test_a_line_of_a_file_does_not_pass_for_one_of_ours():
    word = "x\nother.png: a forged line\n\n  indented"
    assert escape(word, keep="").count("\n") == 0
    message = str(InputError(f"a.json: {word}"))
    assert message == "a.json: x\n  other.png: a forged line\n\n  indented"
    assert str(InputError(message)) == message


def test_a_stream_that_takes_no_such_letters_still_gets_a_line(monkeypatch, tmp_path):
    with open(tmp_path / "out", "w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        console.say("läuft")
    assert (tmp_path / "out").read_text() == "l\\xe4uft\n"


def ways_out(tree):
    """Every expression of a module that writes to a stream by itself."""
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Call | ast.Attribute) else ""
        if isinstance(node, ast.Call) and text.split("(")[0] in ("print", "Console", "os.write"):
            yield text
        if text.endswith(("stdout.write", "stderr.write", "stdout.buffer", "tqdm.write", ".print")):
            yield text


def test_nothing_prints_but_the_console():
    """Texts of our own alone may: the name of a signal, one word after Ctrl-C."""
    allowed = {"captioner/console.py", "captioner/interrupts.py"}
    calls_of = {}
    for path in [*ROOT.glob("captioner/**/*.py"), *ROOT.glob("data_prep/*.py"), *ROOT.glob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        if name not in allowed and (calls := list(ways_out(ast.parse(path.read_text())))):
            calls_of[name] = calls
    assert [*calls_of] == ["captioner/training/checkpoints.py"], calls_of
    assert all("saving at the end of this step" in call for call in calls_of.popitem()[1])
    assert list(ways_out(ast.parse("print(x); sys.stderr.write(x); Console().print(x)")))


def test_a_parser_prints_no_control_character_of_the_arguments(capsys):
    with pytest.raises(SystemExit):
        console.Parser("x").parse_args(["--\x1b[31m"])
    assert "--\\x1b[31m" in capsys.readouterr().err
