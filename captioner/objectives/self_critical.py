"""Self-critical sequence training: captions rewarded as they are evaluated."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from captioner.data.records import Record
from captioner.decoders.base import Decoder, at_least_float32, token_log_probs
from captioner.errors import InputError
from captioner.metrics.rewards import Reward, Rewards
from captioner.metrics.tokenize import token_strings
from captioner.models.caption_model import CaptionModel
from captioner.objectives.base import Logs, Objective
from captioner.objectives.cross_entropy import CrossEntropy
from captioner.search import Captions, Greedy, Sample, Strategy
from captioner.types import Batch, Features, State


class SelfCritical(Objective):
    """REINFORCE on the reward of sampled captions (Rennie 2017): the sum over images of the mean
    over their samples of -(reward - baseline) log p(caption).

    samples: per image, drawn from the decoder's distribution at temperature 1, with no rule; their
    log-probabilities come from one `forward` under the same distribution. dropout: whether it acts
    in both (otherwise in neither). baseline: "greedy", the reward of the greedy caption;
    "leave_one_out", the mean of the image's other samples (Luo 2020; it takes 2 samples); "none".
    reward: weights of `cider` (CIDEr-D with the document frequencies of the training captions),
    `bleu` (BLEU-4), `rouge`; or a function (token strings, index of each one's image) -> (N,).
    end: whether END counts as a word of captions and references in these, so that a caption cut
    off or ended too early is worth less. cross_entropy: the weight of the cross-entropy of the
    image's reference captions: the mean of their sums over words.
    """

    rewarded = True

    def __init__(
        self,
        samples: int = 5,
        baseline: str = "leave_one_out",
        reward: Reward | None = None,
        end: bool = True,
        cross_entropy: float = 0.0,
        dropout: bool = False,
        max_length: int = 30,
    ):
        known = ("greedy", "leave_one_out", "none")
        if baseline not in known:
            raise InputError(f"objective.baseline={baseline}: give one of {', '.join(known)}")
        least = 2 if baseline == "leave_one_out" else 1
        if samples < least:
            raise InputError(f"objective.samples={samples}: {baseline} takes {least} or more")
        if cross_entropy < 0 or max_length < 1:
            values = f"objective.cross_entropy={cross_entropy} max_length={max_length}"
            raise InputError(f"{values}: too small")
        self.samples, self.baseline, self.dropout = samples, baseline, dropout
        self.reward, self.end = {"cider": 1.0} if reward is None else reward, end
        self.cross_entropy, self.max_length = cross_entropy, max_length
        self.rewards: Rewards | None = None
        self.metrics_tokenizer = "ptb"

    def prepare(self, train: Sequence[Record], metrics_tokenizer: str = "ptb") -> None:
        """Count the references and their document frequencies, in the tokens of the metrics."""
        self.metrics_tokenizer = metrics_tokenizer
        references = [token_strings(r.captions, tokenizer=metrics_tokenizer) for r in train]
        self.rewards = Rewards(references, self.reward, self.end, metrics_tokenizer)

    def save_frequencies(self, path: Path) -> None:
        """Write the document frequencies, which `eval.py corpus=` reads."""
        assert self.rewards is not None, "prepare() was not called"
        self.rewards.cider.frequencies.save(path)

    def __call__(  # type: ignore[override]
        self, model: CaptionModel, batch: Batch, step: int, state: State | None = None
    ) -> tuple[Tensor, Logs, None]:
        decoder, features = model.decoder, model.encode(batch.images)
        images, learning = len(batch.index_B), decoder.training
        decoder.train(learning and self.dropout)
        try:
            seed = int(torch.randint(2**31, ()))  # a function of the step's own seed
            sample = Sample(n=self.samples, seed=seed, max_length=self.max_length)
            samples = _generate(decoder, features, images, sample)
            reward_BK = self._reward(model, samples, batch)
            baseline_B1 = torch.zeros_like(reward_BK[:, :1])
            if self.baseline == "greedy":
                likeliest = _generate(decoder, features, images, Greedy(self.max_length))
                baseline_B1 = self._reward(model, likeliest, batch)
            log_prob_NT, logits_PV, _ = token_log_probs(decoder, features, *samples.framed())
        finally:
            decoder.train(learning)
        log_prob_BK = log_prob_NT.sum(1).view_as(reward_BK)
        with torch.no_grad():  # of a word
            entropy = torch.special.entr(at_least_float32(logits_PV).softmax(1)).sum(1).mean()
        baseline_BK = baseline_B1.expand_as(reward_BK)
        if self.baseline == "leave_one_out":
            baseline_BK = (reward_BK.sum(1, keepdim=True) - reward_BK) / (self.samples - 1)
        loss = -((reward_BK - baseline_BK) * log_prob_BK).mean(1).sum()
        logs = {
            "count": torch.tensor(images),
            "reward": reward_BK.mean(1).sum(),
            "baseline": baseline_BK.mean(1).sum(),
            "entropy": entropy * images,
            "length": samples.length_BK.cpu().double().mean(1).sum(),
            "unfinished": (~samples.ended_BK).cpu().double().mean(1).sum(),
        }
        if self.cross_entropy:
            more, words, _ = CrossEntropy()(model, batch._replace(images=features), step)
            captions = (batch.length_N > 0).sum() / images
            loss = loss + self.cross_entropy * more / captions
            logs["nll"] = words["nll"] / words["count"] * images
        return loss, {name: value.to(loss) for name, value in logs.items()}, None

    def _reward(self, model: CaptionModel, captions: Captions, batch: Batch) -> Tensor:
        """The reward of each caption, (B, K)."""
        assert self.rewards is not None, "prepare() was not called"
        ids = captions.token_BKT.flatten(0, 1).tolist()
        strings = [model.tokenizer.token_string(row, self.metrics_tokenizer) for row in ids]
        image_N = batch.index_B.repeat_interleave(captions.token_BKT.shape[1]).cpu().numpy()
        reward_N = self.rewards(strings, captions.ended_BK.flatten().tolist(), image_N)
        return torch.from_numpy(reward_N).to(captions.log_prob_BK).view(captions.log_prob_BK.shape)


def _generate(decoder: Decoder, features: Features, images: int, strategy: Strategy) -> Captions:
    with torch.no_grad():
        memory, state = decoder.start(features, images * strategy.rows)
        return strategy(decoder.step, memory, state)
