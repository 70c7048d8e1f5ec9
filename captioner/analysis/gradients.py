"""How gradients flow back through a captioner or a language model, and how open its gates are.

    dL/dh_{t-1} = (dh_t/dh_{t-1})^T dL/dh_t

so over d steps the gradient is multiplied by d Jacobians. Where their largest singular value stays
below 1 it must vanish; above 1 it may explode (Bengio 1994, Pascanu 2013, the lecture). The LSTM's
dc_t/dc_{t-1} is its forget gate: the uninterrupted path.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from captioner import files
from captioner.data import batches, records, text
from captioner.decoders import cells
from captioner.decoders.base import Decoder, real_positions
from captioner.encoders import CNN
from captioner.errors import InputError, printable
from captioner.models import loading
from captioner.models.language_model import LanguageModel
from captioner.types import Features, State

STEPS = 100  # of a chunk of text


def flow(
    decoder: Decoder, features: Features | None, token_NT: Tensor, length_N: Tensor
) -> dict[str, list[float]]:
    """How the gradient of each row's last loss falls off with the distance to it.

    token_NT: as for `forward`, with the targets: column t + 1 is the target at column t. Returns,
    for each entry of the state, the mean over rows of |dL/ds_t|, by distance: number d belongs to
    the state d steps before the one that predicts the last word.
    """
    memory, state = decoder.start(features, len(token_NT))
    last_N, rows = length_N - 1, torch.arange(len(token_NT), device=token_NT.device)
    states, loss = [], torch.zeros((), device=token_NT.device)
    for t in range(int(length_N.max())):
        logits_NV, state = decoder.step(token_NT[:, t], memory, state)
        states.append(_vectors(state))
        nll_N = -logits_NV.log_softmax(1)[rows, token_NT[:, t + 1]]
        loss = loss + nll_N[last_N == t].sum()
    mean_norms: dict[str, list[float]] = {}
    for name in states[0]:
        entries = [state[name] for state in states]
        gradients = torch.autograd.grad(
            loss, entries, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        norm_TN = torch.stack([gradient.norm(dim=1) for gradient in gradients])
        distance_TN = last_N - torch.arange(len(norm_TN), device=last_N.device)[:, None]
        if norm_TN.any():
            distances = range(len(states))
            mean_norms[name] = [norm_TN[distance_TN == d].mean().item() for d in distances]
    return mean_norms


def jacobian_norms(decoder: Decoder, features: Features | None, token_T: Tensor) -> list[float]:
    """The largest singular value of ds_t/ds_{t-1}, with all entries of the state together, at each
    step t > 1 of one row. features: of one image."""
    memory, state = decoder.start(features, 1)
    norms = []
    for t, token in enumerate(token_T):
        vectors = _vectors(state)
        sizes = [entry.shape[1] for entry in vectors.values()]

        def step(s: Tensor, token=token, state=state, names=tuple(vectors), sizes=sizes) -> Tensor:
            before = state | dict(zip(names, s[None].split(sizes, dim=1)))
            after = _vectors(decoder.step(token[None], memory, before)[1])
            return torch.cat([after[name] for name in names], dim=1)[0]

        if t and vectors:
            s = torch.cat(list(vectors.values()), dim=1)[0].detach()
            J = torch.autograd.functional.jacobian(step, s, vectorize=True)
            norms.append(torch.linalg.matrix_norm(J, 2).item())  # type: ignore[arg-type]
        state = decoder.step(token[None], memory, state)[1]
    return norms


def weight_norms(decoder: Decoder) -> dict[str, float]:
    """The largest singular value of each block of each cell's W_hh, by the cell's name and gate."""
    norms = {}
    for name, cell in decoder.named_modules():
        if isinstance(cell, cells.Cell):
            blocks = cell.W_hh.detach().split(cell.hidden_size)
            for gate, W in zip(cell.blocks[-len(blocks) :], blocks):
                norms[f"{name}.{gate}"] = torch.linalg.matrix_norm(W, 2).item()
    return norms


def saturation(
    gates_NTgH: Tensor, real_NT: Tensor, names: str
) -> dict[str, dict[str, list[float]]]:
    """The share of words at which each gate is shut (< 0.1) and open (> 0.9), by gate and unit.

    Left- and right-saturated gates of Karpathy, Johnson and Fei-Fei 2016, figure 2.
    """
    gates_PgH = gates_NTgH[real_NT]
    return {
        name: {
            "shut": (gate_PH < 0.1).double().mean(0).tolist(),
            "open": (gate_PH > 0.9).double().mean(0).tolist(),
        }
        for name, gate_PH in zip(names, gates_PgH.unbind(1))
    }


def inspect(
    decoder: Decoder, features: Features | None, token_NT: Tensor, length_N: Tensor
) -> dict[str, Any]:
    """All measurements, ready for JSON: {"gradient", "W_hh", "jacobian", "gates"}."""
    decoder.eval()
    gradient = flow(decoder, features, token_NT, length_N)
    if not gradient:
        raise InputError(f"a {type(decoder).__name__} has no recurrent state to follow")
    first = features and Features(*(x if x is None else x[:1] for x in features))  # type: ignore
    layers = enumerate(getattr(decoder, "cells", ()))
    gated = {f"gates{layer}": cell.gates for layer, cell in layers if cell.gates}
    with torch.no_grad():
        memory, state = decoder.start(features, len(token_NT))
        _, _, kept = decoder(token_NT[:, :-1], length_N, memory, state, keep=tuple(gated))
    real_NT = real_positions(length_N, token_NT.shape[1] - 1)
    return {
        "gradient": gradient,
        "W_hh": weight_norms(decoder),
        "jacobian": jacobian_norms(decoder, first, token_NT[0, : length_N[0]]),
        "gates": {key: saturation(kept[key], real_NT, names) for key, names in gated.items()},
    }


def draw(measurements: dict[str, Any], path: Path) -> None:
    """Draw the figure: gradients by distance, Jacobians by time step, gates by unit.

    Raises InputError if it cannot be written.
    """
    from matplotlib.figure import Figure  # slow to import

    gates = measurements["gates"]
    columns = 3 if gates else 2
    figure = Figure(figsize=(4 * columns, 3.6), layout="constrained")
    left, middle, *right = figure.subplots(1, columns)
    for name, norms in measurements["gradient"].items():
        left.semilogy(range(len(norms)), norms, marker=".", label=f"|dL/d{name}|")
    left.set(xlabel="steps before the loss", ylabel="norm of the gradient")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.legend()
    middle.plot(range(2, 2 + len(measurements["jacobian"])), measurements["jacobian"], marker=".")
    middle.axhline(1, color="grey", linewidth=0.8)
    middle.set(xlabel="time step", ylabel="largest singular value of the Jacobian", ylim=0)
    for key, by_gate in gates.items():
        for gate, shares in by_gate.items():
            name = f"{key[5:]}{gate}"
            right[0].scatter(shares["shut"], shares["open"], s=6, label=name, alpha=0.6)
    if gates:
        right[0].plot([0, 1], [1, 0], color="grey", linewidth=0.8)
        right[0].set(xlabel="share of words: shut (< 0.1)", ylabel="open (> 0.9)")
        right[0].legend()
    with files.replacing(path) as file:
        figure.savefig(file, dpi=120, format="png")


def read_inputs(
    folder: str | Path, data: Path, split: str, limit: int
) -> tuple[Decoder, Features | None, Tensor, Tensor]:
    """The arguments of `inspect`: a model's decoder, and what it reads.

    A captioner reads the first caption of each of the first pictures; a language model reads chunks
    of text, evenly spaced, each from a fresh state. limit: how many of them, at least 1. Raises
    InputError naming what cannot be read.
    """
    if limit < 1:
        raise InputError(f"--limit {limit}: give 1 or more")
    model = loading.read_model(folder)
    if isinstance(model, LanguageModel):
        with tempfile.TemporaryDirectory() as cache:
            corpus = text.Corpus(text.documents(str(data)), model.tokenizer, Path(cache))
            token_NT, length_N, _ = text.Streams(corpus, limit, STEPS, None)[0]
        return model.decoder, None, token_NT[length_N > 0], length_N[length_N > 0]
    captioned = [record for record in records.read_records(data, split) if record.captions][:limit]
    if not captioned:
        raise InputError(f"{printable(data)}: no captions in the split {split}")
    assert isinstance(model.encoder, CNN)
    source = batches.PixelSource([record.image for record in captioned], model.encoder.preprocess)
    first = [[model.tokenizer.targets(record.captions[0])] for record in captioned]
    batch = batches.make_batch(source, range(len(captioned)), None, first, captions=1)
    with torch.no_grad():
        return model.decoder, model.encode(batch.images), batch.token_NT, batch.length_N


def _vectors(state: State) -> State:
    """The recurrent entries of a state: those with one vector of floats per row."""
    return {
        name: entry
        for name, entry in state.items()
        if entry.ndim == 2 and entry.is_floating_point() and name != "image"
    }
