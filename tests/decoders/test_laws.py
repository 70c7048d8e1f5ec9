"""Every decoder, with every cell, injection and score, obeys the laws and names wrong options."""

import pytest
import torch

from captioner.decoders.attention import AdaptiveAttention, SoftAttention
from captioner.decoders.minds_eye import MindsEye
from captioner.decoders.mrnn import MRNN
from captioner.decoders.recurrent import INJECT, Recurrent
from captioner.decoders.transformer import Transformer
from captioner.errors import InputError
from captioner.types import Features
from tests.helpers import laws
from tests.helpers.decoders import ATTENTION, DECODERS, WITH_REGIONS
from tests.helpers.laws import LENGTH_N, B, D, N, R, V, features, tokens


@pytest.mark.parametrize("name", DECODERS)
@laws.every_law(*laws.LAWS)
def test_law(law, name):
    law(lambda vocabulary: laws.randomised(DECODERS[name](vocabulary)))


@pytest.mark.parametrize("name", DECODERS)
@laws.every_law(*laws.FIRST)
def test_law_of_the_first_weights(law, name):
    law(lambda vocabulary: DECODERS[name](vocabulary, 32))


@pytest.mark.parametrize("name", WITH_REGIONS)
def test_laws_of_regions(name):
    make = lambda vocabulary: laws.randomised(WITH_REGIONS[name](vocabulary))  # noqa: E731
    columns = R + isinstance(make(V), AdaptiveAttention)
    laws.regions_that_do_not_exist_change_nothing_and_get_no_alpha(make, columns)


ONCE = {f"LSTM-{inject}-1": "W_ih" for inject in INJECT}
ONCE |= {f"{Kind.__name__}-LSTM-additive": "regions.U" for Kind in ATTENTION}
ONCE |= {"MindsEye-LSTM": "W_ih", "mrnn": "V_I", "transformer": "layers.0.cross_kv"}


@pytest.mark.parametrize("name, layer", ONCE.items())
def test_what_depends_on_the_image_alone_is_computed_once_per_image(name, layer):
    decoder, token_NT, seen = DECODERS[name](), tokens(), []
    hook = lambda module, inputs, output: seen.append(len(inputs[0]))  # noqa: E731
    decoder.get_submodule(layer).register_forward_hook(hook)
    memory, state = decoder.start(features(), N)
    decoder(token_NT, LENGTH_N, memory, state)
    decoder.step(token_NT[:, 0], memory, state)
    assert seen == [B]


WITH_CELL = (*ATTENTION, Recurrent, MindsEye)
ZEROS = {
    **dict.fromkeys(ATTENTION, ("embed_size", "hidden_size", "attention_size")),
    Recurrent: ("embed_size", "layers"),
    MRNN: ("embed_size", "hidden_size", "multimodal_size"),
    MindsEye: ("memory_size",),
    Transformer: ("layers", "heads", "feed_forward", "hidden_size"),
}
MUTS = ("MUT1", "MUT2")
TOO_NARROW = r"{} takes its input as it is, .*\(8\) .*\(512\): give the decoder one size for both"
WRONG = [
    *((Kind, {size: 0}, f"{size}=0: give 1 or more") for Kind in ZEROS for size in ZEROS[Kind]),
    *((Kind, {"cell": "XXX"}, "decoder.cell=XXX: give one of RNN, ReLU") for Kind in WITH_CELL),
    *((Kind, {"score": "x"}, "decoder.score=x: give one of additive, dot") for Kind in ATTENTION),
    (SoftAttention, {"doubly_stochastic": -1}, "doubly_stochastic=-1"),
    (MindsEye, {"reconstruction": -1.0}, "reconstruction=-1.0"),
    (Transformer, {"hidden_size": 513}, "hidden_size=513 with heads=8: give a multiple of 16"),
    (Recurrent, {"inject": "here"}, "decoder.inject=here"),
    (Recurrent, {"hidden_size": -1}, "hidden_size=-1"),
    (Recurrent, {"cell": []}, "one for each layer"),
    (Recurrent, {"cell": ["RNN", "GRU"], "layers": 3}, r"layers=3 with cell=\['RNN', 'GRU'\]"),
    *((Recurrent, {"cell": cell, "embed_size": 8}, TOO_NARROW.format(cell)) for cell in MUTS),
    (Recurrent, {"image_layers": [1]}, r"image_layers=\[1\]: give some of \[0\]"),
    (Recurrent, {"image_layers": []}, "image_layers"),
    (Recurrent, {"layers": 2, "inject": "pre", "image_layers": [1]}, "only par and first"),
    (Recurrent, {"dropout": 1.0}, "decoder.dropout=1.0"),
    (Recurrent, {"image_dropout": -0.1}, "decoder.image_dropout=-0.1"),
    (Recurrent, {"image_dropout": 1.0}, "decoder.image_dropout=1.0"),
]  # fmt: skip


@pytest.mark.parametrize("Kind, options, message", WRONG)
def test_a_wrong_option_is_named(Kind, options, message):
    with pytest.raises(InputError, match=message):
        Kind(V, D, **options)


@pytest.mark.parametrize("Kind", [*ATTENTION, Transformer])
def test_an_image_without_its_regions_is_named(Kind):
    for nothing in (Features(torch.rand(B, D)), *([] if Kind is Transformer else [None])):
        with pytest.raises(InputError, match="needs the regions of an image"):
            Kind(V, D).start(nothing, N)
