"""The embedded data set on disk: pictures, and COCO captions with the scenes in them."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random

from captioner import files
from captioner.errors import InputError, os_reason, read_json
from captioner.scenes.drawing import SIDE, SPLITS, Scene, Thing, render, scene
from captioner.scenes.grammar import captions


def write_scenes(
    folder: str | Path,
    train: int = 2400,
    val: int = 300,
    test: int = 300,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write images/train_000000.png .. and captions_{train,val,test}.json (COCO captions).

    The bytes are a pure function of the arguments. A split's JSON is written last and marks a
    complete split: a second call writes the missing splits only. `progress(done, total)` is called
    after each picture. Raises InputError for a negative size, and for a folder that holds other
    files or cannot be written.
    """
    folder, sizes = Path(folder), {"train": train, "val": val, "test": test}
    if min(sizes.values()) < 0:
        raise InputError(f"the size of a split cannot be negative: {sizes}")
    info = {"description": "captioner scenes", "version": "1", "seed": seed, **sizes}
    paths = {split: folder / f"captions_{split}.json" for split in SPLITS}
    missing = [split for split, path in paths.items() if not path.exists()]
    for path in (path for split, path in paths.items() if split not in missing):
        content = read_json(path)
        old = content.get("info") if isinstance(content, dict) else None
        if old != info:
            raise InputError(f"{path}: has other options ({old}): delete it or take a new folder")
    ours = re.compile(r"images|captions_[a-z]+\.json\..+|(train|val|test)_\d{6}\.png(\.part)?")
    if len(missing) == len(SPLITS):
        for path in [*folder.glob("*"), *folder.glob("images/*")]:
            if not ours.fullmatch(path.name):
                raise InputError(f"{folder}: holds other files ({path}): take a new folder")
    total, done = sum(sizes[split] for split in missing), 0
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for split in missing:
            images, annotations = [], []
            for index in range(sizes[split]):
                number = (1 + SPLITS.index(split)) * 1_000_000 + index
                drawn, name = scene(seed, split, index), f"{split}_{index:06}.png"
                partial = folder / "images" / f"{name}.part"
                render(drawn).save(partial, "PNG", compress_level=3)  # 7% larger, twice as fast
                os.replace(partial, folder / "images" / name)
                image = {"id": number, "file_name": name, "width": SIDE, "height": SIDE}
                images.append({**image, "scene": asdict(drawn)})
                texts = captions(drawn, Random(f"captions {seed} {split} {index}"))
                for i, text in enumerate(texts):
                    annotations.append({"id": 10 * number + i, "image_id": number, "caption": text})
                done += 1
                if progress:
                    progress(done, total)
            coco = {"info": info, "licenses": [], "type": "captions", "images": images}
            files.write_atomic(paths[split], json.dumps({**coco, "annotations": annotations}))
    except OSError as error:
        raise InputError(f"{folder}: cannot write scenes: {os_reason(error)}") from error


def read_scenes(path: str | Path) -> dict[int, Scene]:
    """Return image id -> scene of a captions_*.json. Raises InputError if it holds no scenes."""
    content = read_json(Path(path))
    try:
        scenes = {image["id"]: image["scene"] for image in content["images"]}
        return {
            i: Scene(tuple(Thing(**t) for t in s["things"]), s["texture"], s["seed"])
            for i, s in scenes.items()
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: holds no scenes ({error}): see data_prep/scenes.py") from error
