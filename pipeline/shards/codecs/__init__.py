"""The codecs in which shards store video, one module per codec."""

from pipeline.shards.codecs.base import Codec, Inputs, VideoBlob, frame_rate
from pipeline.shards.codecs.jpeg import Jpeg
from pipeline.shards.codecs.vp9 import Vp9

CODECS: dict[str, Codec] = {"vp9": Vp9(), "jpeg": Jpeg()}
"""Maps storage.codec to the codec; settings/data.py lists the names and the range of storage.quality."""

__all__ = ["CODECS", "Codec", "Inputs", "VideoBlob", "frame_rate"]
