"""The lecture's captioner (README.md): recurrent cells, into which W_ih injects the image.

    h_t = f(W_xh x_t + W_hh h_{t-1} + W_ih v)          y_t = W_hy h_t

For speed, without changing any number:
- `W_ih v` is computed once per image, in `start`;
- `W_xh x_t + b` of all time steps is one matrix product, before the loop over time;
- the loop drops rows whose caption has ended, and W_hy is applied to real positions only;
- the gradient of W_hh is one matrix product, after backpropagation through the loop (scan.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captioner.decoders import cells, fused
from captioner.decoders.base import add_image, check_sizes, linear, scaled_tanh, to_rows
from captioner.decoders.scan import PackedDecoder, scan_cell
from captioner.errors import InputError
from captioner.types import Features, Memory, State

INJECT = ("par", "first", "pre", "init", "merge")


class Recurrent(PackedDecoder):
    """Layers of recurrent cells, the first of them reading words and, by `inject`, the image:

    par    W_ih v at every step (the lecture; LRCN, Donahue 2015)                       W_ih: G x D
    first  W_ih v at t = 1 only, with bos (Karpathy and Fei-Fei 2015)                   W_ih: G x D
    pre    the projected image is the input of a step before bos (NIC, Vinyals 2015)    W_ih: E x D
    init   every state tensor starts at tanh(W v + b), a matrix each (Xu 2015)          W:    H x D
    merge  y_t = W_hy g(h_t + W_ih v), g(x) = 1.7159 tanh(2x/3) (m-RNN, Mao 2015)       W_ih: H x D

    cell: one of captioner.decoders.cells.CELLS for all `layers`, or a list with one for each layer
    (then `layers` may be left out).
    image_layers: the layers that get the image, with `par` and `first`, counted from 0 as in the
    state's names h0, c1; [1] of two is LRCN's factored form.
    residual: a layer's output is h + x, except the first one's (Wu 2016).
    dropout: of the words' embeddings, between layers and before the vocabulary. image_dropout: of
    the components of v, once for all rows and steps of an image.
    one_hot: words go in as rows of the identity instead of learned vectors, so E = V. init_std: of
    all weights, drawn from N(0, init_std^2), with biases at 0, the forget gate's too.
    feature_size 0: a language model; it has no W_ih.
    `forward` keeps h0, c0, .. (N, T, H) and gates0, .. (N, T, number of gates, H).
    Raises InputError for a value outside these.
    """

    cells: Sequence[cells.Cell]

    def __init__(
        self,
        vocab_size: int,
        feature_size: int,
        cell: str | Sequence[str] = "LSTM",
        embed_size: int = 512,
        hidden_size: int = 512,
        layers: int = 1,
        dropout: float = 0.5,
        inject: str = "par",
        image_layers: Sequence[int] = (0,),
        residual: bool = False,
        image_dropout: float = 0.0,
        one_hot: bool = False,
        init_std: float | None = None,
    ):
        check_sizes(embed_size=embed_size, hidden_size=hidden_size, layers=layers)
        embed_size = vocab_size if one_hot else embed_size
        super().__init__(vocab_size, feature_size, embed_size, hidden_size, dropout)
        if one_hot:
            self.embed = nn.Embedding.from_pretrained(torch.eye(vocab_size))
        if not 0 <= image_dropout < 1:
            raise InputError(f"decoder.image_dropout={image_dropout}: give 0 <= image_dropout < 1")
        self.image_dropout = nn.Dropout(image_dropout)
        names = [cell] * layers if isinstance(cell, str) else list(cell)
        if not names or layers not in (1, len(names)):
            raise InputError(f"decoder.layers={layers} with cell={cell}: give one for each layer")
        if inject not in INJECT:
            raise InputError(f"decoder.inject={inject}: give one of {', '.join(INJECT)}")
        image_layers, possible = list(image_layers), list(range(len(names)))
        wrong = f"decoder.image_layers={image_layers}"
        if image_layers != [0] and inject not in ("par", "first"):
            wrong += f" with inject={inject}"
            raise InputError(f"{wrong}: only par and first choose their layers")
        if not image_layers or not set(image_layers) <= set(possible):
            raise InputError(f"{wrong}: give some of {possible}")
        self.inject, self.image_layers = inject, sorted(set(image_layers))
        self.residual, self.hidden_size = residual, hidden_size
        sizes = [embed_size] + [hidden_size] * (len(names) - 1)
        self.cells = nn.ModuleList(  # type: ignore[assignment]
            cells.make_cell(name, size, hidden_size) for name, size in zip(names, sizes)
        )
        self.entries = [f"{name}{n}" for n, cell in enumerate(self.cells) for name in cell.entries]
        rows = {"pre": embed_size, "init": len(self.entries) * hidden_size, "merge": hidden_size}
        self.image_sizes = [len(self.cells[layer].b) for layer in self.image_layers]
        size = rows.get(inject, sum(self.image_sizes))
        self.W_ih = linear(feature_size, size, bias=inject == "init") if feature_size else None
        if init_std is None:
            return
        if not init_std > 0:
            raise InputError(f"decoder.init_std={init_std}: give more than 0, or null")
        for parameter in self.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                nn.init.normal_(parameter, std=init_std)
            elif parameter.requires_grad:
                nn.init.zeros_(parameter)

    def start(self, features: Features | None, rows: int) -> tuple[Memory, State]:
        states = [cell.zeros(rows) for cell in self.cells]
        memory: Memory = {}
        state: State = {}
        if features is not None:
            if self.W_ih is None:
                raise InputError("this decoder is a language model: it takes no picture")
            image = self.W_ih(self.image_dropout(self.standard(features.pooled_BD)))
            if self.inject in ("par", "merge"):
                memory["image"] = image
            elif self.inject == "first":
                state["image"] = to_rows(image, rows)
            elif self.inject == "pre":
                states = [cell.zeros(len(image)) for cell in self.cells]
                _, states = self._layers_step(image, {}, states)
                states = [tuple(to_rows(s, rows) for s in entry) for entry in states]
            elif self.inject == "init":
                blocks = iter(to_rows(torch.tanh(image), rows).split(self.hidden_size, dim=1))
                states = [tuple(next(blocks) for _ in entry) for entry in states]
        return memory, self._named(states) | state

    def step(self, token_N: Tensor, memory: Memory, state: State) -> tuple[Tensor, State]:
        image = state.get("image", memory.get("image"))
        images, states = self._by_layer(image), self._by_cell(state)
        h_NH, states = self._layers_step(self.words(token_N), images, states)
        state_after = self._named(states)
        if "image" in state:  # `first`: used up
            state_after["image"] = torch.zeros_like(state["image"])
        if image is not None and self.inject == "merge":
            h_NH = scaled_tanh(add_image(h_NH, image))
        return self.logits(h_NH), state_after

    def unroll(self, x_PE, packed, memory, state, keep):  # P: packed, time by time (scan.py)
        image = state.get("image", memory.get("image"))
        images = self._by_layer(image)
        x_P, states = x_PE, []
        kept: dict[str, Tensor] = {}
        for layer, (cell, entry) in enumerate(zip(self.cells, self._by_cell(state))):
            read_P = self.drop(x_P) if layer else x_P
            if not keep and layer not in images and fused.fits(cell, packed):
                traces, after = fused.run(cell, read_P, entry, packed)
            else:
                pre_P = cell.inputs(read_P)
                if layer in images and self.inject == "par":
                    pre_P = pre_P + packed.of_image(images[layer])
                elif layer in images:  # the first time step's positions stand first
                    now, later = pre_P.tensor_split([packed.sizes_T[0]])
                    first = packed.row_P[: len(now)]
                    pre_P = torch.cat([now + images[layer].index_select(0, first), later])
                traces, after = scan_cell(cell, pre_P, entry, packed, keep_all=bool(keep))
            x_P = traces[0] + x_P if layer and self.residual else traces[0]
            states.append(after)
            kept |= {f"{name}{layer}": trace for name, trace in zip(cell.entries, traces)}
            if gates := traces[len(cell.entries) :]:
                kept[f"gates{layer}"] = torch.stack(gates, dim=1)
        if image is not None and self.inject == "merge":
            x_P = scaled_tanh(x_P + packed.of_image(image))
        state_after = self._named(states)
        if "image" in state:
            unread_N = ~packed.real_NT.any(1)
            state_after["image"] = state["image"] * unread_N[:, None]
        return x_P, state_after, kept

    def _layers_step(self, x_NE, images, states):
        """One time step through all layers -> the top one's output, and the new states."""
        states_after = []
        for layer, (cell, entry) in enumerate(zip(self.cells, states)):
            pre_NG = cell.inputs(self.drop(x_NE) if layer else x_NE)
            if layer in images:
                pre_NG = add_image(pre_NG, images[layer])
            entry = cell.step(pre_NG, entry)
            x_NE = entry[0] + x_NE if layer and self.residual else entry[0]
            states_after.append(entry)
        return x_NE, states_after

    def _by_layer(self, image: Tensor | None) -> dict[int, Tensor]:
        """W_ih v of each layer that gets the image into its pre-activations."""
        if image is None or self.inject not in ("par", "first"):
            return {}
        return dict(zip(self.image_layers, image.split(self.image_sizes, dim=1)))

    def _named(self, states: Sequence[tuple[Tensor, ...]]) -> State:
        return dict(zip(self.entries, (tensor for entry in states for tensor in entry)))

    def _by_cell(self, state: State) -> list[tuple[Tensor, ...]]:
        return [
            tuple(state[f"{name}{layer}"] for name in cell.entries)
            for layer, cell in enumerate(self.cells)
        ]
