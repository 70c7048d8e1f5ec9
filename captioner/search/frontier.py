"""The rows that are still searched: what the beam engine and row-by-row sampling share."""

import torch
from torch import Tensor

from captioner.decoders.base import at_least_float32
from captioner.search.base import Inputs, select_rows
from captioner.search.rules import check
from captioner.types import BOS


class Frontier:
    """The images still in the batch, `rows` rows of each, and their decoder's memory and state.

    prefix_nt: the tokens of each row so far, bos first. image_b: which of the B images are left.
    image_number_n: the number of each row's image. log_prob_nV: of the next token under the
    model, until the next `advance`, which writes over it. error_B: see `Captions`.
    """

    def __init__(self, inputs: Inputs):
        self.step, self.memory, self.state, self.rules, image_numbers, *_ = inputs
        N, images, device = len(inputs.row_N), len(image_numbers), inputs.row_N.device
        self.rows = N // images
        self.image_b = torch.arange(images, device=device)
        self.image_number_n = torch.tensor(image_numbers, device=device).repeat_interleave(
            self.rows
        )
        self.prefix_nt = torch.full((N, 1), BOS, device=device)
        self.log_prob_nV = self.buffer_NV = torch.empty(0, 0, device=device)
        self.error_B: list[str | None] = [None] * images

    def advance(self) -> Tensor:
        """Let the decoder read each row's last token -> log_prob_nV of the next one, under the
        rules: -inf if forbidden. Raises InputError for NaN."""
        logits_nV, self.state = self.step(self.prefix_nt[:, -1], self.memory, self.state)
        logits_nV = at_least_float32(logits_nV.detach())
        n, V = logits_nV.shape
        if len(self.buffer_NV) < n:  # reused at the next steps: fresh memory takes time
            self.buffer_NV = logits_nV.new_empty(n, V)
        self.log_prob_nV = torch.log_softmax(logits_nV, 1, out=self.buffer_NV[:n])
        # A logit that is NaN makes its whole row NaN.
        diverged = self.log_prob_nV[:, 0].isnan().any()
        check(not bool(diverged), "the decoder returns NaN: its training has diverged")
        allowed_nV = self.log_prob_nV
        for rule in self.rules:
            allowed_nV = rule(self.prefix_nt, allowed_nV, self.image_number_n)
        return allowed_nV

    def repeat_rows(self, rows: int) -> None:
        """Copy the only row of each image, so that it has `rows`."""
        self.rows = rows
        self.image_number_n, self.prefix_nt, self.log_prob_nV = (
            tensor.repeat_interleave(rows, 0)
            for tensor in (self.image_number_n, self.prefix_nt, self.log_prob_nV)
        )
        self.state = {n: entry.repeat_interleave(rows, 0) for n, entry in self.state.items()}

    def go_on(self, row_m: Tensor, prefix_mt: Tensor) -> None:
        """Go on with these of the rows, `rows` of each image that stays in the batch."""
        stay_c = row_m[:: self.rows] // self.rows
        if len(stay_c) < len(self.image_b):
            self.memory = select_rows(self.memory, stay_c)
            self.image_b = self.image_b[stay_c]
            self.image_number_n = self.image_number_n[row_m]
        self.state, self.prefix_nt = select_rows(self.state, row_m), prefix_mt

    def blame(self, row_m: Tensor) -> None:
        """Set the error of the image of these rows: which rule left none of them a word."""
        prefix_mt, number_m = self.prefix_nt[row_m], self.image_number_n[row_m]
        words = prefix_mt.shape[1] - 1
        place = f"after {words} word{'s' * (words != 1)}"
        names = [getattr(rule, "__name__", type(rule).__name__) for rule in self.rules]
        error = f"the words it must include are not all in it {place}"
        error += f", under {', '.join(names)}" if names else ""
        allowed_mV = self.log_prob_nV[row_m]
        for rule, name in zip(self.rules, names):
            allowed_mV = rule(prefix_mt, allowed_mV, number_m)
            if bool((allowed_mV == -torch.inf).all()):
                error = f"the rule {name} leaves no word possible {place}"
                break
        self.error_B[int(self.image_b[row_m[0] // self.rows])] = error
