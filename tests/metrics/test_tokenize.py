"""The tokenizer against the official one (its golden tokens, its jar if there), and laws."""

import gzip
import json
import random
from collections.abc import Sequence

import pytest

from captioner.errors import Unavailable
from captioner.metrics import java
from captioner.metrics.tokenize import token_strings, tokenize
from tests.helpers.golden import GOLDEN, needs_golden, read_golden


def read(name: str) -> list[tuple[str, str]]:
    with gzip.open(GOLDEN / f"tokenizer_{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [tuple(json.loads(line)) for line in lines]


# --- the official tokens

ALONE = {  # officially the next caption's "A" or "The" takes the period from their last letter
    "A group of people trying out the new Nintendo Wii U.",
    "A traffic light over a street with a sign that reads K.",
    "A street sign marks the intersection of S Lane St. and 12th Ave S.",
    "Peculiar street sign showing intersection of 23 3/4 St and 8th Ave/CTH D.",
}


@needs_golden
@pytest.mark.parametrize(("official", "known"), [(False, ALONE), (True, set())])
def test_real_captions_get_the_official_tokens_but_for_the_known_ones(official, known):
    rows = read("45000")
    ours = token_strings([raw for raw, _ in rows], official)
    assert {raw for (raw, theirs), text in zip(rows, ours) if text != theirs} == known


@needs_golden
def test_captions_with_random_symbols_get_the_official_tokens():
    rows = read("fuzz_10000")
    ours = token_strings([raw for raw, _ in rows])
    different = [(*row, text) for row, text in zip(rows, ours) if text != row[1]]
    assert len(different) <= 0.0003 * len(rows), different


@needs_golden
@pytest.mark.parametrize("case", ["lower", "title", "upper"])
def test_abbreviations_keep_their_period(case):
    write = getattr(str, case)
    black_box = read_golden("abbreviations_blackbox")
    for word in black_box[f"{case}_end"]:
        assert tokenize(f"the {write(word)}.") == ["the", f"{word}."]
        assert tokenize(f"the {write(word)}. again") == ["the", f"{word}.", "again"]
    keeps = case != "lower"  # "in Mass." but "a big mass."
    assert tokenize(write("a mass.")) == ["a", "mass." if keeps else "mass"]
    assert tokenize(write("a table.")) == ["a", "table"]


AS_OBSERVED = [
    ("", ""),
    ("A man, a plan.", "a man a plan"),
    ("A dog , a ball .", "a dog a ball"),
    ("Two dogs (one black).", "two dogs -lrb- one black -rrb-"),
    # contractions
    ("It's a dog's life, isn't it?", "it 's a dog 's life is n't it"),
    ("It’s theirs; we’re late, can’t wait", "it 's theirs we 're late ca n't wait"),
    ("THEY'LL STAY, DON'T GO", "they 'll stay do n't go"),
    ("it doesn`t, it don‘t", "it does n`t it do n`t"),
    ("I cannot see what is gonna come", "i can not see what is gon na come"),
    ("at 5 o'clock, O’Neil, hors-d'oeuvres", "at 5 o'clock o’neil hors-d'oeuvres"),
    ("'Twas y'all c'mon, ol' ma'am", "'t was y' all c'mon ol' ma'am"),
    ("slip 'n slide, rock 'n' roll", "slip 'n slide rock 'n' roll"),
    ("the '80s, the class of '05 was", "the '80s the class of '05 was"),
    ("the boys' bats; b’day", "the boys bats b 'd ay"),
    # compounds
    ("a black-and-white t-shirt and/or tie", "a black-and-white t-shirt and/or tie"),
    ("a tub.In between", "a tub.in between"),
    ("red,blue-green a_b non-U.S. a/b/c/d", "red,blue-green a_b non-u.s. a/b/c / d"),
    # periods
    ("at the corner of 11th St. and Ave. B", "at the corner of 11th st. and ave. b"),
    ("a sign reads K.", "a sign reads k."),
    ("J.R. Tolkien in Washington D.C.", "j.r. tolkien in washington d.c."),
    ("It is I. The end.", "it is i the end"),
    ("the K. What? the K. What now", "the k. what the k what now"),
    ("bus no. 5, No.5, no. five, no.", "bus no. 5 no. 5 no five no"),
    ("a Ph.D., a dog., a t-shirt.; 5.5.,", "a ph.d. a dog. a t-shirt. 5.5"),
    # numbers
    ("at 5:54pm, 1,000 people", "at 5:54 pm 1,000 people"),
    ("at 22 3/4 Street", "at 22\xa03/4 street"),
    ("call (555) 555-1234", "call -lrb-555-rrb-\xa0555-1234"),
    ("for £5, €5, 5¢ or $5: ½ off, 1½ in", "for # 5 $ 5 5 cents or $ 5 1/2 off 1 1/2 in"),
    # marks
    ("salt &amp; pepper & AT&T it&apos;s", "salt & pepper & at&t it 's"),
    ("Stop! Now!! Why?", "stop now !! why"),
    ("a smile :) or :D", "a smile :-rrb- or :d"),
    ("** a __ ## C++ @@", "** a __ ## c++ @@"),
    ("“typographic” quotes – and dashes—all… gone", "typographic quotes and dashes all gone"),
    ("«a» “‘b’”", "a ``` b '''"),
    ("Ein Café für Ñandús cafe\u0301 soft\xadly", "ein café für ñandús cafe\u0301 softly"),
    ("a 😀 dog\u200b ™ 70°F m²", "a dog ™ 70 ° f m ²"),
    # what models and the web write
    ("<b>bold</b> #tag @home <unk> [UNK]", "<b> bold </b> #tag @home <unk> -lsb- unk -rsb-"),
    ("-lrb- a -RRB- <|endoftext|>", "-lrb- a -rrb- < | endoftext | >"),
    ("see http://a.b/c?d or me@x.org", "see http://a.b/c?d or me@x.org"),
    ("foo.com/bar, www.foo-bar.com.", "foo.com/bar www.foo-bar.com"),
]


@pytest.mark.parametrize(("caption", "tokens"), AS_OBSERVED)
def test_tokens_as_observed(caption, tokens):
    assert " ".join(tokenize(caption)) == tokens


# --- what follows


@pytest.mark.parametrize(
    ("caption", "following", "tokens"),
    [
        ("reads K.", ["A dog"], "reads k"),
        ("reads K. ", ["", " ", "\tIt is"], "reads k"),  # a blank caption does not come between
        ("reads K.", ["Mr. T"], "reads k"),
        ("reads K.", ["<unk> dogs"], "reads k"),
        ("reads K.", ["a dog"], "reads k."),
        ("reads K.", ["It's a dog"], "reads k."),  # the word alone, not what begins like it
        ("reads K.", ["Dogs", "The end"], "reads k."),
        ("reads K.", [], "reads k."),
        ("bus no.", ["5 men"], "bus no."),
        ("bus no.", ["five men"], "bus no"),
        ("bus no.", ["", "5 men"], "bus no"),
        ("Main St.", ["A dog"], "main st."),
        ("street 22", ["3/4 of a pie"], "street 22"),  # no token goes over a line's end
        ("class of '05", ["A"], "class of '05"),
        ("class of '05", [], "class of 05"),  # not even a line's end follows the last
    ],
)
def test_the_official_words_may_depend_on_the_next_caption(caption, following, tokens):
    captions = ["A dog", caption, *following]
    assert token_strings(captions, official=True)[1] == tokens
    assert token_strings([caption, *following], official=True)[0] == tokens  # nor on those before


def test_without_official_no_caption_changes_another():
    captions = [raw for raw, _ in AS_OBSERVED]
    captions += ["reads K.", "A dog", "bus no.", "5 men", "class '05"]
    captions += [raw for raw, _ in read("45000")[3700:3800]] if GOLDEN.is_dir() else []
    shuffled = random.Random(0).sample(captions, len(captions))
    assert token_strings(shuffled) == [" ".join(tokenize(caption)) for caption in shuffled]


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\v", "\f", "\x85", "\u2028", "\u2029"])
def test_a_line_separator_is_a_space_and_moves_nothing(separator):
    texts = ["A man{0}isn't{0}", "reads K.{0}A dog 5{0}1/2 no.{0}", "{0}5 dogs{0}", "{0}", "end"]
    captions = [text.format(separator) for text in texts]
    spaces = [text.format(" " * len(separator)) for text in texts]
    for official in (False, True):
        assert token_strings(captions, official) == token_strings(spaces, official)
        assert token_strings(captions, official)[-1] == "end"


def test_plain_captions_get_the_same_tokens_by_the_short_way(monkeypatch):
    captions = ["A man, a dog  and a cat.", "we cannot, no ", "on Main St.", "a Wii U.", "plan b"]
    captions += ["A dog , a ball .", "plan B .", "the no.", "5", "in Mass.", "a mass. ", "plan C."]
    captions += ["The end", "a,b", "a , , b"]
    if GOLDEN.is_dir():
        captions += [raw for raw, _ in read("45000")[:5000]]
    short = [token_strings(captions, official) for official in (False, True)]
    monkeypatch.setitem(tokenize.__globals__, "_plain", lambda caption: [])
    assert [token_strings(captions, official) for official in (False, True)] == short


# --- the official tokenizer itself

PUNCTUATION = "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()


def official_tokens(captions: Sequence[str]) -> list[str]:
    """What pycocoevalcap's PTBTokenizer makes of captions without line separators in them."""
    try:
        jar = java.find_file("PTB", "pycocoevalcap", "tokenizer/stanford-corenlp-3.4.1.jar", "")
        arguments = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        arguments += ["-preserveLines", "-lowerCase"]
        lines = java.run("PTB", arguments, "\n".join(captions).encode(), 120).split("\n")
    except Unavailable as error:
        pytest.skip(str(error))
    lines = lines[: len(captions)]
    assert len(lines) == len(captions)
    return [" ".join(w for w in line.rstrip().split(" ") if w not in PUNCTUATION) for line in lines]


def mixed_captions(count: int) -> list[str]:
    """Captions with words of all kinds at their beginning, inside them and at their end."""
    plain = ["A man rides a brown horse", "two dogs play in the snow .", "The end.", "It is here"]
    words = [word for raw, _ in AS_OBSERVED for word in raw.split()]
    words += """K. St. U.S. no. No. 5 5th 5:30pm 6'2" p.m. etc. vs. Jan. '90s "stop" 'stop' “stop”
        (left) 3/4 $5.50 100% 5ft. 5-year-old T-shirt's boys' X's w/ n/a #1 a.m., wait... it. !! -
        J. R. Smith D.C. e.g., i.e. TV's café naïve A&B <start> UNK man,the man.The dog's. :( ;-)
    """.split()
    draw, captions = random.Random(0), []
    for _ in range(count):
        caption = draw.choice(plain).split()
        for word in draw.choices(words, k=draw.randint(1, 3)):
            caption.insert(draw.choice([0, len(caption), draw.randint(0, len(caption))]), word)
        text = " ".join(caption)
        captions.append(text.upper() if "&" not in text and draw.random() < 0.25 else text)
    return captions


def test_the_official_tokenizer_agrees():
    captions = mixed_captions(2000)
    theirs = official_tokens(captions)
    ours = token_strings(captions, official=True)
    assert [row for row in zip(captions, theirs, ours) if row[1] != row[2]] == []
    # read alone: as before a line that decides nothing
    apart = [line for caption in captions for line in (caption, "so it goes")]
    theirs = official_tokens(apart)[::2]
    assert [row for row in zip(captions, theirs, token_strings(captions)) if row[1] != row[2]] == []
