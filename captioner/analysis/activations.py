"""The activations of a model's units as it reads text, or captions that it generates itself."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from captioner.analysis import properties
from captioner.analysis.properties import Values
from captioner.data import batches, records, text
from captioner.decoders.recurrent import Recurrent
from captioner.encoders import CNN
from captioner.errors import InputError
from captioner.metrics.chair import mentions
from captioner.metrics.tokenize import token_strings
from captioner.models import loading
from captioner.models.caption_model import CaptionModel
from captioner.models.language_model import LanguageModel
from captioner.search import Beam
from captioner.tokenizers import frame

LENGTH = 2000  # characters of a piece of a document
WARM_UP = 1000  # characters before it that are read as well, to warm up the state
ROWS = 16  # pieces that are read side by side
BATCH = 32  # pictures
LEAST_PLACES = 20  # places with a property, and without it, for it to be scored
LEAST_DOCUMENTS = 3  # documents with it, and without it


class Reading(NamedTuple):
    """A piece of a document: its units of text, and activations and properties after each.

    state_TU: the activations of the model's U units. document: its number. picture: of a caption.
    """

    units: list[str]
    state_TU: np.ndarray
    values: Values
    document: int
    picture: Path | None = None


def read_activations(
    folder: str | Path,
    data: str,
    limit: int,
    *,
    pattern: str = "*",
    val_share: float = 0.1,
    split: str = "val",
) -> tuple[list[Reading], list[str]]:
    """The readings of a model over data, and the labels of its units.

    data: for a language model, text (`pattern`: of a folder's files), of which the last `val_share`
    is read, if not 0; for a captioner, a folder of pictures and captions. limit: pieces of text, or
    pictures. Raises InputError naming what cannot be read.
    """
    if limit < 2 * LEAST_DOCUMENTS:
        raise InputError(f"--limit {limit}: give {2 * LEAST_DOCUMENTS} or more")
    model = loading.read_model(folder)
    decoder = model.decoder
    if not isinstance(decoder, Recurrent):
        kind = type(decoder).__name__
        raise InputError(f"{kind}: its units are not looked at, only those of a Recurrent decoder")
    names, units = tuple(decoder.entries), range(decoder.hidden_size)
    if isinstance(model, LanguageModel):
        documents = text.documents(data, pattern)
        held_out = text.split(documents, val_share)[1] if val_share else documents
        readings = read_texts(model, held_out, limit)
    else:
        captioned = [r for r in records.read_records(Path(data), split) if r.captions]
        readings = read_captions(model, captioned[:limit], names)
    return readings, [f"{name}[{unit}]" for name in names for unit in units]


def read_texts(
    model: LanguageModel, documents: Sequence[text.Document], limit: int
) -> list[Reading]:
    """The readings of up to `limit` pieces of LENGTH characters, evenly spaced over documents.

    If there are too few documents to be halved, each piece counts as one. Raises InputError for a
    model of words: properties belong to characters.
    """
    if model.tokenizer.kind != "char":
        raise InputError("properties of texts are of characters, and this model reads words")
    places = [(d, begin) for d in documents for begin in range(0, d.end - d.begin, LENGTH)]
    chosen = np.linspace(0, len(places) - 1, min(limit, len(places))).astype(int)
    pieces = []  # the text as read, its first characters to warm up, values, document
    by_document = groupby((places[i] for i in chosen), lambda place: place[0])
    for number, (document, group) in enumerate(by_document):
        content = "".join(document.pieces())
        values = properties.of_text(content, document.code)
        for _, begin in group:
            warm_up, end = min(begin, WARM_UP), begin + LENGTH
            if begin < len(content):  # as many bytes may be fewer characters
                piece_values = {name: value[begin:end] for name, value in values.items()}
                pieces.append((content[begin - warm_up : end], warm_up, piece_values, number))
    names = tuple(model.decoder.entries)
    readings = []
    for first in range(0, len(pieces), ROWS):
        rows = pieces[first : first + ROWS]
        token_NT, length_N = frame([model.tokenizer.encode(content) for content, *_ in rows])
        with torch.inference_mode():
            memory, state = model.decoder.start(None, len(rows))  # bos is read too
            _, _, kept = model.decoder(token_NT, length_N + 1, memory, state, keep=names)
        state_NTU = torch.cat([kept[name] for name in names], dim=-1)[:, 1:].numpy()
        for (content, warm_up, values, number), state_TU in zip(rows, state_NTU):
            units = model.tokenizer.split(content)
            state_TU = state_TU[warm_up : len(units)].copy()
            readings.append(Reading(units[warm_up:], state_TU, values, number))
    if len({reading.document for reading in readings}) < 2 * LEAST_DOCUMENTS:
        return [reading._replace(document=n) for n, reading in enumerate(readings)]
    return readings


def read_captions(
    model: CaptionModel, captioned: Sequence[records.Record], names: Sequence[str]
) -> list[Reading]:
    """The readings of captions that the model generates for the pictures of records.

    names: of the entries of the decoder's state.
    """
    references = [token_strings(record.captions) for record in captioned]
    count = Counter(name for texts in references for name in {*chain(*map(mentions, texts))})
    most = len(captioned) - LEAST_PLACES
    objects = [name for name, images in count.items() if LEAST_PLACES <= images <= most]
    assert isinstance(model.encoder, CNN)
    source = batches.PixelSource([record.image for record in captioned], model.encoder.preprocess)
    readings = []
    for first in range(0, len(captioned), BATCH):
        batch = range(len(captioned))[first : first + BATCH]
        with torch.inference_mode():
            features = model.encode(source(batch, None))
            generated = model.generate(features, Beam(), batch)
            _, kept = model.trace(features, generated, names)
        states = torch.cat([kept[name][:, 0] for name in names], dim=-1).numpy()
        for number, tokens, state_TU in zip(batch, generated.token_BKT[:, 0].tolist(), states):
            record, words = captioned[number], model.tokenizer.decode_units(tokens)
            values = properties.of_caption(words, references[number], objects)
            rows = state_TU[1 : len(words) + 1]  # the word at t is read at t + 1
            values = {name: value[: len(rows)] for name, value in values.items()}
            readings.append(Reading(words[: len(rows)], rows, values, number, record.image))
    return readings
