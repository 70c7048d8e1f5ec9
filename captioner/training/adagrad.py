"""Adagrad as Karpathy's min-char-rnn.py has it: with epsilon under the root."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer


class Adagrad(Optimizer):
    """m += g^2, w -= lr g / sqrt(m + eps)  (Duchi 2011); torch's is lr g / (sqrt(m) + eps)."""

    def __init__(self, params: Any, lr: float = 0.1, eps: float = 1e-8, weight_decay: float = 0.0):
        if lr < 0 or eps <= 0 or weight_decay != 0:
            raise ValueError(f"lr={lr}, eps={eps}, weight_decay={weight_decay}: has no decay")
        super().__init__(params, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["sum"] = torch.zeros_like(parameter)
                state["sum"].addcmul_(parameter.grad, parameter.grad)
                root = (state["sum"] + group["eps"]).sqrt_()
                parameter.addcdiv_(parameter.grad, root, value=-group["lr"])
        return loss
