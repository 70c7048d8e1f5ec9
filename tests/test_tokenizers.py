import json

import pytest

from captioner import tokenizers
from captioner.errors import InputError
from captioner.metrics.tokenize import tokenize
from captioner.tokenizers import Char, Word, frame
from captioner.types import BOS, EOS, PAD, UNK

CAPTIONS = ["A dog runs.", "A dog doesn't run!", "The man's dog runs -- fast"]


def test_words_are_lower_case_and_split_as_the_metrics_split_them():
    word = tokenizers.train_tokenizer(CAPTIONS)
    assert word.units[:4] == ["<pad>", "<bos>", "<eos>", "<unk>"]
    assert word.units[4:6] == ["dog", "a"]  # most frequent first
    assert {"does", "n't", "'s"} <= set(word.units)
    assert "." not in word.units and "A" not in word.units


def test_rare_words_are_unknown_and_long_captions_are_cut():
    word = tokenizers.train_tokenizer(CAPTIONS, min_count=2, max_length=3)
    assert set(word.units[4:]) == {"a", "dog", "runs"}
    unk, dog, runs = UNK, word.ids["dog"], word.ids["runs"]
    assert word.encode("the dog runs and runs") == [unk, dog, runs, unk, runs]
    assert word.targets("the dog runs") == [unk, dog, runs, EOS]
    assert word.targets("the dog runs and runs") == [unk, dog, runs, unk]  # cut: it does not end


@pytest.mark.parametrize("kind", ["word", "char"])
def test_decode_turns_encode_back(kind):
    tokenizer = tokenizers.train_tokenizer(CAPTIONS, kind)
    for caption in CAPTIONS:
        ids = tokenizer.encode(caption)
        text = tokenizer.decode([BOS, *ids, EOS, 5, PAD])
        assert tokenizer.encode(text) == ids
    assert tokenizer.decode(tokenizer.encode("The man's dog doesn't run.")) == (
        "the man's dog doesn't run" if kind == "word" else "The man's dog doesn't run."
    )


@pytest.mark.parametrize("kind", ["word", "char"])
def test_saved_and_loaded_it_is_the_same(tmp_path, kind):
    tokenizer = tokenizers.train_tokenizer([*CAPTIONS, "Été ☀\u2028"], kind, max_length=7)
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    loaded = tokenizers.load_tokenizer(path)
    assert type(loaded) is type(tokenizer) and vars(loaded) == vars(tokenizer)


def broken(**changes):
    good = {"kind": "word", "version": tokenizers.Word.version, "max_length": 9, "units": ["a"]}
    return json.dumps({key: value for key, value in (good | changes).items() if value is not None})


@pytest.mark.parametrize(
    "text, message",
    [
        ("[]", "not a tokenizer of captioner"),
        (broken(units=None), "'units'"),
        (broken(version="0"), "version 0"),
        (broken(units=[1]), "give a list, each a word"),
        (broken(units=[]), "vocabulary is empty"),
        (broken(units=["a", "a"]), "twice"),
        (broken(units=["<eos>"]), "special token"),
        (broken(max_length="9"), "max_length"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"tokenizer.json: .*{message}"):
        tokenizers.load_tokenizer(path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "bpe"}, "tokenizer.kind=bpe"),
        ({"min_count": 0}, "tokenizer.min_count=0"),
        ({"max_length": "9"}, "tokenizer.max_length=9"),
        ({"min_counts": 1}, "tokenizer.min_counts"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        tokenizers.train_tokenizer(CAPTIONS, **options)


@pytest.mark.parametrize("kind", [Word, Char])
def test_token_strings_are_what_the_metrics_make_of_the_text(kind):
    texts = ["A dog's ball, isn't it?", "Two men (one old) at 5 o'clock", "it is what they're"]
    tokenizer = kind.train(texts)
    for text in texts:
        ids = [*tokenizer.encode(text), EOS, 5]
        assert tokenizer.token_string(ids) == " ".join(tokenize(tokenizer.decode(ids)))
        assert tokenizer.token_string(ids) == " ".join(tokenize(text))


def test_a_frame_is_bos_the_ids_and_padding():
    token_NT, length_N = frame([[5, 6, EOS], [], [EOS]])
    assert length_N.tolist() == [3, 0, 1]
    assert token_NT.tolist() == [[BOS, 5, 6, EOS], [PAD] * 4, [BOS, EOS, PAD, PAD]]


def test_a_vocabulary_grows_and_known_words_keep_their_ids():
    old = Word.train(["a dog", "a cat"])
    grown = old.grown(Word.train(["a zebra and a dog"], max_length=7))
    assert grown.units[: len(old)] == old.units and grown.max_length == 7
    assert set(grown.units[len(old) :]) == {"zebra", "and"}
    assert old.grown(old).units == old.units
    with pytest.raises(InputError, match="tokenizer.kind=char: the model to start from has word"):
        old.grown(Char.train(["a"]))


@pytest.mark.parametrize(
    "captions", [["一只狗在草地上奔跑。", "两个人,骑马"], ["犬が走る", "猫"], ["หมาวิ่งเล่น"]]
)
def test_captions_without_blanks_are_told_of(captions):
    with pytest.warns(UserWarning, match=r"captions have no blanks .* tokenizer\.kind=char"):
        tokenizers.train_tokenizer(captions)
    with pytest.raises(InputError, match=r"vocabulary is empty: .* tokenizer\.kind=char"):
        tokenizers.train_tokenizer(captions, min_count=9)
    tokenizer = tokenizers.train_tokenizer(captions, "char")
    assert [tokenizer.decode(tokenizer.encode(text)) for text in captions] == captions
    tokenizers.train_tokenizer(["一只 狗 在 草地 上 奔跑 。", "a dog", "dog", "café"])  # in silence
