"""Weights of an older model as the start of a new one: `model.init_from`."""

import json
from pathlib import Path

import torch

from captioner.errors import InputError, printable
from captioner.models.base import Model
from captioner.models.caption_model import CaptionModel
from captioner.models.language_model import LanguageModel


def warm_start(model: Model, old: Model, folder: str | Path) -> None:
    """Copy the weights of `old` into `model`, whose tokenizer extends that of `old`.

    A model starts from one of its own kind, and a captioner from a language model too, which fills
    its decoder; what belongs to the image stays fresh. Words that are new keep their fresh rows.
    folder: of `old`, for messages. Raises InputError, naming tensors, if they do not fit.
    """
    if isinstance(old, CaptionModel) and not isinstance(model, CaptionModel):
        raise InputError(
            f"model.init_from={printable(folder)}: a captioner; a language model starts from "
            "another language model"
        )
    tensors, old_tensors = model.state_dict(), old.state_dict()
    V, old_V = len(model.tokenizer), len(old.tokenizer)
    if isinstance(model, CaptionModel) and isinstance(old, LanguageModel):
        old_tensors = {k: t for k, t in old_tensors.items() if ".standard." not in k}
        single = old_tensors.keys() - tensors.keys()
        options = {"decoder": old.config["decoder"]}
    else:
        single = old_tensors.keys() ^ tensors.keys()
        options = {key: old.config.get(key) for key in ("encoder", "decoder")}
    wrong = [f"{key} is in one of them only" for key in single]
    for key in old_tensors.keys() & tensors.keys():
        fresh, copied = tensors[key], old_tensors[key]
        rest = fresh.shape[1:]
        if fresh.shape == copied.shape:
            tensors[key] = copied
        elif (fresh.shape, copied.shape) == ((V, *rest), (old_V, *rest)):
            tensors[key] = torch.cat([copied.to(fresh), fresh[old_V:]])
        else:
            wrong.append(f"{key} is {tuple(fresh.shape)}, in the old model {tuple(copied.shape)}")
    if wrong:
        raise InputError(
            f"model.init_from={printable(folder)}: another model: {'; '.join(sorted(wrong)[:3])}; "
            f"give it the same {' and '.join(options)}: {json.dumps(options)}"
        )
    model.load_state_dict(tensors)
