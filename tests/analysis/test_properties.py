"""Properties of each place in a text or a caption."""

import numpy as np

from captioner.analysis import properties

CODE = '''"""A module's page."""
import os  # for "paths"

if os.name == "nt":
    x = ['a, b', f"{1}", 3]
'''


def chosen(texts, value_T):
    """The characters, or words, for which a property holds."""
    return [text for text, value in zip(texts, value_T) if value == 1]


def test_strings_comments_conditions_and_brackets_of_python():
    values = properties.of_text(CODE, code=True)
    strings = ['"""A module\'s page.""', '"nt', "'a, b", 'f"{1}']
    for name, parts in {
        "inside a string": strings,
        "inside a comment": ['# for "paths"'],
        "inside the condition of an if": ['if os.name == "nt"'],
    }.items():
        assert "".join(chosen(CODE, values[name])) == "".join(parts)
    x = CODE.index("x = ")
    assert values["indentation of the line"][x] == values["position in the line"][x] == 4
    assert np.isnan(values["indentation of the line"][x - 1])
    depth = values["depth of brackets"]
    assert depth[CODE.index('f"')] == 1 and depth[-1] == 0
    code = "x = f(1)  # see below (really)\ny = [')', 1]\n"  # neither in comments nor strings
    depth = properties.of_text(code, code=True)["depth of brackets"]
    assert depth[-1] == 0 and depth[code.index("'") + 3] == 1 and depth.max() == 1


def test_quotes_and_words_of_prose():
    prose = 'He said "no, not I" and left.'
    values = properties.of_text(prose, code=False)
    assert "".join(chosen(prose, values["inside quotes"])) == '"no, not I'
    assert "".join(chosen(prose, values["last letter of a word"])) == "edotIdt"


def test_properties_of_a_caption():
    words = "two dogs running on a red ball".split()
    values = properties.of_caption(words, ["a dog and a man"], ["dog", "cat"])
    expected = {"a number": "two", "an object": "dogs ball", "a verb in -ing": "running"}
    expected |= {"a preposition": "on", "an article": "a", "a colour": "red"}
    expected |= {"dog in the picture": " ".join(words), "cat in the picture": ""}
    for name, holds in expected.items():
        assert " ".join(chosen(words, values[name])) == holds
    assert values["position in the sentence"].tolist() == list(range(7))
