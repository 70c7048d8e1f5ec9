"""What only a GPU can show. Skipped where there is none."""

import json

import pytest
import torch

from captioner.data import cache, records
from captioner.decoders.cells import CELLS
from captioner.encoders import Timm
from captioner.search import Beam
from captioner.search.include import MustInclude
from tests.helpers.brute import STRATEGIES, every_strategy, pictures, random_decoder, run
from tests.helpers.decoders import DECODERS
from tests.helpers.laws import (
    LENGTH_N,
    B,
    N,
    V,
    features,
    half_precision_gives_nearly_the_same_gradients,
    randomised,
    tokens,
)
from tests.helpers.rules import RULES
from tests.helpers.runs import (
    ROOT,
    TORCHRUN,
    assert_equal_runs,
    in_process,
    in_processes,
    logged,
)

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def options(scenes_dir, tmp_path_factory):
    small = ["encoder=blind", "decoder.embed_size=64", "decoder.hidden_size=64", "search=greedy"]
    small += ["tokenizer.min_count=1", "data.batch_size=4", "trainer.log_every_n_steps=1"]
    return [f"data.root={scenes_dir}", f"data.cache={tmp_path_factory.mktemp('cache')}", *small]


def test_lower_precisions_learn_as_float32_does(options, tmp_path):
    """Mean loss over 200 steps, and over the last 50, within 2 %."""
    seen = {}
    for precision in ("32-true", "16-mixed", "bf16-mixed"):
        extra = ["trainer.max_epochs=40", f"trainer.precision={precision}", "patience=99"]
        extra += ["trainer.check_val_every_n_epoch=40", "optimizer.lr=0.01", "decoder.dropout=0"]
        assert in_process(*options, *extra, f"run_dir={tmp_path / precision}") == 0
        seen[precision] = torch.tensor(logged(tmp_path / precision, "train/loss"))
        assert len(seen[precision]) == 200
    for part in (slice(None), slice(-50, None)):
        means = {name: float(values[part].mean()) for name, values in seen.items()}
        for name in ("16-mixed", "bf16-mixed"):
            assert abs(means[name] / means["32-true"] - 1) < 0.02
    assert seen["32-true"][-50:].mean() < 0.8 * seen["32-true"][:5].mean()  # it learns


OBJECTIVES = {
    "words": ["ema=0.9"],
    "rewards": ["objective=self_critical", "objective.samples=2", "+objective.max_length=8"],
    "own words": ["objective=scheduled_sampling"],
}


def ends_the_same(folder, options, precision, mishap):
    """A run that is stopped and goes on leaves what a whole one does."""
    options = [*options, f"trainer.precision={precision}", "+trainer.deterministic=true"]
    assert in_process(*options, f"run_dir={folder / 'whole'}") == 0
    assert in_process(*options, f"run_dir={folder / 'cut'}", mishap=mishap) > 128
    assert in_process(f"resume={folder / 'cut'}") == 0
    assert_equal_runs(folder / "whole", folder / "cut")


@pytest.mark.parametrize(
    "objective, mishap",
    [
        ("words", "SIGTERM:0:0:1"),
        ("words", "SIGINT:0:1:2"),
        ("words", "val-SIGTERM:0:1:0"),
        ("rewards", "SIGTERM:0:1:2"),
        ("own words", "SIGTERM:0:1:2"),
    ],
)
@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_run_that_goes_on_ends_the_same(options, tmp_path, objective, mishap, precision):
    options = [*options, *OBJECTIVES[objective], "trainer.max_epochs=3"]
    ends_the_same(tmp_path, options, precision, mishap)


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_a_language_model_goes_on_with_its_streams(tmp_path, precision):
    options = [
        "experiment=charlm", f"data.path={ROOT / 'LICENSE'}", f"data.cache={tmp_path}",
        "decoder.layers=2", "decoder.embed_size=16", "decoder.hidden_size=16", "data.batch_size=4",
        "data.bptt=50", "trainer.max_epochs=2", "trainer.log_every_n_steps=1",
        "search.max_length=20",
    ]  # fmt: skip
    ends_the_same(tmp_path, options, precision, "SIGTERM:0:0:9")


def test_one_process_of_a_group_is_one_process(options, tmp_path):
    """NCCL with a single member."""
    extra = [*options, "trainer.max_epochs=2", "+trainer.deterministic=true"]
    assert in_processes(tmp_path, *extra, f"run_dir={tmp_path / 'alone'}")[0] == 0
    extra += ["trainer.strategy=ddp", f"run_dir={tmp_path / 'group'}"]
    code, stderr = in_processes(tmp_path, *extra, start=[*TORCHRUN, "1"])
    assert code == 0, stderr
    alone, group = (logged(tmp_path / name, "train/loss") for name in ("alone", "group"))
    assert alone == group


def test_features_of_the_gpu_are_those_of_the_cpu(scenes_dir, tmp_path):
    paths = [record.image for record in records.read_records(scenes_dir, "train")]
    encoder, pooled = Timm("resnet10t", image_size=64), []
    for device in ("cpu", "cuda"):
        features = cache.FeatureCache(tmp_path / device, encoder.to(device))
        pooled.append(features[features.compute(paths)[:, 0]].pooled_BD)
    torch.testing.assert_close(*pooled, atol=5e-3, rtol=5e-3)


def test_evaluation_on_the_gpu(options, scenes_dir, tmp_path):
    extra = ["trainer.max_epochs=2", f"run_dir={tmp_path / 'run'}"]
    assert in_process(*options, *extra) == 0
    command = [f"model={tmp_path / 'run/model'}", f"data.root={scenes_dir}"]
    command += [f"data.cache={tmp_path / 'cache'}", "search=greedy", f"run_dir={tmp_path / 'eval'}"]
    code, stderr = in_processes(tmp_path, *command, script=ROOT / "eval.py")
    assert code == 0, stderr
    one, two = (tmp_path / name / "predictions.json" for name in ("run", "eval"))
    assert json.loads(one.read_text()) == json.loads(two.read_text())


NAMES = [f"{cell}-par-1" for cell in CELLS] + ["mrnn", "MindsEye-GRU", "transformer"]
NAMES += ["SoftAttention-LSTM-additive", "AdaptiveAttention-LSTM-dot", "UpDown-GRU-additive"]


@pytest.mark.parametrize("name", NAMES)
def test_every_decoder_computes_there_what_it_computes_here(name):
    """Logits, gradients and captions, in float64; and nearly the same gradients in float16."""
    decoder, token_NT = randomised(DECODERS[name](V)), tokens()

    def run(device):
        decoder.to(device).zero_grad()
        inputs = features().to(device)
        memory, state = decoder.start(inputs, N)
        logits_PV, _, _ = decoder(token_NT.to(device), LENGTH_N.to(device), memory, state)
        logits_PV[:, 2:].square().sum().backward()
        gradients = [None if p.grad is None else p.grad.cpu().clone() for p in decoder.parameters()]
        with torch.no_grad():
            captions = Beam(3, max_length=6)(decoder.step, *decoder.start(inputs, B * 3))
        return logits_PV.detach().cpu(), gradients, captions.token_BKT.cpu()

    torch.manual_seed(0)
    on_cpu = run("cpu")
    torch.manual_seed(0)
    torch.testing.assert_close(run("cuda"), on_cpu, atol=1e-9, rtol=0)
    half_precision_gives_nearly_the_same_gradients(lambda _: decoder, "cuda", torch.float16)


@every_strategy
def test_every_strategy_says_there_what_it_says_here(name):
    strategy, decoder, inputs = STRATEGIES[name], random_decoder(0, V), pictures(5)
    searches = [{"rules": [rule]} for rule, _ in RULES.values()] + [{}]
    if name == "sum":
        searches += [{"must_include": MustInclude(4, in_image={1: [(5, 4)]})}]
    for options in searches:
        on_cpu = run(strategy, decoder.cpu(), inputs, **options)[1]
        on_gpu = run(strategy, decoder.cuda(), inputs.to("cuda"), **options)[1]
        assert torch.equal(on_gpu.token_BKT.cpu(), on_cpu.token_BKT)
        assert on_gpu.error_B == on_cpu.error_B
