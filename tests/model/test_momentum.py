"""The cross-modal model: seeded weights, unit embeddings, and momentum copies equal to the closed form."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from model import build_model
from settings import AudioConfig, ConfigError, ModelConfig


def tiny(seed=0, **settings):
    return build_model(ModelConfig(video="tiny", audio="tiny", **settings), audio=AudioConfig(), seed=seed)


def clips(batch=4):
    return {"video": torch.randn(batch, 3, 4, 32, 32), "audio": torch.randn(batch, 1, 80, 41)}


def random_everywhere(module):
    """Fills every tensor of a module with random values; they are positive because some are variances."""
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor))
            else:
                tensor.fill_(17)


@pytest.mark.parametrize("modality", ["video", "audio"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("head_batchnorm", [True, False])
def test_output_is_features_last_layer_input_and_unit_embedding(modality, head, head_batchnorm):
    model = tiny(head=head, head_batchnorm=head_batchnorm, dim=24, hidden=40)
    encoder = model.query[modality].eval()
    out = encoder(clips()[modality])
    assert out.features.shape == (4, 256)
    assert out.hidden.shape == (4, 256 if head == "linear" else 40)
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(4))
    projection = F.linear(out.hidden, encoder.head.last.weight, encoder.head.last.bias)
    torch.testing.assert_close(out.embedding, F.normalize(encoder.head.norm(projection), dim=1))


def test_head_batchnorm_centres_a_training_batch():
    model = tiny(head_batchnorm=True)
    projection = model.query["video"].head(torch.randn(64, 256) + 5)[1]
    torch.testing.assert_close(projection.mean(dim=0), torch.zeros(128), atol=1e-4, rtol=0)


def test_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    first = tiny(seed=3).state_dict()
    torch.manual_seed(2)
    second, other = tiny(seed=3).state_dict(), tiny(seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["query.video.backbone.stem.0.weight"], other["query.video.backbone.stem.0.weight"])


def test_video_weights_do_not_depend_on_the_choice_of_audio_encoder():
    small = tiny(seed=3).query["video"].state_dict()
    settings = ModelConfig(video="tiny", audio="resnet1d_18")
    large = build_model(settings, audio=AudioConfig(), seed=3).query["video"].state_dict()
    assert all(torch.equal(small[name], large[name]) for name in small)


def test_building_does_not_change_the_random_state():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny()
    assert torch.equal(torch.rand(3), expected)


def test_momentum_encoders_start_equal_and_take_no_gradient():
    model = tiny()
    for modality, batch in clips().items():
        query, key = model.query[modality](batch), model.key[modality](batch)
        torch.testing.assert_close(query.embedding, key.embedding)
        assert query.embedding.requires_grad
        assert not key.embedding.requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999, 1.0])
def test_momentum_update_is_the_closed_form_over_parameters_and_buffers(momentum):
    model = tiny(momentum=momentum)
    random_everywhere(model.query)
    random_everywhere(model.key)
    query, before = copy.deepcopy(model.query.state_dict()), copy.deepcopy(model.key.state_dict())
    model.update_momentum()
    assert any("running_mean" in name for name in before)
    for name, after in model.key.state_dict().items():
        if after.is_floating_point():
            expected = momentum * before[name] + (1 - momentum) * query[name]
            torch.testing.assert_close(after, expected, msg=name)
        else:
            assert torch.equal(after, query[name]), name


def test_momentum_update_does_not_change_the_query_encoders():
    model = tiny(momentum=0.5)
    random_everywhere(model.key)
    before = copy.deepcopy(model.query.state_dict())
    model.update_momentum()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.query.state_dict().items())


def test_each_row_of_a_parameter_follows_its_own_row():
    """The paper's official code does this wrongly: it indexes the parameter and broadcasts one row over all rows."""
    model = tiny(momentum=0.0)
    random_everywhere(model.query)
    model.update_momentum()
    followed = model.key["video"].head.last.weight
    assert torch.equal(followed, model.query["video"].head.last.weight)
    assert not torch.equal(followed[0], followed[1])


def test_updates_with_a_constant_query_decay_geometrically():
    model = tiny(momentum=0.9)
    random_everywhere(model.query)
    start = model.key["audio"].head.last.weight.clone()
    goal = model.query["audio"].head.last.weight.detach()
    for _ in range(10):
        model.update_momentum()
    torch.testing.assert_close(model.key["audio"].head.last.weight, goal + 0.9**10 * (start - goal))


def test_cross_modal_fc_makes_each_momentum_head_follow_the_other_modality():
    model = tiny(momentum=0.25, cross_modal_fc=True)
    for modality, other in {"video": "audio", "audio": "video"}.items():
        assert torch.equal(model.key[modality].head.last.weight, model.query[other].head.last.weight)
    random_everywhere(model.query)
    before = copy.deepcopy(model.key.state_dict())
    query = copy.deepcopy(model.query.state_dict())
    model.update_momentum()
    after = model.key.state_dict()
    head, backbone = "head.last.weight", "backbone.stage1.0.weight"
    torch.testing.assert_close(after[f"video.{head}"], 0.25 * before[f"video.{head}"] + 0.75 * query[f"audio.{head}"])
    torch.testing.assert_close(after[f"audio.{head}"], 0.25 * before[f"audio.{head}"] + 0.75 * query[f"video.{head}"])
    torch.testing.assert_close(
        after[f"video.{backbone}"], 0.25 * before[f"video.{backbone}"] + 0.75 * query[f"video.{backbone}"]
    )


def test_cross_modal_fc_with_unequal_heads_is_an_error_that_says_what_to_choose():
    settings = ModelConfig(video="tiny", audio="resnet1d_18", cross_modal_fc=True)
    with pytest.raises(ConfigError, match=r"cross_modal_fc.*same shapes.*model\.video"):
        build_model(settings, audio=AudioConfig(), seed=0)


@pytest.mark.parametrize("key", ["video", "audio"])
def test_an_unknown_encoder_names_the_nearest(key):
    settings = ModelConfig(**{"video": "tiny", "audio": "tiny", key: "tini"})
    with pytest.raises(ConfigError, match=rf"model\.{key}='tini'.*did you mean tiny"):
        build_model(settings, audio=AudioConfig(), seed=0)


def test_state_dict_restores_query_and_momentum_encoders():
    model = tiny(seed=0)
    random_everywhere(model)
    restored = tiny(seed=1)
    restored.load_state_dict(model.state_dict())
    batch = clips()
    for encoders, others in ((model.query, restored.query), (model.key, restored.key)):
        for modality in ("video", "audio"):
            ours, theirs = encoders[modality].eval(), others[modality].eval()
            assert torch.equal(ours(batch[modality]).features, theirs(batch[modality]).features)
