"""The training step: what it changes, how it can be computed, and how it handles bad batches."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import traceback
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper  # torch-private: as in training/encode.py
from torch.utils._python_dispatch import TorchDispatchMode  # torch-private: sees every operator

from model.encoder import OTHER_MODALITY, build_model
from sampler.gradient import EMBEDDINGS
from settings import Config, load_config
from settings.schedule import learning_rate
from tests.training.small_run import alone, new_learner, random_batch, small_config
from training.distributed import mean_over_ranks
from training.nonfinite import TrainingError
from training.optim import build_optimizer, update
from training.step import Learner

ROOT = Path(__file__).resolve().parents[2]


def filled(config, **kwargs):
    learner = new_learner(config, **kwargs)
    learner.fill((random_batch(config, -n) for n in range(1, 7)), epoch=0)
    return learner


def flat(tree):
    """Returns every tensor of a nested state by its path."""
    if isinstance(tree, torch.Tensor):
        return {"": tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    return {f"/{key}{rest}": value for key, item in items for rest, value in flat(item).items()}


def assert_equal_states(one, other):
    one, other = flat(one), flat(other)
    assert one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert not different


@pytest.mark.parametrize(
    "override",
    [
        *(f"sampler.embedding={name}" for name in EMBEDDINGS),
        *("loss.false_negatives=one_way", "loss.false_negatives=two_way", "loss.debias=0.01", "loss.hardness=0.5"),
        *("loss.false_negatives=agreement", "loss.outrank_power=1"),
    ],
)
def test_loss_falls_on_a_repeated_batch(override):
    config = small_config(override, "loss.temperature=0.2")
    learner = filled(config, total_steps=200)
    batch = random_batch(config, 0)
    losses = [float(learner.step(batch, step)["loss"]) for step in range(25)]
    assert losses[-1] < 0.7 * losses[0]


def test_key_encoders_follow_by_momentum_and_get_no_gradient(config):
    learner = filled(config)
    before = copy.deepcopy(learner.model.key.state_dict())
    learner.step(random_batch(config, 0), 0)
    query = learner.model.query.state_dict()
    for name, parameter in learner.model.key.named_parameters():
        assert parameter.grad is None
        torch.testing.assert_close(parameter, 0.9 * before[name] + 0.1 * query[name], msg=name)


def test_dictionary_never_holds_a_clip_of_the_batch_as_its_own_negative(config):
    learner = filled(config)
    for step in range(6):
        batch = random_batch(config, step)
        held_before = learner.active["audio"].ids.clone()
        learner.step(batch, step)
        entered = learner.active["audio"].ids[~torch.isin(learner.active["audio"].ids, held_before)]
        assert not torch.isin(entered, batch.ids).any()


def test_with_the_whole_pool_the_step_is_that_of_a_queue_of_as_many_keys():
    # The two begin with other keys, so weights must not change until these have left.
    settings = ("sampler.name=fifo", "loss.false_negatives=two_way", "pool.size=32", "optim.name=sgd", "optim.lr=1e-12")
    queue = filled(small_config(*settings, "dictionary.size=32"))
    whole = filled(small_config(*settings, "dictionary.whole_pool=true"))
    for step in range(8):
        batch = random_batch(queue.config, step)
        losses = [learner.step(batch, step)["loss"] for learner in (queue, whole)]
        for modality in ("video", "audio"):
            held = [set(learner.active[modality].ids.tolist()) for learner in (queue, whole)]
    # After the step the pool holds this batch too; the queue takes it before the next loss.
    assert held[1] - held[0] == set(batch.ids.tolist())
    torch.testing.assert_close(*losses)
    numbers = [sum(b.numel() for b in learner.active["video"].buffers()) for learner in (queue, whole)]
    assert numbers[1] < 0.4 * numbers[0]


@pytest.mark.parametrize("more", [[], ["sampler.name=fifo"], ["pool.remove_selected=true", "train.accumulate=2"]])
def test_the_dictionary_holds_both_keys_of_each_clip(more):
    learner = filled(small_config("loss.false_negatives=two_way", "model.momentum=1.0", *more))
    known = {}
    for modality, active in learner.active.items():
        known |= {(modality, int(clip)): active.pool.keys[row].clone() for row, clip in enumerate(active.pool.ids)}
    for step in range(6):
        batch = random_batch(learner.config, step)
        keys = learner._keys(batch, step=step)
        known |= {(m, int(clip)): keys[m][row] for m in keys for row, clip in enumerate(batch.ids)}
        learner.step(batch, step)
    for modality, active in learner.active.items():
        for row, clip in enumerate(active.ids.tolist()):
            torch.testing.assert_close(active.keys[row], known[modality, clip])
            torch.testing.assert_close(active.dictionary.partners[row], known[OTHER_MODALITY[modality], clip])


@pytest.mark.parametrize("whole_pool", [False, True])
def test_the_weights_of_negatives_are_those_of_the_complete_batch(monkeypatch, whole_pool):
    settings = ("loss.outrank_power=1", f"dictionary.whole_pool={whole_pool}".lower(), "train.accumulate=2")
    learner, seen = filled(small_config(*settings)), []
    original = Learner._negatives
    monkeypatch.setattr(Learner, "_negatives", lambda *given: seen.append(original(*given)) or seen[-1])
    learner.step(random_batch(learner.config, 0), 0)
    assert len(seen) == 4
    for first, second in (seen[::2], seen[1::2]):
        assert torch.equal(first.weights, second.weights)
        held = ~first.excluded.all(dim=0)
        assert float(first.weights[held].mean()) == pytest.approx(1)
        assert float(first.weights[held].std()) > 0.1


def test_equal_inputs_give_equal_runs(config):
    one, other = filled(config), filled(config)
    for step in range(3):
        one.step(random_batch(config, step), step)
        other.step(random_batch(config, step), step)
    assert_equal_states(one.state_dict(), other.state_dict())


def test_state_dict_restores_a_run_bit_for_bit(config):
    straight, stopped = filled(config), filled(config)
    for step in range(3):
        straight.step(random_batch(config, step), step)
        stopped.step(random_batch(config, step), step)
    resumed = new_learner(small_config("seed=0"))
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    for step in range(3, 6):
        straight.step(random_batch(config, step), step)
        resumed.step(random_batch(config, step), step)
    assert_equal_states(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_batch_with_nan_leaves_weights_statistics_and_optimiser_untouched(optimizer):
    config = small_config(f"optim.name={optimizer}", "model.momentum=1.0")
    learner = filled(config)
    learner.step(random_batch(config, 0), 0)
    before = {key: value.clone() for key, value in flat(learner.state_dict()).items()}
    bad = random_batch(config, 1)
    bad.video[0, 0, 0, 0, 0] = float("nan")
    metrics = learner.step(bad, 1)
    assert int(metrics["skipped_steps"]) == 1
    after = flat(learner.state_dict())
    for key in before:
        # Only the pools and dictionaries, which took new keys, and the counters may change.
        if not key.startswith(("/active", "/guard")) and "num_batches_tracked" not in key:
            assert torch.equal(before[key], after[key]), key
    assert all(torch.isfinite(active.keys).all() for active in learner.active.values())
    assert math.isfinite(float(learner.step(random_batch(config, 2), 2)["loss"]))
    assert int(learner.guard.in_a_row) == 0


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_skipped_first_step_leaves_no_trace(optimizer):
    config = load_config(Config, overrides=[f"optim.name={optimizer}", "optim.lr=0.1"]).optim
    updated = []
    for gradients in ([1.0], [math.nan, 1.0]):
        parameter = nn.Parameter(torch.ones(1000, 2))
        optimiser = build_optimizer([parameter], config)
        for gradient in gradients:
            # Allocated and freed, so that memory that is reused uninitialised does not hold zeros by chance.
            torch.full_like(parameter, 7.0)
            parameter.grad = torch.full_like(parameter, gradient)
            update(optimiser, rate=0.1, clip_norm=0)
        updated.append(parameter.detach())
    assert torch.equal(*updated)


def test_a_run_of_bad_batches_stops_with_their_ids(tmp_path):
    config = small_config("train.max_nonfinite_steps=2")
    learner = filled(config)
    for step in range(2):
        learner.guard.check(tmp_path, rank=0)
        bad = random_batch(config, step)
        bad.audio.fill_(float("inf"))
        learner.step(bad, step)
    with pytest.raises(TrainingError, match="2 steps in a row"):
        learner.guard.check(tmp_path, rank=0)
    assert f'"ids": {random_batch(config, 1).ids.tolist()}' in (tmp_path / "not_finite-rank0.json").read_text()
    with pytest.raises(TrainingError, match=r"2 steps in a row .* could not be written to .*\(No such file"):
        learner.guard.check(tmp_path / "as on a full disk", rank=0)


def test_learning_rate_warms_up_and_falls_to_zero():
    rates = [learning_rate(step, peak=2.0, warmup=4, total=10) for step in range(11)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[4:]))
    assert rates[10] == pytest.approx(0)


def test_gradient_clipping_bounds_the_update():
    overrides = ["optim.name=sgd", "optim.clip_grad_norm=1e-6", "optim.lr=1", "optim.warmup_steps=0"]
    config = small_config(*overrides, "optim.weight_decay=0")
    learner = filled(config)
    before = [p.detach().clone() for p in learner.model.query.parameters()]
    learner.step(random_batch(config, 0), 0)
    after = [p.detach() for p in learner.model.query.parameters()]
    moved = torch.stack([(a - b).norm() for a, b in zip(after, before, strict=True)]).norm()
    assert 0 < float(moved) <= 1.1e-6


def without_batchnorm(module):
    """Replaces BatchNorm with GroupNorm, so that a clip's output does not depend on its batch."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):  # torch-private: base class of all BatchNorms
            setattr(module, name, torch.nn.GroupNorm(1, child.num_features))
        else:
            without_batchnorm(child)
    return module


def train_two_steps(config, prepare=lambda model: model):
    model = prepare(build_model(config.model, audio=config.audio, seed=config.seed))
    learner = Learner(model=model, config=config, world=alone(), total_steps=20)
    learner.fill((random_batch(config, -n) for n in range(1, 7)), epoch=0)
    metrics = [learner.step(random_batch(config, step), step) for step in range(2)]
    return learner, metrics


def test_accumulated_parts_give_the_step_of_the_complete_batch():
    # Without BatchNorm, because its statistics are those of a part.
    complete, complete_metrics = train_two_steps(small_config("optim.name=sgd"), without_batchnorm)
    parts, parts_metrics = train_two_steps(small_config("optim.name=sgd", "train.accumulate=4"), without_batchnorm)
    for one, other in zip(complete_metrics, parts_metrics, strict=True):
        assert one.keys() == other.keys()
        for name in ("loss", "loss_v2a", "accuracy_a2v", "retrieval_v2a", "grad_norm"):
            torch.testing.assert_close(float(one[name]), float(other[name]), rtol=1e-4, atol=1e-5, msg=name)
    for name, value in complete.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert torch.equal(complete.active["video"].ids, parts.active["video"].ids)


def test_recomputing_activations_changes_nothing():
    plain, _ = train_two_steps(small_config())
    recomputed, _ = train_two_steps(small_config("train.recompute=true"))
    assert_equal_states(plain.state_dict(), recomputed.state_dict())


def test_recomputing_the_blocks_of_transformers_changes_nothing():
    small = ["train.batch_size=4", "pool.size=16", "dictionary.size=8", "clip.size=16", "sampler.name=fifo"]
    small += ["model.video=mvit_v2_s", "model.audio=vit_tiny"]
    plain, _ = train_two_steps(small_config(*small))
    recomputed, _ = train_two_steps(small_config(*small, "train.recompute=true"))
    for modality, block in (("video", "blocks.15"), ("audio", "blocks.11")):
        stage = recomputed.model.query[modality].backbone.get_submodule(block)
        assert isinstance(stage, checkpoint_wrapper.CheckpointWrapper)
    assert_equal_states(plain.state_dict(), recomputed.state_dict())


def test_memory_format_changes_rounding_only():
    plain, plain_metrics = train_two_steps(small_config("train.channels_last=false", "optim.name=sgd"))
    _, metrics = train_two_steps(small_config("train.channels_last=true", "optim.name=sgd"))
    torch.testing.assert_close(float(metrics[0]["loss"]), float(plain_metrics[0]["loss"]), rtol=1e-4, atol=1e-5)
    assert plain.model.query["video"].backbone.stem[0].weight.is_contiguous()


def test_bf16_stays_close_to_fp32():
    _, exact = train_two_steps(small_config())
    _, rounded = train_two_steps(small_config("train.precision=bf16"))
    assert float(rounded[0]["loss"]) == pytest.approx(float(exact[0]["loss"]), rel=0.1)
    assert rounded[0]["loss"].dtype == torch.float32


class HostWaits(TorchDispatchMode):
    """Records where in training/ and model/ an operator would make the host wait for a GPU's result."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "equal"):
            # Only the project's innermost frame counts: samplers may need values before they select.
            ours = [f for f in traceback.extract_stack() if Path(f.filename).parent.parent == ROOT]
            if ours and Path(ours[-1].filename).parent.name in ("training", "model"):
                self.places.append(f"{Path(ours[-1].filename).name}:{ours[-1].lineno}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("more", [(), ("optim.clip_grad_norm=1", "optim.name=sgd"), ("train.accumulate=2",)])
def test_a_step_never_waits_for_a_value(more):
    config = small_config("sampler.name=fifo", *more)
    learner = filled(config)
    learner.step(random_batch(config, 0), 0)
    batch = random_batch(config, 1)
    with HostWaits() as waits:
        metrics = learner.step(batch, 1)
        assert waits.places == []
        float(metrics["loss"])
        mean_over_ranks({"loss": metrics["loss"]})
    assert [place.partition(":")[0] for place in waits.places] == ["distributed.py"]


def test_compiling_does_not_change_the_results(monkeypatch):
    # This backend traces forward and backward without generating code, which would take minutes on a CPU.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    plain, plain_metrics = train_two_steps(small_config("optim.name=sgd", "optim.lr=1e-4"))
    compiled, metrics = train_two_steps(small_config("optim.name=sgd", "optim.lr=1e-4", "train.compile=true"))
    optimized = torch._dynamo.eval_frame.OptimizedModule  # torch-private: class of compiled modules
    assert isinstance(compiled._encode_queries, optimized)
    for one, other in zip(metrics, plain_metrics, strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), abs=1e-4)
    assert compiled.state_dict()["model"].keys() == plain.state_dict()["model"].keys()


@pytest.mark.parametrize("source", ["stream", "epoch"])
def test_fifo_holds_the_keys_of_the_last_batches_whatever_the_pool(source):
    config = small_config("sampler.name=fifo", "sampler.embedding=feature", f"pool.source={source}")
    learner = filled(config)
    for step in range(5):
        learner.step(random_batch(config, step), step)
    # The dictionary of step 4 was filled before its loss and holds three batches: those of steps 1 to 3.
    expected = torch.cat([random_batch(config, step).ids for step in (1, 2, 3)])
    for modality in ("video", "audio"):
        assert sorted(learner.active[modality].ids.tolist()) == sorted(expected.tolist())
    assert config.draws_pool(0)
    assert not config.draws_pool(1)
