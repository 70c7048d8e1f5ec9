"""Paths on the command line of train.py, and the options that messages tell people to give."""

import ast
import inspect
import re
import shlex
import subprocess
from dataclasses import fields

import pytest
import pytorch_lightning as pl
import torch

from captioner import shell
from captioner.errors import InputError
from captioner.experiment import schemas
from captioner.experiment.hydra_app import quoted
from captioner.search.constraints import Constraints
from tests.helpers.forks import ROOT
from tests.helpers.runs import composed

NAMES = ["with space", "x,lr=1", "a~b", "[a]", "a[1]", "qu'o te", "{x}", "(x)", "back\\slash"]
NAMES += [
    "end\\",
    "\\'",
    "a'b\"c",
    "é",
    "e\u0301",
    "1e3",
    "1_0",
    "007",
    "true",
    "-x",
    "$HOME",
    "`a`",
]
NAMES += [" a ", "a;b&c|d!", "#a", "*", "new\nline", "\u202ea", "..", "a/b-c.d+e"]


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_taken_as_they_are_and_as_they_are_printed(name):
    keys = ["run_dir", "resume", "data.root", "data.images", "model.init_from"]
    given = quoted([f"{key}={name}" for key in keys])
    printed = [shell.override(key, name) for key in keys]
    expected = [name.strip()] * 5 if name == " a " else [name] * 5
    line = f"printf '%s\\0' {shell.command(*printed)}"
    pasted = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=10)
    assert pasted.stdout.split("\0")[:-1] == printed
    for overrides, values in ((given, expected), (quoted(printed), [name] * 5)):
        config = composed(*overrides)
        in_config = [config.run_dir, config.resume, config.data.root, config.data.images]
        assert [*in_config, config.model.init_from] == values
    assert shlex.split(shell.command("a", *printed))[1:] == printed or not name.isprintable()


@pytest.mark.parametrize(
    "given, expected",
    [
        (["data.limit=7", "metrics=[bleu]", "-m", "seed=0,1"], None),
        (["model=[a,b]", "model=null", "~data", "data.root='a b'", "+trainer.x=1e3"], None),
        (["-m", "data.root=a,b", "data.root=choice(a,b)"], None),
        (["model=[a~b,c]", "model=1e3"], ["model=['a~b',c]", "model='1e3'"]),
        (["data.root=a,b"], ["data.root='a,b'"]),
        (
            ["metrics.tokenizer=char", "metrics.0=bleu"],
            ["metrics_tokenizer=char", "metrics.0=bleu"],
        ),
    ],
)
def test_other_values_are_left_to_hydra(given, expected):
    assert quoted(given) == (expected or given)


def test_home_and_names_that_are_not_utf_8(monkeypatch):
    monkeypatch.setenv("HOME", "/my home")
    assert quoted(["run_dir=~/runs", "data.root='~/x'"]) == [
        "run_dir=/my home/runs",
        "data.root='~/x'",
    ]
    with pytest.raises(InputError, match=r"udce9.*not UTF-8: rename it"):
        quoted(["run_dir=caf\udce9"])


def test_control_characters_go_to_paths_alone():
    assert quoted(["run_dir=a\x1b[31m"]) == ["run_dir='a\x1b[31m'"]
    for argument in ("seed=\x1b[31m", "\x1b[31m", "se\x1b=3", "data=\u202e"):
        with pytest.raises(InputError, match="it holds a control character"):
            quoted([argument])


@pytest.mark.parametrize("argument", ["metrics.bleu=true", "constraints.forbid.words=dog"])
def test_an_option_of_a_list(argument):
    with pytest.raises(InputError, match=rf"{argument}: (metrics|constraints.forbid) is a list: "):
        quoted([argument])


# The options in messages

GROUPS = {"decoder": "decoders", "encoder": "encoders", "objective": "objectives"}
NO_OPTIONS = """bytes eps experiment group key width vdtk sync_dist  name device keep
    batch_size heads inject lr max_length slope weight_decay cell train _target_""".split()
FLAGS = {
    "--forbid",
    "--include",
    "--help",
    "--multirun",
    "--nproc-per-node",
    "--no-deps",
    "--add-opens",
    "--normalise--",
}


def trees(*patterns):
    paths = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return [ast.parse(path.read_text(encoding="utf-8")) for path in paths]


def parameters(package):
    """The names of arguments and of fields in a package."""
    nodes = [node for tree in trees(f"captioner/{package}/*.py") for node in ast.walk(tree)]
    names = {node.arg for node in nodes if isinstance(node, ast.arg)}
    return names | {node.target.id for node in nodes if isinstance(node, ast.AnnAssign)
                    and isinstance(node.target, ast.Name)}  # fmt: skip


def test_every_option_in_a_message_exists():
    of = {group: parameters(package) | {"_target_"} for group, package in GROUPS.items()}
    of["search"] = set(schemas._unset_search_options())
    of["data"] = {f.name for kind in (schemas.DataConfig, schemas.TextConfig) for f in fields(kind)}
    of["model"] = {f.name for f in fields(schemas.ModelConfig)}
    of["clip"] = {f.name for f in fields(schemas.ClipConfig)}
    of["constraints"] = {f.name for f in fields(Constraints)}
    of["trainer"] = set(inspect.signature(pl.Trainer).parameters)
    of["optimizer"] = {"_target_", *inspect.signature(torch.optim.AdamW).parameters}
    of["tokenizer"] = {"kind", "min_count", "max_length"}
    kinds = (schemas.TrainConfig, schemas.EvalConfig)
    top = {f.name for kind in kinds for f in fields(kind)} | set(NO_OPTIONS)
    top = top.union(*of.values())
    strings, flags = [], set(FLAGS)
    for tree in trees("captioner/**/*.py", "data_prep/*.py", "train.py", "eval.py"):
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "\0" for p in node.values]
                strings.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(node.value)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                flags |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    pattern = r"(?<![\w.<\0/-])(?:(--[a-z][\w-]*)|(?:([a-z]+)\.)?([a-z_]+)=)"
    options = {match for text in strings for match in re.findall(pattern, text)}
    assert len(options) > 100
    for flag, group, option in options:
        known = flags if flag else of[group] if group else top
        assert (flag or option) in known, f"{group}.{option}={flag}"
