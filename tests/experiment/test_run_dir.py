"""How far a run has come, by what lies in its folder."""

import json
import os

import pytest

from captioner import tokenizers
from captioner.errors import InputError
from captioner.experiment import runs
from captioner.experiment.phases import phase_configs
from captioner.experiment.run_dir import RunDir, ended_runs
from tests.helpers.runs import composed

PHASES = "phases=[{name:words},{optimizer:{lr:1},objective:{_target_:x.SelfCritical}}]"


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run")


def test_a_run_begins_goes_on_and_ends(run):
    config, other = composed("seed=1"), composed("seed=2")
    assert not run.has_begun()
    with run.claimed(new=True):
        run.write_config(config)
    run.write_config(other)  # the first one stays
    assert run.has_begun() and run.has_begun_with(config) and not run.has_begun_with(other)
    with pytest.raises(InputError, match=f"{run} holds a run already"):
        with run.claimed(new=True):
            pass
    with run.claimed(), pytest.raises(InputError, match=f"{run}: in use by process"):
        with run.claimed():  # by another run that goes on
            pass
    resumed = run.resumed_config()
    assert resumed.resume == resumed.run_dir == str(run) and resumed.seed == 1
    assert not run.has_ended()
    for seconds in (1.5, 2.0):  # it goes on
        run.add_time(seconds, parameters=7)
    assert json.loads(run.summary.read_text()) == {"parameters": 7, "seconds": 3.5}
    run.scores.write_text(json.dumps({"corpus": {"Bleu_4": 0.2, "CIDEr": 0.5}}))
    assert run.has_ended() and run.headline() == 0.5


def test_other_captions_are_another_run(run):
    dog, cat = (tokenizers.train_tokenizer([word] * 3) for word in ("dog", "cat"))
    run.folder.mkdir()
    run.write_beginnings(composed(), dog, ["a.jpg: empty"])
    assert run.skipped.read_text() == "a.jpg: empty\n"
    run.write_beginnings(composed(), dog, [])
    with pytest.raises(
        InputError, match=r"tokenizer\.json: the training captions, or texts, have changed"
    ):
        run.write_beginnings(composed(), cat, [])


def test_sweep_jobs_are_in_order(tmp_path):
    for name in ("0", "10", "2", "unfinished"):
        (tmp_path / name).mkdir()
        if name != "unfinished":
            (tmp_path / name / "scores.json").write_text("{}")
    assert [run.folder.name for run in ended_runs(tmp_path)] == ["0", "2", "10"]


def test_a_phase_starts_with_the_model_of_the_one_before(run):
    (words, first), (phase, second) = phase_configs(composed(PHASES), run)
    assert [words.folder.name, phase.folder.name] == ["1_words", "2_phase"]
    assert first.model.init_from is None and second.model.init_from == str(words.model)
    assert (first.optimizer.lr, second.optimizer.lr) == (3e-3, 1)
    assert second.optimizer.weight_decay == first.optimizer.weight_decay
    assert second.objective == {"_target_": "x.SelfCritical"}  # a whole group


@pytest.mark.parametrize(
    "phases, message",
    [
        ("[]", r"phases=\[\]: give one or more"),
        ("[3]", "not a part of a configuration"),
        ("[{name:a/b}]", "name='a/b'"),
        ("[{sead:1}]", "phases: phase: Key 'sead'"),
    ],
)
def test_a_phase_that_does_not_fit(run, phases, message):
    with pytest.raises(InputError, match=message):
        phase_configs(composed(f"phases={phases}"), run)


ALIASES = "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(30))
DAMAGED = {
    "config.yaml": [
        ("a0: &a0 [1]\n" + ALIASES, r"it has aliases"),
        ("", r"not readable \(.*\); has the run"),
        ("a: [", r"line 1, column 5"),
        ("#" * 2**21, r"2,097,152 bytes"),
        (None, "not a regular file"),
    ],
    "metrics.csv": [
        ("val/nll\n" + "1" * 200_000, r"field larger than field limit"),
        ("val/nll\n", r"no row of a validation"),
        (None, "not a regular file"),
    ],
    "run.json": [('{"seconds": Infinity}', "seconds is too large"), (None, "not a regular file")],
}


@pytest.mark.parametrize(
    "name, content, message", [(name, *row) for name, rows in DAMAGED.items() for row in rows]
)
def test_a_damaged_file_is_named_at_once(run, name, content, message):
    run.folder.mkdir()
    run.scores.write_text('{"corpus": {"CIDEr": 0.5}}')
    if content is None:
        os.mkfifo(run.folder / name)
    else:
        (run.folder / name).write_text(content)
    with pytest.raises(InputError, match=f"{run.folder / name}: .*{message}"):
        run.results()
    if name == "config.yaml":
        with pytest.raises(InputError, match=f"{run.folder / name}: "):
            run.resumed_config()
    if content is None:
        with pytest.raises(InputError, match=f"{run.folder / name}: .*{message}"), run.claimed():
            pass


def test_a_lock_that_is_no_file_and_numbers_with_the_name_of_another_part(run):
    run.folder.mkdir()
    os.mkfifo(run.folder / "lock")
    with pytest.raises(InputError, match="lock: not a regular file: remove it"), run.claimed():
        pass
    run.scores.write_text('{"corpus": {"CIDEr": 0.5}}')
    run.summary.write_text('{"config": 3}')
    run.config.write_text('a: 1\nb: "x | y\\n| z"')
    assert run.results() == {"CIDEr": 0.5, "config": {"a": 1, "b": "x | y\n| z"}}
    table = runs.markdown({"one": run.results(), "two": {"CIDEr": 1.0, "config": {"a": 2}}})
    assert r"| one | 1 | x \| y\n\| z |" in table and len(table.splitlines()) == 4
