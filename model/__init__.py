"""Encoders of both modalities, their momentum copies and the contrastive loss."""

from model.audio import AUDIO_ENCODERS
from model.encoder import CrossModalModel, Encoder, EncoderOutput, build_model
from model.loss import info_nce
from model.video import VIDEO_ENCODERS

__all__ = [
    "AUDIO_ENCODERS",
    "VIDEO_ENCODERS",
    "CrossModalModel",
    "Encoder",
    "EncoderOutput",
    "build_model",
    "info_nce",
]
