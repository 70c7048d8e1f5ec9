"""The transformer equals torch's own layers with copied weights."""

import pytest
import torch
from torch import nn

from captioner.decoders.base import real_positions
from captioner.decoders.transformer import _sinusoids
from tests.helpers import laws
from tests.helpers.decoders import transformer
from tests.helpers.laws import LENGTH_N, N, T, features, tokens


def test_it_equals_torchs_decoder_with_copied_weights():
    decoder, inputs, token_NT = laws.randomised(transformer()), features(N), tokens()
    logits_PV, _, _ = decoder(token_NT, LENGTH_N, *decoder.start(inputs, N))

    a_BRD = torch.from_numpy(laws.standardised(decoder, inputs.grid_BRD))
    theirs = nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True).double()
    x = decoder.embed(token_NT) * 8**0.5
    x = x + _sinusoids(torch.arange(T), x[0])
    causal_TT = nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64)
    for layer in decoder.layers:
        names = {
            "norm1": layer.norm_self, "norm2": layer.norm_cross, "norm3": layer.norm_feed,
            "self_attn.out_proj": layer.self_out, "multihead_attn.out_proj": layer.cross_out,
            "linear1": layer.feed[0], "linear2": layer.feed[3],
        }  # fmt: skip
        weights = {f"{n}.{k}": v for n, m in names.items() for k, v in m.state_dict().items()}
        weights["self_attn.in_proj_weight"] = layer.self_in.weight
        weights["self_attn.in_proj_bias"] = layer.self_in.bias
        # Theirs takes regions of the model's own size, so keys and values of ours are made before.
        weights["multihead_attn.in_proj_bias"] = torch.cat(
            [layer.cross_q.bias, torch.zeros(16).double()]
        )
        regions = {}
        for part, name in enumerate("kv", start=1):
            W, b = (p.chunk(2)[part - 1] for p in (layer.cross_kv.weight, layer.cross_kv.bias))
            regions[name] = a_BRD @ W.T + b
        eye = torch.eye(8).double()
        weights["multihead_attn.in_proj_weight"] = torch.cat([layer.cross_q.weight, eye, eye])
        theirs.load_state_dict(weights)
        theirs._mha_block = lambda x, memory, mask, padding, is_causal=False, kv=regions: (
            theirs.multihead_attn(x, kv["k"], kv["v"], key_padding_mask=~inputs.mask_BR)[0]
        )
        x = theirs(x, a_BRD, tgt_mask=causal_TT, tgt_is_causal=True)
    expected = decoder.logits(decoder.norm(x)[real_positions(LENGTH_N, T)])
    torch.testing.assert_close(logits_PV, expected, atol=1e-12, rtol=0)


def test_without_an_image_it_is_a_language_model():
    decoder, token_NT = laws.randomised(transformer()), tokens()
    memory, state = decoder.start(None, N)
    logits_PV, after, _ = decoder(token_NT, LENGTH_N, memory, state)
    logits_NTV, _ = laws.unrolled(decoder, None, token_NT)
    torch.testing.assert_close(logits_PV, logits_NTV[real_positions(LENGTH_N, T)])
    with pytest.raises(ValueError, match="alpha"):
        decoder(token_NT, LENGTH_N, memory, state, keep=("alpha",))
