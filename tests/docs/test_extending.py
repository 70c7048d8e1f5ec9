"""The worked examples of docs/extending.md, applied to a copy of the package and run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"(?s)```(python|yaml)\n# (.*?)\n(.*?)```", (ROOT / "docs/extending.md").read_text("utf-8")
)


def test_the_examples_work(tmp_path):
    shutil.copytree(
        ROOT / "captioner", tmp_path / "captioner", ignore=shutil.ignore_patterns("pretrained")
    )
    shutil.copytree(ROOT / "data_prep", tmp_path / "data_prep")
    checks = []
    for language, title, code in BLOCKS:
        path = tmp_path / title.removeprefix("append to ")
        if title == "check":
            checks.append(code)
        elif title.startswith("append to "):
            assert path.is_file()
            path.write_text(path.read_text(encoding="utf-8") + "\n\n" + code, encoding="utf-8")
        elif language == "yaml":
            checks.append(_instantiates(title, yaml.safe_load(code)))
        else:
            assert not path.exists()
            path.write_text(code, encoding="utf-8")
    assert len(checks) == 7
    script = tmp_path / "check.py"
    script.write_text("\n".join(checks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def _instantiates(title: str, options: dict) -> str:
    """A check that the choice conf/GROUP/NAME.yaml is a class of captioner with such options."""
    group = Path(title).parent.name
    sizes = {"decoder": {"vocab_size": 9, "feature_size": 5}}.get(group, {})
    return (
        "from torch import nn\nfrom captioner.instantiate import instantiate\n"
        f"instantiate({options!r}, 'captioner.{group}s', nn.Module, **{sizes!r})\n"
    )
