"""The layer rule: a module imports its own package, or packages of strictly lower rank.

The order is the one that docs/architecture.md shows to people.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
TOP = [ROOT / "train.py", ROOT / "eval.py", *(ROOT / "data_prep").glob("*.py")]
FILES = [*(ROOT / "captioner").rglob("*.py"), *TOP]
LONGEST = 300
DATA_TABLES = {"captioner/metrics/chair_names.py"}


def ranks() -> dict[str, int]:
    """Package or file -> rank. The loose files of captioner/ that the order does not name are the
    ground floor, but for those that only start something."""
    (order,) = re.findall(r"^ *ground floor < .*(?:\n +<? ?.+)*", PAGE, re.MULTILINE)
    rank = {
        name.strip(): number
        for number, names in enumerate(order.split("<"))
        for name in names.split(",")
    }
    highest = max(rank.values())
    starters = {"data_prep": highest, "__init__": highest + 1, "__main__": highest + 1}
    loose = {path.stem: 0 for path in (ROOT / "captioner").glob("*.py")}
    return loose | rank | starters


RANK = ranks()


def module_of(path: Path) -> str:
    name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    return name.removesuffix(".__init__")


def room(module: str) -> str:
    """What has a rank: a package of captioner, a loose file in it, train.py, eval.py, data_prep."""
    first, *rest = module.split(".")
    name = rest[0] if first == "captioner" and rest else first
    return {"train": "train.py", "eval": "eval.py", "captioner": "__init__"}.get(name, name)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it, by its dotted name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                file = ROOT.joinpath(*name.split("."))
                yield name if file.is_dir() or file.with_suffix(".py").is_file() else node.module


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_its_own_package_or_a_lower_one(path):
    home = room(module_of(path))
    assert home in RANK, f"{path}: docs/architecture.md gives {home} no rank"
    for name in imports(path):
        if name.split(".")[0] not in ("captioner", "data_prep") or room(name) == home:
            continue
        ground = RANK[home] == RANK[room(name)] == 0  # those files are one package; cycles: below
        assert RANK[room(name)] < RANK[home] or ground, f"{path} imports {name}, of no lower rank"


def test_there_are_no_cycles():
    graph = {module_of(path): set(imports(path)) for path in FILES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize(
    "libraries, rooms",
    [
        ({"pytorch_lightning", "lightning"}, {"training", "experiment"}),
        ({"hydra", "omegaconf"}, {"experiment", "train.py", "eval.py"}),
    ],
)
def test_lightning_and_hydra_stay_where_they_belong(libraries, rooms):
    using = {room(module_of(p)) for p in FILES for n in imports(p) if n.split(".")[0] in libraries}
    assert using and using <= rooms


def test_packages_hand_names_on_and_hold_no_code():
    """The top one imports a name when it is first used, for quick commands."""
    for path in (ROOT / "captioner").glob("*/__init__.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            names = isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Tuple)
            assert text or names or isinstance(node, ast.ImportFrom), f"{path}:{node.lineno}"


def test_files_are_short_and_the_ground_floor_is_small():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    long = {path.relative_to(ROOT).as_posix() for path, n in lengths.items() if n > LONGEST}
    assert long <= DATA_TABLES
    assert len(list((ROOT / "captioner").glob("*.py"))) <= 14


def test_captioning_does_not_import_what_only_training_needs():
    code = (
        "import sys, captioner, captioner.commands.caption, captioner.encoders; "
        "captioner.encoders.Timm(weights='pip'); "
        "heavy = {'pytorch_lightning', 'hydra', 'omegaconf', 'tensorboard', 'pycocotools'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
