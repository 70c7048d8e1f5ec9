"""Search speed: against the tutorials' way, Hugging Face's `generate`, and our own greedy.

    python benchmarks/search.py                       # everything
    python benchmarks/search.py tutorial_nic generate # some

    tutorial_nic        beam 5 of NIC's decoder, one image at a time, hypotheses in Python lists,
                        their words and states stacked for each step (nn.LSTMCell); ours in
                        batches of 100 images, here and in the next
    tutorial_attention  the same with soft attention to 49 regions: the regions repeated for every
                        hypothesis, their keys made anew at every step, the context concatenated
    generate            `generate` of transformers, beam 5, of the same transformer decoder with a
                        cache of keys and values, in batches of 50 images
    greedy              our beam 5 against our greedy search over five times the images, both to
                        the longest caption (so that both take as many steps), and as they end

V = 9,487 words, H = 512 units, random decoders in which END is as likely as makes captions of about
10 words (at most 20). Both sides must say the same; float32 products differ a little between batch
sizes, so that a near tie can be decided otherwise: such images are counted. The sides are timed
in turn.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from timing import spread, timed
from torch import Tensor
from usual import D, H, R, UsualAttention, UsualNIC, V

from captioner.decoders.attention import SoftAttention
from captioner.decoders.base import Decoder
from captioner.decoders.recurrent import Recurrent
from captioner.decoders.transformer import Transformer
from captioner.search import Beam, Greedy
from captioner.search.rules import min_length
from captioner.types import BOS, EOS, PAD, Features

K, T = 5, 20
Words = list[list[int]]


def sharp(decoder: Decoder, features: Features) -> Decoder:
    """Surer of its words than a fresh one, and with captions of 10 words on average (greedy)."""
    decoder.eval()
    with torch.no_grad():
        decoder.W_hy.weight *= 8
        low, high = -20.0, 60.0
        for _ in range(12):
            decoder.W_hy.bias[EOS] = (low + high) / 2
            lengths = [len(words) for words in search(decoder, Greedy(T), features)]
            longer = statistics.mean(lengths) > 11
            low, high = ((low + high) / 2, high) if longer else (low, (low + high) / 2)
    return decoder


def search(decoder: Decoder, strategy: Any, features: Features, batch: int = 50, rules=()) -> Words:
    """The best caption of each image."""
    captions: Words = []
    with torch.inference_mode():
        for begin in range(0, len(features.pooled_BD), batch):
            part = cut(features, begin, begin + batch)
            memory, state = decoder.start(part, len(part.pooled_BD) * strategy.rows)
            tokens = strategy(decoder.step, memory, state, rules).token_BKT[:, 0]
            captions += [[word for word in words if word != PAD] for words in tokens.tolist()]
    return captions


def cut(features: Features, begin: int, end: int) -> Features:
    grid = features.grid_BRD
    return Features(features.pooled_BD[begin:end], None if grid is None else grid[begin:end])


class Tutorial:
    """Beam search as tutorials write it, over the decoders of training.py's usual ways."""

    def __init__(self, decoder: Any):
        super().__init__(decoder)  # type: ignore[call-arg]
        self.standard = decoder.standard

    @torch.no_grad()
    def caption(self, image: Features, penalty: float) -> list[int]:
        h, c = self.first(image)
        live: list[tuple[float, list[int], Tensor, Tensor]] = [(0.0, [BOS], h[0], c[0])]
        finished: list[tuple[float, list[int]]] = []
        for t in range(1, T + 1):
            h = torch.stack([hypothesis[2] for hypothesis in live])
            c = torch.stack([hypothesis[3] for hypothesis in live])
            logits, h, c = self.next([words[-1] for _, words, _, _ in live], h, c)
            logits[:, :EOS] = -torch.inf
            log_probs = torch.log_softmax(logits, dim=1)
            best, words_at = log_probs.topk(2 * K, dim=1)
            grown = []
            for n, (total, words, _, _) in enumerate(live):
                for log_prob, word in zip(best[n].tolist(), words_at[n].tolist()):
                    grown.append((total + log_prob, [*words, word], h[n], c[n]))
            grown.sort(key=lambda hypothesis: -hypothesis[0])
            for total, words, _, _ in grown[:K]:
                if words[-1] == EOS or t == T:
                    finished.append((total / t**penalty, words[1:]))
            finished = sorted(finished, key=lambda hypothesis: -hypothesis[0])[:K]
            live = [hypothesis for hypothesis in grown if hypothesis[1][-1] != EOS][:K]
            if finished and live[0][0] / T**penalty <= finished[0][0]:
                break
        return finished[0][1]

    def __call__(self, features: Features, penalty: float) -> Words:
        images = range(len(features.pooled_BD))
        return [self.caption(cut(features, i, i + 1), penalty) for i in images]


class TutorialNIC(Tutorial, UsualNIC):
    def first(self, image):
        return self.cell(self.image(self.standard(image.pooled_BD)))

    def next(self, words, h, c):
        h, c = self.cell(self.embed(torch.tensor(words)), (h, c))
        return self.vocabulary(h), h, c


class TutorialAttention(Tutorial, UsualAttention):
    def first(self, image):
        self.a_1RD = self.standard(image.grid_BRD)
        return torch.tanh(self.init(self.standard(image.pooled_BD))).chunk(2, dim=1)

    def next(self, words, h, c):
        x_NE, a_NRD = self.embed(torch.tensor(words)), self.a_1RD.expand(len(words), -1, -1)
        q_NA, beta_N1 = self.query(h).split((H, 1), dim=1)
        score_NR = self.score(torch.tanh(self.keys(a_NRD) + q_NA[:, None]))[..., 0]
        z_ND = (score_NR.softmax(1)[..., None] * a_NRD).sum(1) * torch.sigmoid(beta_N1)
        h, c = self.cell(torch.cat([x_NE, z_ND], dim=1), (h, c))
        return self.vocabulary(x_NE + self.say_h(h) + self.say_z(z_ND)), h, c


def hugging_face(decoder: Transformer) -> Callable[[Features, float], Words]:
    """Our transformer as a model of theirs: their cache holds the words' keys and values, and the
    regions' are given to every hypothesis, as theirs do with an encoder's."""
    from transformers import (
        GenerationConfig,
        GenerationMixin,
        PretrainedConfig,
        PreTrainedModel,
    )
    from transformers.modeling_outputs import CausalLMOutputWithPast

    class Model(PreTrainedModel, GenerationMixin):
        config_class = PretrainedConfig
        main_input_name = "input_ids"

        def __init__(self, config: PretrainedConfig):
            super().__init__(config)
            self.decoder = decoder

        def forward(self, input_ids, cache=None, regions=None, **_):
            past = cache.get_seq_length()
            memory = {}
            for number in range(len(decoder.layers)):
                for name, part in zip("kv", regions[:, number].chunk(2, dim=2)):
                    memory[f"{name}{number}"] = part
            state: dict[str, Tensor] = {"real": input_ids.new_ones(len(input_ids), past).bool()}
            for number, layer in enumerate(cache.layers if past else ()):
                state |= {f"k{number}": layer.keys[:, 0], f"v{number}": layer.values[:, 0]}
            if not past:
                _, state = decoder.start(None, len(input_ids))
            logits, after = decoder.step(input_ids[:, -1], memory, state)
            for number in range(len(decoder.layers)):
                k, v = (after[f"{name}{number}"][:, None, past:] for name in "kv")
                cache.update(k, v, number)
            return CausalLMOutputWithPast(logits=logits[:, None], cache=cache)

    config = PretrainedConfig(
        vocab_size=V, num_hidden_layers=len(decoder.layers), hidden_size=H,
        num_attention_heads=decoder.heads, is_encoder_decoder=False,
    )  # fmt: skip
    model = Model(config).eval()

    def caption(features: Features, penalty: float) -> Words:
        captions: Words = []
        for begin in range(0, len(features.pooled_BD), 50):
            with torch.inference_mode():
                memory, _ = decoder.start(cut(features, begin, begin + 50), 1)
                regions = torch.stack(
                    [
                        torch.cat([memory[f"k{number}"], memory[f"v{number}"]], dim=2)
                        for number in range(len(decoder.layers))
                    ],
                    dim=1,
                )
            tokens = model.generate(
                torch.full((len(regions), 1), BOS), regions=regions,
                generation_config=GenerationConfig(
                    num_beams=K, max_new_tokens=T, early_stopping="never", length_penalty=penalty,
                    do_sample=False, eos_token_id=EOS, pad_token_id=PAD, bos_token_id=BOS,
                ),
            )  # fmt: skip
            for words in tokens[:, 1:].tolist():  # it fills up with END
                captions.append(words[: words.index(EOS) + 1] if EOS in words else words)
        return captions

    return caption


def compare(
    title: str, ours: Callable[[], Words], other: Callable[[], Words], rounds: int, unit: str = "x"
) -> None:
    """Prints the other's time by ours, and of how many images both say the same."""
    ratios, speeds = [], []
    for _ in range(rounds):
        seconds = []
        for side in (ours, other):
            elapsed, captions = timed(side)
            seconds.append(elapsed / len(captions))
            if side is ours:
                mine = captions
        same = sum(a == b for a, b in zip(mine, captions))
        ratios.append(seconds[1] / seconds[0])
        speeds.append(1 / seconds[0])
    print(
        f"{title}: {statistics.median(speeds):.0f} images/s, "
        f"{spread(ratios)} {unit}; {same} of {min(len(mine), len(captions))} "
        f"images alike, {statistics.mean(map(len, mine)):.1f} tokens",
        flush=True,
    )


def main() -> None:
    cases = ("tutorial_nic", "tutorial_attention", "generate", "greedy")
    parser = argparse.ArgumentParser(description="Search speed.")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(cases)}")
    parser.add_argument("--images", type=int, default=500, help="images (default 500)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default 3)")
    parser.add_argument("--penalty", type=float, default=0.8, help="length penalty (default 0.8)")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(cases):
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(cases)}")
    names, penalty = options.cases or cases, options.penalty
    torch.manual_seed(0)
    grid_BRD = torch.randn(options.images, R, D)
    features = Features(grid_BRD.mean(1) * R**0.5, grid_BRD)
    print(f"{options.images} images, V = {V:,}, {torch.get_num_threads()} threads")
    beam = Beam(K, penalty, max_length=T)
    nic = sharp(Recurrent(V, D, "LSTM", H, H, inject="pre"), cut(features, 0, 100))

    if "tutorial_nic" in names:
        usual: Any = TutorialNIC(nic)
        compare(
            "beam 5 of NIC, the tutorials' way", lambda: search(nic, beam, features, 100),
            lambda: usual(cut(features, 0, options.images // 5), penalty), options.rounds,
        )  # fmt: skip
    if "tutorial_attention" in names:
        soft = sharp(SoftAttention(V, D, "LSTM", H, H, H), cut(features, 0, 100))
        usual = TutorialAttention(soft)
        compare(
            "beam 5 of soft attention, the tutorials' way",
            lambda: search(soft, beam, features, 100),
            lambda: usual(cut(features, 0, options.images // 5), penalty), options.rounds,
        )  # fmt: skip
    if "generate" in names:
        transformer = sharp(Transformer(V, D, H), cut(features, 0, 100))
        generate = hugging_face(transformer)
        compare(
            "beam 5 of the transformer, generate", lambda: search(transformer, beam, features),
            lambda: generate(features, penalty), options.rounds,
        )  # fmt: skip
    if "greedy" in names:
        many = Features(features.pooled_BD.repeat_interleave(K, 0))
        long = [min_length(T - 1)]
        compare(
            "beam 5 of NIC, all to the longest",
            lambda: search(nic, beam, features, rules=long),
            lambda: search(nic, Greedy(T), many, 50 * K, long)[::K], options.rounds,
            "of its time is greedy's over 5 times the images",
        )  # fmt: skip
        compare(
            "beam 5 of NIC, as they end",
            lambda: search(nic, beam, features),
            lambda: search(nic, Greedy(T), many, 50 * K)[::K], options.rounds,
            "of its time is greedy's over 5 times the images",
        )  # fmt: skip


if __name__ == "__main__":
    main()
