"""The house has floors: a module imports from lower floors only, and heavy things stay on top."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"types"},
    {
        "cells",
        "rules",
        "images",
        "scenes",
        "metrics",
        "health",
        "files",
        "processes",
        "readers",
        "epochs",
        "targets",
        "folding",
        "weight_files",
        "adagrad",
    },
    {"beam", "search"},
    {"tokenizers", "encoders", "decoders", "records", "pictures"},
    {"directory", "text"},
    {"wording", "model", "language", "saved", "objectives", "cache", "data"},
    {"predictions", "likelihood", "clip"},
    {"loop", "training", "language_training", "evaluation", "checkpoints"},
    {"properties", "neurons_page"},
    {"frequencies", "config", "sources", "runs", "phases", "captions_task", "text_task"},
    {"__main__", "__init__", "gradients", "compare", "submission", "export", "sample", "neurons"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
LIGHTNING = {
    "captioner/experiment/caption_task.py",
    "captioner/experiment/text_task.py",
    "captioner/training/epochs.py",
    "captioner/training/loop.py",
    "captioner/training/language_training.py",
    "captioner/training/caption_training.py",
    "captioner/training/checkpoints.py",
    "train.py",
}
HYDRA = {
    "captioner/experiment/caption_task.py",
    "captioner/experiment/text_task.py",
    "captioner/experiment/config.py",
    "captioner/experiment/phases.py",
    "captioner/experiment/sources.py",
    "train.py",
    "eval.py",
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_modules_import_downwards_only():
    for path in (ROOT / "captioner").rglob("*.py"):
        room = path.relative_to(ROOT / "captioner").parts[0].removesuffix(".py")
        assert room in FLOOR, f"{path}: give it a floor"
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "captioner" and len(parts) > 1 and parts[1] != room:
                assert FLOOR[parts[1]] <= FLOOR[room], f"{path} imports {name}, from above"


def test_lightning_and_hydra_stay_where_they_belong():
    for path in [*(ROOT / "captioner").rglob("*.py"), *ROOT.glob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        packages = {module.split(".")[0] for module in imports(path)}
        assert "pytorch_lightning" not in packages or name in LIGHTNING, name
        assert not packages & {"hydra", "omegaconf"} or name in HYDRA, name


def test_captioning_does_not_import_what_only_training_needs():
    code = (
        "import sys, captioner, captioner.commands.caption, captioner.encoders; "
        "captioner.encoders.Timm(weights='pip'); "
        "heavy = {'pytorch_lightning', 'hydra', 'omegaconf', 'tensorboard', 'pycocotools'}; "
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
