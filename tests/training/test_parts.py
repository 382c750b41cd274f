"""Parts of the encoders: freezing them, and a learning rate for each part and layer."""

from __future__ import annotations

import copy

import pytest
import torch

from model.encoder import build_model
from model.parts import rate_factors
from settings import Config, ConfigError, load_config, to_dict
from tests.training.distributed import processes
from tests.training.distributed.test_distributed import share
from tests.training.small_run import new_learner, random_batch, small_config
from training.checkpoint import require_same_config
from training.distributed import World

FROZEN = "optim.freeze=[video.backbone, audio.backbone.0, audio.backbone.1]"


def trained(config, world=None, *, steps=2, rows=slice(None)):
    learner = new_learner(config, world)
    before = copy.deepcopy(learner.model.state_dict())
    learner.fill((random_batch(config, -n, rows) for n in range(1, 4)), epoch=0)
    for step in range(steps):
        learner.step(random_batch(config, step, rows), step)
    return learner, before


def changed(learner, before):
    """Names of the weights and statistics that are not what they were."""
    return {name for name, value in learner.model.state_dict().items() if not torch.equal(value, before[name])}


def is_frozen(name):
    frozen = ("video.backbone.", "audio.backbone.0.", "audio.backbone.1.")
    return name.removeprefix("query.").removeprefix("key.").startswith(frozen)


@pytest.mark.parametrize("more", [(), ("train.recompute=true", "train.accumulate=2"), ("train.batchnorm=local",)])
def test_frozen_weights_and_statistics_do_not_change_and_all_others_do(more):
    learner, before = trained(small_config(FROZEN, *more))
    assert changed(learner, before) == {name for name in before if not is_frozen(name)}
    for name, parameter in learner.model.query.named_parameters():
        assert (parameter.grad is None) == is_frozen(name.replace("_checkpoint_wrapped_module.", ""))
    held = [p for group in learner.optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(id(p) for p in learner.model.query.parameters() if p.requires_grad)


def test_a_frozen_backbone_is_run_without_a_graph_and_gives_the_same_features_in_both_modes():
    learner, _ = trained(small_config("optim.freeze=[video.backbone]"), steps=1)
    encoder, clips = learner.model.train().query["video"], random_batch(learner.config, 0).video
    features = encoder(clips).features
    assert not features.requires_grad
    assert torch.equal(features, encoder.eval()(clips).features)
    assert encoder.train().head.training


def test_a_frozen_head_still_passes_gradients_to_its_backbone():
    learner, before = trained(small_config("optim.freeze=[video.head]"))
    now = changed(learner, before)
    assert not [name for name in now if name.removeprefix("query.").removeprefix("key.").startswith("video.head")]
    assert "query.video.backbone.stem.0.weight" in now


def test_with_heads_that_cross_the_momentum_head_of_the_other_modality_is_frozen():
    learner, before = trained(small_config("optim.freeze=[video.head]", "model.cross_modal_fc=true"))
    now = changed(learner, before)
    assert not [name for name in now if name.startswith(("query.video.head", "key.audio.head"))]
    assert {"query.audio.head.last.weight", "key.video.head.last.weight"} <= now


def frozen_on_several(rank, size, batchnorm):
    config = small_config(FROZEN, f"train.batchnorm={batchnorm}")
    world = World(rank, size, rank, size, torch.device("cpu"))
    learner, before = trained(config, world, rows=share(config, rank, size))
    return changed(learner, before), learner.model.state_dict()


@pytest.mark.parametrize("batchnorm", ["sync", "local"])
def test_two_processes_freeze_the_same_parts(tmp_path, batchnorm):
    (changed_one, one), (changed_other, other) = processes.run(frozen_on_several, 2, tmp_path, batchnorm)
    assert changed_one == changed_other == {name for name in one if not is_frozen(name)}
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def transformers_on_several(rank, size, batchnorm):
    small = (
        "model.video=tiny",
        "model.audio=vit_tiny",
        "model.head_batchnorm=false",
        "train.batch_size=4",
        "pool.size=12",
    )
    config = small_config(*small, "dictionary.size=8", "optim.layer_decay=0.8", f"train.batchnorm={batchnorm}")
    learner, _ = trained(config, World(rank, size, rank, size, torch.device("cpu")), rows=share(config, rank, size))
    return sum(float(p.detach().double().sum()) for p in learner.model.parameters())


def test_an_encoder_without_batchnorm_trains_on_several_processes(tmp_path):
    one, other = processes.run(transformers_on_several, 2, tmp_path, "shuffle")
    assert one == other


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.freeze=[vido]", "optim.freeze: 'vido' is no part of a model: parts are video, video.backbone"),
        ("optim.freeze=[video.tail]", "optim.freeze: 'video.tail' is no part of a model"),
        ("optim.freeze=video", "optim.freeze must be a list, not 'video'"),
        ("optim.freeze=[video, audio]", "nothing would be trained"),
        ("optim.rates={video.backbone: 0}", r"the factor of video.backbone must be a positive number, not 0.*freeze"),
        ("optim.rates={audio: fast}", "the factor of audio must be a positive number, not 'fast'"),
        ("optim.rates={speech: 1}", "optim.rates: 'speech' is no part of a model"),
        ("optim.layer_decay=1.5", r"optim.layer_decay must be in \(0, 1\], not 1.5"),
    ],
)
def test_mistakes_in_the_settings_are_found_without_a_model(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(Config, overrides=[override])


@pytest.mark.parametrize("key", ["optim.freeze=[video.backbone.layer1]", "optim.rates={video.backbone.layer1: 0.1}"])
def test_a_part_that_this_model_lacks_is_named_with_those_it_has(key):
    message = "'video.backbone.layer1' is no part of video.backbone of this model; .*stage1"
    with pytest.raises(ConfigError, match=message):
        new_learner(small_config(key))


def test_freezing_everything_piece_by_piece_is_refused():
    parts = "[video.backbone, video.head, audio]"
    with pytest.raises(ConfigError, match="nothing would be trained"):
        new_learner(small_config(f"optim.freeze={parts}"))


def factors_by_name(model, **options):
    factors = rate_factors(model.query, **options)
    return {name: factors[parameter] for name, parameter in model.query.named_parameters()}


def test_the_longest_name_that_holds_a_weight_decides_its_rate():
    config = small_config()
    model = build_model(config.model, audio=config.audio, seed=0)
    rates = {"video.backbone.stem": 0.01, "video.backbone": 0.1, "audio": 3.0}
    found = factors_by_name(model, rates=rates, layer_decay=1.0)
    for name, factor in found.items():
        expected = 3.0 if name.startswith("audio") else 1.0 if "head" in name else 0.01 if ".stem." in name else 0.1
        assert factor == expected, name
    nested = load_config(Config, overrides=["optim.rates.video.backbone=1e-1", "optim.rates.audio=2"]).optim
    assert nested.factors == {"video.backbone": 0.1, "audio": 2.0}


@pytest.mark.parametrize(
    ("video", "audio", "expected"),
    [
        (
            "r3d_18",
            "resnet1d_18",
            {"video.backbone.stem.0.weight": 5, "video.backbone.layer1.0.conv1.0.weight": 4}
            | {"video.backbone.layer4.1.conv2.1.bias": 1, "video.head.last.weight": 0}
            | {"audio.backbone.conv1.weight": 5, "audio.backbone.bn1.weight": 5, "audio.backbone.layer4.0.bn1.bias": 1},
        ),
        (
            "mvit_v2_s",
            "vit_tiny",
            {"video.backbone.conv_proj.weight": 17, "video.backbone.pos_encoding.class_token": 17}
            | {"video.backbone.blocks.0.norm1.weight": 16, "video.backbone.blocks.15.mlp.3.weight": 1}
            | {"video.backbone.norm.weight": 1, "audio.backbone.patches.bias": 13}
            | {"audio.backbone.blocks.11.linear2.weight": 1, "audio.head.last.weight": 0},
        ),
    ],
)
def test_rates_decay_layer_by_layer_from_the_top(video, audio, expected):
    config = small_config(f"model.video={video}", f"model.audio={audio}")
    with torch.device("meta"):
        model = build_model(config.model, audio=config.audio, seed=0)
    found = factors_by_name(model, rates={}, layer_decay=0.5)
    assert {name: found[name] for name in expected} == {name: 0.5**depth for name, depth in expected.items()}


def test_a_step_moves_each_part_by_its_rate():
    plain = ("optim.name=sgd", "optim.sgd_momentum=0", "optim.weight_decay=0", "optim.warmup_steps=0")
    moved = []
    for rates in ("{}", "{video.backbone: 0.5, audio.head: 2}"):
        learner, before = trained(small_config(*plain, f"optim.rates={rates}"), steps=1)
        moved.append({name: p.detach() - before[f"query.{name}"] for name, p in learner.model.query.named_parameters()})
    for name, one in moved[0].items():
        factor = {"video.back": 0.5, "audio.head": 2.0}.get(name[:10], 1.0)
        torch.testing.assert_close(moved[1][name], factor * one, rtol=1e-4, atol=1e-7, msg=name)


def test_groups_keep_the_split_of_weight_decay_and_the_schedule_scales_all():
    learner, _ = trained(small_config("optim.rates={video: 0.5}", "optim.warmup_steps=0"), steps=1)
    groups = learner.optimizer.param_groups
    assert [(g["factor"], g["weight_decay"], {p.dim() > 1 for p in g["params"]}) for g in groups] == [
        (0.5, 1e-4, {True}),
        (0.5, 0.0, {False}),
        (1.0, 1e-4, {True}),
        (1.0, 0.0, {False}),
    ]
    assert [group["lr"] for group in groups] == [0.005, 0.005, 0.01, 0.01]


def test_a_run_with_parts_resumes_with_equal_bits():
    config = small_config(FROZEN, "optim.rates={audio: 0.5}", "optim.layer_decay=0.8")
    straight, _ = trained(config)
    resumed = new_learner(config)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    for learner in (straight, resumed):
        learner.step(random_batch(config, 2), 2)
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_checkpoint_from_before_these_settings_resumes(tmp_path):
    config = small_config()
    saved, (learner, _) = to_dict(config), trained(config)
    assert [sorted(group) for group in learner.state_dict()["optimizer"]["param_groups"]] == [
        sorted(group.keys() - {"factor"}) for group in learner.optimizer.param_groups
    ]
    for key in ("rates", "layer_decay", "freeze"):
        del saved["optim"][key]
    require_same_config(saved, config, tmp_path)
    with pytest.raises(ConfigError, match=r"optim.layer_decay: 1.0 in the checkpoint, 0.5 now"):
        require_same_config(saved, small_config("optim.layer_decay=0.5"), tmp_path)
