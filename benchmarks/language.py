"""Character language models: training beside torch.nn.LSTM, sampling beside two other loops.

    python benchmarks/language.py [--threads N]

Two layers of 512 units, chunks of 100 characters, 32 streams. Training: the same objective,
clipping and optimiser, with equal losses; only what runs over time differs. Sampling: one text,
greedily, by captioner.search; by a loop of torch.nn.LSTMCell with the same weights; and by a model
that reads the whole text again for each character. All three write the same text.
"""

import argparse
import statistics

import torch
from timing import peak, ratio, timed
from torch import Tensor, nn

from captioner import tokenizers
from captioner.models import language_model
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.search import Greedy
from captioner.types import BOS, EOS, UNK, TextBatch

H, LAYERS, T, N, E = 512, 2, 100, 32, 128
UNITS = [chr(code) for code in range(32, 127)]


def torchs_rows(W: Tensor) -> Tensor:
    """Our blocks i, f, o, g in torch's order i, f, g, o."""
    i, f, o, g = W.chunk(4)
    return torch.cat([i, f, g, o])


class TorchLSTM(nn.Module):
    """The interface of a decoder around torch.nn.LSTM, with the weights of ours."""

    kept_for_penalty = ()

    def __init__(self, ours: nn.Module):
        super().__init__()
        self.embed = nn.Embedding.from_pretrained(ours.embed.weight.detach().clone(), freeze=False)
        self.lstm = nn.LSTM(E, H, LAYERS, batch_first=True)
        self.vocabulary = nn.Linear(H, len(ours.W_hy.bias))
        self.register_buffer("never_V", ours.never_V.clone(), persistent=False)
        with torch.no_grad():
            for layer, cell in enumerate(ours.cells):
                getattr(self.lstm, f"weight_ih_l{layer}").copy_(torchs_rows(cell.W_xh))
                getattr(self.lstm, f"weight_hh_l{layer}").copy_(torchs_rows(cell.W_hh))
                getattr(self.lstm, f"bias_ih_l{layer}").copy_(torchs_rows(cell.b))
                getattr(self.lstm, f"bias_hh_l{layer}").zero_()
            self.vocabulary.load_state_dict(ours.W_hy.state_dict())

    def start(self, features: None, rows: int) -> tuple[dict, dict[str, Tensor]]:
        return {}, {name: torch.zeros(rows, LAYERS * H) for name in ("h", "c")}

    def forward(self, token_NT, length_N, memory, state, keep=()):
        entries = [state[k].unflatten(1, (LAYERS, H)).transpose(0, 1).contiguous() for k in "hc"]
        out_NTH, after = self.lstm(self.embed(token_NT), tuple(entries))
        logits_PV = self.vocabulary(out_NTH.flatten(0, 1)) + self.never_V
        state = {k: entry.transpose(0, 1).flatten(1) for k, entry in zip("hc", after)}
        return logits_PV, state, {}


class Side:
    """One way to train."""

    def __init__(self, model: language_model.LanguageModel):
        self.model, self.seconds, self.state = model, [], None
        self.optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step(self, batch: TextBatch) -> float:
        self.optimizer.zero_grad()
        loss, logs, self.state = CrossEntropy()(self.model, batch, 0, self.state)
        (loss / logs["count"]).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        return float(loss.detach() / logs["count"])


def chunks(count: int) -> list[TextBatch]:
    token_NX = torch.randint(4, 4 + len(UNITS), (N, count * T + 1))
    return [
        TextBatch(
            token_NX[:, k * T : (k + 1) * T + 1], torch.full((N,), T), torch.full((N,), not k)
        )
        for k in range(count)
    ]


def training(model: language_model.LanguageModel, rounds: int, steps: int) -> None:
    other = language_model.LanguageModel(TorchLSTM(model.decoder), model.tokenizer, {})  # type: ignore[arg-type]
    sides, data, peaks = [Side(model), Side(other)], chunks(steps), []
    for batch in data:
        one, two = (side.step(batch) for side in sides)
        assert abs(one - two) < 1e-4, (one, two)
    print(f"equal losses after {steps} steps: {one:.6f}, {two:.6f}")
    for _ in range(rounds):
        for side in sides:
            seconds, _ = timed(lambda side=side: [side.step(batch) for batch in data])
            side.seconds.append(seconds / steps)
        peaks.append(peak())
    ours, theirs = sides
    weights = sum(
        p.numel() for n, p in model.decoder.named_parameters() if p.ndim > 1 and "embed" not in n
    )
    rate = N * T / statistics.median(ours.seconds)
    top = statistics.median(peaks)
    print(
        f"training: {rate:,.0f} characters/s, {6 * weights * rate / top:.0%} of the peak "
        f"({top / 1e9:.0f} Gflop/s); {ratio(theirs.seconds, ours.seconds)} x torch.nn.LSTM"
    )


@torch.inference_mode()
def torchs_cells(model: language_model.LanguageModel) -> list[nn.LSTMCell]:
    cells = []
    for ours in model.decoder.cells:
        cell = nn.LSTMCell(ours.W_xh.shape[1], H)
        cell.weight_ih.copy_(torchs_rows(ours.W_xh))
        cell.weight_hh.copy_(torchs_rows(ours.W_hh))
        cell.bias_ih.copy_(torchs_rows(ours.b))
        cell.bias_hh.zero_()
        cells.append(cell)
    return cells


@torch.inference_mode()
def by_cells(model: language_model.LanguageModel, cells: list[nn.LSTMCell], length: int) -> str:
    """A loop of torch.nn.LSTMCell."""
    decoder = model.decoder
    states = [(torch.zeros(1, H), torch.zeros(1, H)) for _ in cells]
    token, ids = torch.tensor([BOS]), []
    never_V = decoder.never_V.clone()
    never_V[UNK] = -torch.inf
    bias_V = decoder.W_hy.bias + never_V
    while len(ids) < length:
        x = decoder.embed(token)
        for layer, cell in enumerate(cells):
            states[layer] = cell(x, states[layer])
            x = states[layer][0]
        token = nn.functional.linear(x, decoder.W_hy.weight, bias_V).argmax(1)
        if int(token) == EOS:
            break
        ids.append(int(token))
    return model.tokenizer.decode(ids)


@torch.inference_mode()
def by_reading_again(model: language_model.LanguageModel, length: int) -> str:
    """The whole text for each character, as one does without a state."""
    ids = [BOS]
    while len(ids) <= length:
        memory, state = model.decoder.start(None, 1)
        logits_PV, *_ = model.decoder(torch.tensor([ids]), torch.tensor([len(ids)]), memory, state)
        logits_PV[:, UNK] = -torch.inf
        token = int(logits_PV[-1].argmax())
        if token == EOS:
            break
        ids.append(token)
    return model.tokenizer.decode(ids[1:])


def sampling(model: language_model.LanguageModel, rounds: int, length: int) -> None:
    cells = torchs_cells(model)
    ways = {
        "captioner.search": lambda: model.continue_prompt("", Greedy(length))[0],
        "torch.nn.LSTMCell": lambda: by_cells(model, cells, length),
        "reading again": lambda: by_reading_again(model, length),
    }
    texts = {name: way() for name, way in ways.items()}
    assert len(set(texts.values())) == 1 and len(texts["reading again"]) == length, texts
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(timed(way)[0])
    ours = seconds.pop("captioner.search")
    print(f"sampling {length}: {length / statistics.median(ours):,.0f} characters/s")
    for name, theirs in seconds.items():
        print(f"  {ratio(theirs, ours)} x {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of character language models.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of training, a round")
    parser.add_argument("--length", type=int, default=500, help="of the text")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    tokenizer = tokenizers.Char(UNITS, 1)
    decoder = {"_target_": "captioner.decoders.recurrent.Recurrent", "dropout": 0.0}
    sizes = {"embed_size": E, "hidden_size": H, "layers": LAYERS}
    model = language_model.build_language_model({"decoder": decoder | sizes}, tokenizer)
    training(model, options.rounds, options.steps)
    model.decoder.W_hy.bias.data[EOS] = -100.0  # so that it goes on
    sampling(model.eval(), options.rounds, options.length)


if __name__ == "__main__":
    main()
