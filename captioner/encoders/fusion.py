"""Batch-norm that does not learn is an affine map: it goes into the convolution before it."""

from collections import Counter
from collections.abc import Callable
from copy import deepcopy

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(
    network: nn.Module, run: Callable[[nn.Module, Tensor], Tensor], some: Tensor
) -> nn.Module:
    """A copy of the network, for inference only, with batch-norms in their convolutions.

    run(network, some): how it is called, on inputs as real ones are. Where the copy's output is not
    the same (to 1e-4 of the greatest), as where the convolution before a batch-norm is not a plain
    one, the network itself is returned.
    """
    network.eval()
    expected = run(network, some)
    copy = deepcopy(network).requires_grad_(False)
    after: list[tuple[Tensor, str]] = []  # kept, so that no other tensor gets their identity
    pairs: list[tuple[str, str]] = []
    norms: list[str] = []

    def note_convolution(name: str) -> Callable:
        return lambda module, inputs, output: after.append((output, name))

    def note_norm(name: str) -> Callable:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            pairs.extend((conv, name) for output, conv in after if output is inputs[0])
            norms.append(name)

        return hook

    hooks = []
    for name, module in copy.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_convolution(name)))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(note_norm(name)))
    run(copy, some)
    for hook in hooks:
        hook.remove()
    runs = Counter(norms) + Counter(name for _, name in after)
    for conv, norm in pairs:
        old = copy.get_submodule(norm)
        if runs[conv] > 1 or runs[norm] > 1 or old.running_mean is None:
            continue
        one: nn.Conv2d = fuse_conv_bn_eval(copy.get_submodule(conv), old)  # type: ignore
        copy.set_submodule(conv, one)
        # timm's batch-norm holds the activation behind it.
        copy.set_submodule(norm, nn.Sequential(*old.children()))
    found = run(copy, some)
    error, scale = (found - expected).abs().max(), expected.abs().max()
    return copy if bool(error <= 1e-4 * scale) else network
