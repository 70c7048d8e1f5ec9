"""`captioner VERB`: one style of parsing, one rule for exit codes, completion, no slow imports."""

import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from captioner.commands.command_line import add_device, add_verb, run_command
from captioner.commands.main import VERBS, main
from captioner.errors import InputError
from captioner.models.loading import DEVICES

ROOT = Path(__file__).parents[2]


def fail(error):
    raise error


@pytest.mark.parametrize(
    "act, code, message",
    [
        (lambda options: None, 0, ""),
        (lambda options: setattr(options, "failures", 3), 1, ""),
        (lambda options: fail(InputError("a\x1b[31m: none")), 2, "try: a\\x1b[31m: none\n"),
        (lambda options: fail(OSError(13, "Denied", "x\n")), 2, "try: 'x\\n': Denied\n"),
        (lambda options: fail(KeyboardInterrupt()), 130, "interrupted\n"),
    ],
)
def test_one_rule_for_exit_codes(act, code, message, capsys):
    verb = SimpleNamespace(DESCRIPTION="", add_options=lambda parser: None, run=act)
    assert run_command(add_verb(ArgumentParser("try"), verb), []) == code
    assert capsys.readouterr().err == message


def shell(line, **env):
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PY": sys.executable} | env,
    )  # fmt: skip


def test_output_that_nobody_reads_and_a_full_disk():
    head = shell('set -o pipefail; "$PY" -m captioner.commands completion bash | head -1; echo $?')
    assert head.stdout.splitlines()[-1] == "0" and head.stderr == ""
    if Path("/dev/full").exists():
        full = shell('"$PY" -m captioner.commands completion fish > /dev/full')
        message = "captioner completion: the output: No space left on device: free space, and run"
        assert full.returncode == 2 and full.stderr.startswith(message)


def test_streams_that_are_closed(model_dir, scenes_dir, tmp_path):
    """Messages may be lost with stderr; captions are not."""
    (tmp_path / "junk.png").write_text("junk")
    caption = f'"$PY" -m captioner --model {model_dir} --beam 1'
    good = min((scenes_dir / "images").iterdir())
    out = shell(f"{caption} {good} >&-")
    assert (out.returncode, out.stdout) == (2, "") and "stdout is closed" in out.stderr
    lost = shell(f"{caption} {tmp_path}/junk.png {good} 2>&-")
    assert lost.returncode == 1 and lost.stdout.startswith(f"{good}: ")
    nobody = shell(f"{caption} {tmp_path}/junk.png {good} 2> >(exec 0<&-; sleep 0.1)")
    assert (nobody.returncode, nobody.stdout) == (1, lost.stdout)
    without = shell(f"{caption} - <&-")
    assert without.returncode == 2 and "stdin is closed" in without.stderr


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_says_what_it_does_and_refuses_other_options(name, capsys):
    for option, code, text in (
        ("--help", 0, f"usage: captioner {name}"),
        ("--no-such-option", 2, f"captioner {name}: error: "),
    ):
        with pytest.raises(SystemExit) as ended:
            main([name, option])
        assert ended.value.code == code and text in "".join(capsys.readouterr())


def test_the_verbs_are_listed_without_importing_torch():
    code = (
        "import sys; from captioner.commands.main import main\n"
        "try: main(['--help'])\n"
        "finally: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    out = shell(f'"$PY" -c "{code}"').stdout
    assert all(f"\n    {name}" in out for name in VERBS) and out.endswith("False False\n")


def test_devices_are_those_of_load():
    parser = ArgumentParser()
    add_device(parser)
    assert [parser.parse_args(["--device", name]).device for name in DEVICES] == [*DEVICES]
    assert parser.parse_args([]).device == "auto"


def test_bash_completes_verbs_and_options(tmp_path):
    program = tmp_path / "captioner"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m captioner.commands "$@"\n')
    program.chmod(0o755)
    done = shell(
        """eval "$("$PY" -m captioner.commands completion bash)"
        complete -p captioner caption
        ask() { COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9; COMPREPLY=()
                _python_argcomplete captioner; echo "${COMPREPLY[@]}"; }
        ask 'captioner co'; ask 'captioner caption --len'; ask 'captioner runs --format '""",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
    )
    *registered, verbs, option, formats = done.stdout.splitlines()
    assert len(registered) == 2, done.stderr
    assert verbs.split() == ["compare", "completion"]
    assert option.strip() == "--length-penalty"
    assert formats.split() == ["text", "markdown", "csv"]
