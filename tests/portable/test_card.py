"""The model card says only what the run shows."""

from __future__ import annotations

import pytest

from portable.card import model_card
from portable.describe import Origin
from settings import ClipConfig, Config, to_dict


@pytest.mark.parametrize(("per_sample", "unseen"), [(1, False), (2, True)])
def test_whether_each_sample_was_seen_depends_on_the_clips_per_sample(per_sample: int, unseen: bool) -> None:
    config = Config(clip=ClipConfig(per_sample=per_sample))
    video = {"architecture": "tiny", "input": to_dict(config.clip) | {"shape": ["batch", "frames"]}}
    sound = {"seconds": config.audio_seconds, "samples": config.audio_samples}
    described = {
        "video": video,
        "audio": {"architecture": "tiny", "input": to_dict(config.audio) | sound},
        "model": to_dict(config.model),
    }
    origin = Origin(run="mine", checkpoint="step-000000300.pt", samples=200, clips_seen=300)
    card = model_card(described, config, origin, files=["video.pt2"])
    assert ("Training ended before each sample had been seen once." in card) is unseen
