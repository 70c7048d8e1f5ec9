"""The scripts in docs/ that generate pages."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def scripts():
    """configuration, docstrings and hooks of docs/."""
    sys.path.insert(0, str(DOCS))
    import configuration
    import docstrings
    import hooks

    yield configuration, docstrings, hooks
    sys.path.remove(str(DOCS))


def test_everything_public_has_a_docstring(scripts):
    assert not list(scripts[2].undocumented())


def test_docstrings_are_plain_text(scripts):
    markdown = scripts[1].markdown
    assert markdown("A * B and `a * b`,\n  goes on.") == "A \\* B and `a * b`,\ngoes on."
    table = "Scores:\n\n    a   L / |Y|\n    bc  L\n\nEnd."
    assert markdown(table) == "Scores:\n\n```text\na   L / |Y|\nbc  L\n```\n\nEnd."
    assert "```" not in markdown("One sentence.  Another sentence.")


def test_the_meaning_of_an_option_comes_from_the_docstring(scripts):
    text = "Beam search.\n\nwidth, n: hypotheses; of them\nreturned. seed: of the draws.\n\nMore."
    prose, meanings = scripts[0].meanings(text, ["width", "n", "seed", "other"])
    assert prose == "Beam search.\n\nMore."
    both = "hypotheses; of them\nreturned."
    assert meanings == {"width": both, "n": both, "seed": "of the draws."}


def test_the_configuration_page_has_every_group_choice_and_option(scripts):
    page = scripts[0].page()
    for path in (DOCS.parent / "conf").rglob("*/*.yaml"):
        assert f"`{path.stem}`" in page or f"### {path.stem}\n" in page, path
    for option in ("data", "ema", "no_repeated_ngram", "hidden_size", "length_penalty", "bptt"):
        assert f"| `{option}` |" in page
