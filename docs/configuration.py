"""Writes the page of all options, from conf/, the schemas and the constructors' signatures."""

import inspect
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import docstrings
import omegaconf
import yaml

from captioner.experiment import schemas
from captioner.search.constraints import Constraints

CONF = Path(__file__).parents[1] / "conf"

INTRODUCTION = """# Configuration

This page is generated from `conf/`, the typed schemas and the constructors, so it lists every
option that exists. A name is given on the command line as `NAME=VALUE`; options of a group have
the group's name in front:

    python train.py data=flickr8k data.root=DIR decoder=gru decoder.hidden_size=256 search=greedy

`GROUP=CHOICE` takes a file of `conf/GROUP/`, and `GROUP.OPTION=VALUE` changes one value in it. An
option that the file does not list is added with a plus: `+decoder.image_dropout=0.5`. `--cfg job`
prints the composed configuration and starts nothing; `-m` with lists of values
(`-m decoder.cell=RNN,LSTM seed=0,1`) runs a sweep. Misspelt names and values of the wrong type are
errors before anything is computed.
"""

NODES = """### tokenizer

| option | meaning |
| --- | --- |
| `kind` | `word`: the words of the official metrics, in lower case; `char`: characters |
| `min_count` | words that occur less often in the training captions become the unknown word |
| `max_length` | captions are cut to so many words or characters |

### optimizer

`_target_` is a class of `torch.optim`, or `captioner.training.adagrad.Adagrad`; the other keys are
its options, such as `optimizer.lr` and `optimizer.weight_decay`.
"""

GROUPS = {
    "data": "What to train or evaluate on.",
    "encoder": "The CNN that makes the image vector `v`, and the regions for attention.",
    "decoder": "The network that writes the caption.",
    "objective": "What training minimises; see [objectives](objectives.md).",
    "search": "How captions are generated; see [search](search.md).",
    "trainer": "Arguments of `pytorch_lightning.Trainer`; add others as `+trainer.NAME=VALUE`.",
}
RECIPES = {
    "experiment": "Complete recipes: `experiment=NAME`.",
    "debug": "Small runs to check that everything works: `debug=NAME`.",
    "hydra/launcher": "Where the runs of a sweep are started: `hydra/launcher=NAME`.",
}
SCHEMAS = {"data": (schemas.DataConfig, schemas.TextConfig)}


def page() -> str:
    """The page in Markdown."""
    sections = [INTRODUCTION]
    for command, schema in (("train.py", schemas.TrainConfig), ("eval.py", schemas.EvalConfig)):
        sections.append(f"## {command}\n\n{dataclass_table(schema, _values(command))}")
    sections.append(NODES)
    for key, schema in _nested():
        sections.append(f"### {key}\n\n{dataclass_table(schema, {})}")
    for group, summary in GROUPS.items():
        sections.append(f"## Group `{group}`\n\n{summary}\n\n{_choices(group)}")
        sections += [
            f"### {schema.__name__}\n\n{dataclass_table(schema, {})}"
            for schema in SCHEMAS.get(group, ())
        ]
        sections += [_class_section(target, values) for target, values in _targets(group).items()]
    for group, summary in RECIPES.items():
        sections.append(f"## Group `{group}`\n\n{summary}")
        sections += [_recipe(group, path) for path in sorted((CONF / group).glob("*.yaml"))]
    return "\n\n".join(sections) + "\n"


def dataclass_table(schema: Any, values: dict[str, Any]) -> str:
    """The options of a schema; `values` are the defaults that a YAML file sets."""
    rows = {}
    for field in fields(schema):
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        kind = "group" if field.name in GROUPS else _type(field.type)
        rows[field.name] = kind, values.get(field.name, default)
    return _table(schema.__doc__ or "", rows)


def _class_section(target: str, values: dict[str, Any]) -> str:
    module, _, name = target.rpartition(".")
    Class = getattr(import_module(module), name)
    rows = {
        name: (_type(parameter.annotation), values.get(name, parameter.default))
        for name, parameter in inspect.signature(Class).parameters.items()
        if name not in ("vocab_size", "feature_size") and parameter.kind != parameter.VAR_KEYWORD
    }
    path = f"{Class.__module__}.{Class.__qualname__}"
    link = f"[`{target}`](reference/{Class.__module__.split('.')[1]}.md#{path})"
    return f"### {name}\n\n{link}\n\n{_table(Class.__doc__ or '', rows)}"


def meanings(docstring: str, names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Split a docstring into its prose and what it says of each of these options.

    An option's sentences follow `name:` or `name, other:`, up to the next option or an empty line.
    """
    prose, texts = [], {}
    option = "|".join(map(re.escape, names))
    pattern = rf"(?<![\w.`])((?:{option})(?:,\s+(?:{option}))*):\s"
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        before, *pieces = re.split(pattern, paragraph)
        prose.append(before.strip())
        for keys, text in zip(pieces[::2], pieces[1::2]):
            texts |= dict.fromkeys(re.split(r",\s+", keys), text.strip())
    return "\n\n".join(filter(None, prose)), texts


def _table(docstring: str, rows: dict[str, tuple[str, Any]]) -> str:
    prose, texts = meanings(docstring, rows) if rows else (docstring, {})
    lines = ["| option | meaning | default | type |", "| --- | --- | --- | --- |"]
    for name, (kind, default) in rows.items():
        text = _cell(texts.get(name, ""))
        if kind == "group":
            text = f"{GROUPS[name]} [Choices](#group-{name})"
        lines.append(f"| `{name}` | {text} | {_default(default)} | {_cell(kind)} |")
    return docstrings.markdown(prose) + "\n\n" + ("\n".join(lines) if rows else "")


def _cell(text: str) -> str:
    lines = [docstrings.escape(re.sub(r"\s+", " ", line.strip())) for line in text.splitlines()]
    aligned = re.search(r"\S {2,}\S", text)
    return ("<br>" if aligned else " ").join(lines)


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b[a-z_]+(\.[a-z_]+)*\.(?=[A-Z])", "", text)
    text = text.replace("dict[str, Any]", "options")
    return text.replace("None", "null").replace(" | ", " or ").replace("Any", "")


def _default(value: Any) -> str:
    if value in (inspect.Parameter.empty, omegaconf.MISSING) or value is MISSING:
        return "must be given"
    if hasattr(value, "__dataclass_fields__"):
        return "see below"
    if isinstance(value, dict | list | tuple):
        return f"`{yaml.safe_dump(_plain(value), default_flow_style=True, width=999).strip()}`"
    return f"`{yaml.safe_dump(value).splitlines()[0]}`" if value != "" else "`''`"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _nested() -> list[tuple[str, Any]]:
    return [
        ("model", schemas.ModelConfig),
        ("constraints (eval.py)", Constraints),
        ("clip (eval.py)", schemas.ClipConfig),
    ]


def _values(command: str) -> dict[str, Any]:
    """What conf/COMMAND.yaml sets: its values, and for a group the choice."""
    config = _load(CONF / command.replace(".py", ".yaml"))
    choices = {}
    for entry in config.pop("defaults"):
        if isinstance(entry, dict):
            choices |= entry
    return {name: value for name, value in (choices | config).items() if name != "hydra"}


def _choices(group: str) -> str:
    lines = ["| choice | sets | |", "| --- | --- | --- |"]
    for path in sorted((CONF / group).rglob("*.yaml")):
        name = path.relative_to(CONF / group).with_suffix("").as_posix()
        values = {k: v for k, v in _load(path).items() if k != "defaults"}
        texts = [f"`{k}: {_inline(v)}`" for k, v in values.items()]
        lines.append(f"| `{name}` | {' '.join(texts)} | {_cell(_head(path))} |")
    return "\n".join(lines)


def _targets(group: str) -> dict[str, dict[str, Any]]:
    """The classes that the files of a group name, each with the values of the first such file."""
    targets: dict[str, dict[str, Any]] = {}
    for path in sorted((CONF / group).rglob("*.yaml")):
        values = _load(path)
        if target := values.pop("_target_", None):
            targets.setdefault(target, {k: v for k, v in values.items() if k in COMMON} or {})
    return targets


COMMON: tuple[str, ...] = ()


def _recipe(group: str, path: Path) -> str:
    text = path.read_text(encoding="utf-8").removeprefix("# @package _global_\n")
    return f"### {path.stem}\n\n```yaml\n{text.strip()}\n```"


def _inline(value: Any) -> str:
    return yaml.safe_dump(_plain(value), default_flow_style=True, width=999).splitlines()[0]


def _load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _head(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = []
    for line in lines:
        if not line.startswith("#"):
            break
        comments.append(line[1:].strip())
    return " ".join(comments)
