"""Batch-norm fusion: a batch-norm that does not learn becomes part of its convolution."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fuse_batch_norms(
    network: nn.Module, run: Callable[[nn.Module, Tensor], Tensor], inputs: Tensor
) -> nn.Module:
    """Return a copy of the network, for inference only, with batch-norms fused into convolutions.

    run(network, inputs) calls it, on inputs that resemble real ones. If the copy's output differs
    (by more than 1e-4 of the largest), as it does if the convolution before a batch-norm is not a
    plain one, the network itself is returned. Call it without gradients.
    """
    network.eval()
    expected = run(network, inputs)
    copy = deepcopy(network).requires_grad_(False)
    outputs: list[tuple[Tensor, str]] = []  # kept, so that no other tensor gets their identity
    pairs: list[tuple[str, str]] = []
    runs: Counter[str] = Counter()

    def note(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            runs[name] += 1
            if isinstance(module, nn.Conv2d):
                outputs.append((output, name))
            else:
                pairs.extend((conv, name) for tensor, conv in outputs if tensor is inputs[0])

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in copy.named_modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    run(copy, inputs)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        batch_norm = copy.get_submodule(norm)
        if runs[conv] > 1 or runs[norm] > 1 or batch_norm.running_mean is None:
            continue
        fused: nn.Conv2d = fuse_conv_bn_eval(copy.get_submodule(conv), batch_norm)  # type: ignore
        copy.set_submodule(conv, fused)
        # timm's batch-norm contains the activation that follows it.
        copy.set_submodule(norm, nn.Sequential(*batch_norm.children()))
    error = (run(copy, inputs) - expected).abs().max()
    return copy if bool(error <= 1e-4 * expected.abs().max()) else network
