"""m-RNN: image and words meet in a multimodal layer, outside the recurrence."""

import torch
from torch import Tensor, nn

from captioner.decoders.base import add_image, check_sizes, linear, scaled_tanh
from captioner.decoders.scan import Entries, PackedDecoder, defer_products, scan
from captioner.types import Features, Memory, State


class MRNN(PackedDecoder):
    """w_t = E_2 E_1 token_t                                two embedding layers
    r_t = max(0, U r_{t-1} + w_t)
    m_t = g(V_w w_t + V_r r_t + V_I v)                   g(x) = 1.7159 tanh(2x/3)
    y_t = W_hy m_t

    Mao et al. 2014, "Explain Images with Multimodal Recurrent Neural Networks", equations 1 to 3.
    embed_size: of the first embedding; hidden_size: of the second and of r; multimodal_size: of m.
    `forward` keeps r (N, T, H).
    """

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        embed_size: int = 128,
        hidden_size: int = 256,
        multimodal_size: int = 512,
        dropout: float = 0.5,
    ):
        check_sizes(embed_size=embed_size, hidden_size=hidden_size, multimodal_size=multimodal_size)
        super().__init__(vocab_size, feature_size, embed_size, multimodal_size, dropout)
        self.E_2 = linear(embed_size, hidden_size)
        self.U = linear(hidden_size, hidden_size, bias=False)
        nn.init.orthogonal_(self.U.weight)
        self.V_w = linear(hidden_size, multimodal_size)
        self.V_r = linear(hidden_size, multimodal_size, bias=False)
        self.V_I = linear(feature_size, multimodal_size, bias=False)

    def start(self, features: Features | None, rows: int) -> tuple[Memory, State]:
        state = {"r": self.U.weight.new_zeros(rows, len(self.U.weight))}
        if features is None:
            return {}, state
        return {"image": self.V_I(self.standard(features.pooled_BD))}, state

    def words(self, token: Tensor) -> Tensor:
        return self.E_2(super().words(token))

    def step(self, token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        w_NH = self.words(token_N)
        r_NH = torch.relu(w_NH + self.U(state["r"]))
        m_NX = self.V_w(w_NH) + self.V_r(r_NH)
        if memory:
            m_NX = add_image(m_NX, memory["image"])
        return self.logits(scaled_tanh(m_NX)), {"r": r_NH}

    def unroll(self, w_PH, packed, memory, state, keep):
        pre_PH, (U,) = defer_products(w_PH, [(slice(None), self.U.weight)])

        def tick(w_NH: Tensor, r: Entries) -> tuple[Entries, Entries]:
            new = (torch.relu(U(w_NH, r[0])),)
            return new, new

        (r_PH,), after = scan(tick, pre_PH, [state["r"]], packed)
        m_PX = self.V_w(w_PH) + self.V_r(r_PH)
        if memory:
            m_PX = m_PX + packed.of_image(memory["image"])
        return scaled_tanh(m_PX), {"r": after[0]}, {"r": r_PH}
