"""The same words and scores as Hugging Face's `generate`, of a GPT-2 as our decoder."""

import pytest
import torch

from captioner.search import Beam, Greedy
from captioner.search.rules import no_repeated_ngram
from captioner.types import BOS, EOS, PAD
from tests.helpers.brute import unpadded

V, T, IMAGES = 23, 9, 12
transformers = pytest.importorskip("transformers")


class GPT2(transformers.GPT2LMHeadModel):
    """Never says pad and bos, as our decoders; `temperature` makes it surer, and END likely."""

    temperature, ending = 2.0, 1.0

    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        logits = output.logits / self.temperature
        logits[..., [PAD, BOS]] = -torch.inf
        logits[..., EOS] += self.ending
        output.logits = logits
        return output


def make(seed):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=V, n_positions=T + 2, n_embd=16, n_layer=2, n_head=2, bos_token_id=BOS,
        eos_token_id=EOS, pad_token_id=PAD, initializer_range=0.5,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    return GPT2(config).double().eval()


def ours(model, strategy, first_B, rules=()):
    """An image is a first word of its own: a state of prefixes that grow."""

    def step(token_N, memory, state):
        prefix_NT = torch.cat([state["prefix"], token_N[:, None]], dim=1)
        return model(prefix_NT).logits[:, -1], {"prefix": prefix_NT}

    prefix_N1 = first_B.repeat_interleave(strategy.rows)[:, None]
    with torch.no_grad():
        return strategy(step, {}, {"prefix": prefix_N1}, rules)


def theirs(model, first_B, **options):
    prompt_B2 = torch.stack([first_B, torch.full_like(first_B, BOS)], dim=1)
    captions = model.generate(
        prompt_B2, attention_mask=torch.ones_like(prompt_B2), max_new_tokens=T, do_sample=False,
        return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    words = [unpadded(tokens) for tokens in captions.sequences[:, 2:].tolist()]
    return [w[: w.index(EOS) + 1] if EOS in w else w for w in words], captions


FIRST_B = torch.arange(4, 4 + IMAGES)
ngrams = pytest.mark.parametrize("n", [0, 2, 3])


@pytest.mark.parametrize("seed", range(3))
@ngrams
def test_greedy(seed, n):
    model = make(seed)
    words, _ = theirs(model, FIRST_B, no_repeat_ngram_size=n)
    captions = ours(model, Greedy(T), FIRST_B, [no_repeated_ngram(n)] if n else [])
    assert [unpadded(tokens) for tokens in captions.token_BKT[:, 0].tolist()] == words


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 1.5])
@ngrams
def test_beam(seed, width, penalty, n):
    model = make(seed)
    words, output = theirs(
        model, FIRST_B, num_beams=width, num_return_sequences=width, length_penalty=penalty,
        early_stopping="never", no_repeat_ngram_size=n,
    )  # fmt: skip
    strategy = Beam(width, penalty, n=width, max_length=T)
    mine = ours(model, strategy, FIRST_B, [no_repeated_ngram(n)] if n else [])
    assert [unpadded(tokens) for tokens in mine.token_BKT.flatten(0, 1).tolist()] == words
    score_N = mine.score_BK.flatten()
    torch.testing.assert_close(score_N, output.sequences_scores.double(), atol=1e-5, rtol=0)
    assert len(set(words)) > width
