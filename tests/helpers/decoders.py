"""Small decoders of every kind: `make(vocabulary, size)` builds one in float64."""

from functools import partial

from captioner.decoders.attention import AdaptiveAttention, SoftAttention, UpDown
from captioner.decoders.attention_base import SCORES
from captioner.decoders.cells import CELLS
from captioner.decoders.minds_eye import MindsEye
from captioner.decoders.mrnn import MRNN
from captioner.decoders.recurrent import INJECT, Recurrent
from captioner.decoders.transformer import Transformer
from tests.helpers.laws import D, V

SIZE = 8
ATTENTION = (SoftAttention, AdaptiveAttention, UpDown)


def recurrent(vocabulary=V, size=SIZE, **options):
    """The embedding is smaller than the state, if the cell allows it."""
    embed_size = size if options.get("cell") in ("MUT1", "MUT2") else size - 2
    options = dict(embed_size=embed_size, hidden_size=size, dropout=0.0) | options
    return Recurrent(vocabulary, D, **options).double()


def attention(Kind, cell, score, vocabulary=V, size=SIZE, **options):
    return Kind(vocabulary, D, cell, size, size, 5, score, dropout=0.0, **options).double()


def mrnn(vocabulary=V, size=SIZE):
    return MRNN(vocabulary, D, size - 3, size - 2, size - 1, dropout=0.0).double()


def minds_eye(cell, vocabulary=V, size=SIZE, **options):
    return MindsEye(vocabulary, D, cell, size, size, size, dropout=0.0, **options).double()


def transformer(vocabulary=V, size=SIZE):
    return Transformer(vocabulary, D, size, 2, 2, 2 * size, dropout=0.0).double()


RECURRENT = {
    f"{cell}-{inject}-{layers}": partial(recurrent, cell=cell, inject=inject, layers=layers)
    for cell in CELLS
    for inject in INJECT
    for layers in (1, 2)
}
MIXED = {
    f"layers that differ-{inject}": partial(
        recurrent,
        cell=["RNN", "LSTM", "GRU"],
        image_layers=[1, 2],
        residual=True,
        inject=inject,
    )
    for inject in ("par", "first")
}
WITH_REGIONS = {
    f"{Kind.__name__}-{cell}-{score}": partial(attention, Kind, cell, score)
    for Kind in ATTENTION
    for cell in CELLS
    for score in SCORES
} | {"transformer": transformer}
EYES = {f"MindsEye-{cell}": partial(minds_eye, cell) for cell in CELLS}
DECODERS = RECURRENT | MIXED | WITH_REGIONS | EYES | {"mrnn": mrnn}
