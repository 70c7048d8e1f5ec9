"""Models so small that laws about training them take no time."""

import torch

from captioner import tokenizers
from captioner.decoders.recurrent import Recurrent
from captioner.models import language_model
from captioner.models.caption_model import build_captioner
from captioner.types import Features

V, D = 12, 4
WORDS = "the cat sat on the mat, the dog sat on the cat\n"


def tiny_language_model(cell="LSTM", layers=2, kind="char", size=7, **options):
    torch.manual_seed(1)
    tokenizer = tokenizers.train_tokenizer([WORDS], kind)
    decoder = {"_target_": "captioner.decoders.recurrent.Recurrent", "cell": cell}
    decoder |= {"embed_size": size, "hidden_size": size, "layers": layers, "dropout": 0.0}
    model = language_model.build_language_model({"decoder": decoder | options}, tokenizer)
    model.decoder.double()
    return model


def tiny_captioner(texts=("a dog runs",), kind="word", **options):
    decoder = {"_target_": "captioner.decoders.recurrent.Recurrent", "embed_size": 5}
    decoder |= {"hidden_size": 5, "layers": 1, "dropout": 0.0} | options
    config = {"encoder": {"_target_": "captioner.encoders.Blind"}, "decoder": decoder}
    return build_captioner(config, tokenizers.train_tokenizer(texts, kind))


class Model:
    carries_state = False

    def __init__(self, decoder=None):
        decoder = decoder or Recurrent(V, D, embed_size=5, hidden_size=6, dropout=0.0)
        self.decoder = decoder.double()

    def encode(self, images):
        return images

    def start(self, batch, state):
        return batch.images, *self.decoder.start(batch.images, len(batch.token_NT))


def source(index, draw):
    return Features(torch.ones(len(index), D).double() * torch.tensor(index)[:, None])
