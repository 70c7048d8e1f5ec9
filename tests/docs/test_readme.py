"""What README and docs/ say to type exists, and README stays one page."""

import re
import shlex
from configparser import ConfigParser

import pytest

from tests.helpers.forks import ROOT
from tests.helpers.runs import composed

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
PAGES["README.md"] = README
PAGES["CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The indented lines of a page that begin with a program, split as a shell would."""
    lines = re.findall(r"(?m)^    ((?:make|python|caption|captioner) .*)", text.replace("\\\n", ""))
    return [shlex.split(line, comments=True) for line in lines]


COMMANDS = [words for text in PAGES.values() for words in commands(text)]


def test_readme_is_one_page():
    lines = README.splitlines()
    assert len(lines) <= 150 and len(README.split()) <= 1500
    too_long = [
        line for line in lines if len(re.sub(r"\]\([^)]*\)", "]", line)) > 120 and line[0] != "|"
    ]
    assert not too_long


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page):
    paths = re.findall(
        r"`((?:captioner|conf|data_prep|docs|tests|benchmarks)/[\w/.-]+)`", PAGES[page]
    )
    paths += re.findall(r"\]\((?!http|#)([\w/.-]+)\)", PAGES[page]) if page == "README.md" else []
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
    experiments = re.findall(r"experiment=(\w+)", PAGES[page])
    names = {path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")}
    assert set(experiments) - {"NAME"} <= names


def test_programs_and_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = [
        line.split(" =")[0] for line in setup["options.entry_points"]["console_scripts"].split("\n")
    ]
    for program, *words in COMMANDS:
        if program == "make":
            assert re.search(rf"(?m)^{words[0]}:", makefile), words
        elif program == "python":
            assert (ROOT / words[0]).is_file(), words
        else:
            assert program in scripts


@pytest.mark.parametrize(
    "words",
    [w for w in COMMANDS if w[1] in ("train.py", "eval.py") and not {"-m", "..."} & set(w)],
    ids=" ".join,
)
def test_documented_configurations_compose(words):
    assert composed(*words[2:], name=words[1].removesuffix(".py"))
