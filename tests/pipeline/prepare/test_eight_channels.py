"""Files with eight audio channels: PyAV crashes when it converts a planar frame of them to an array before mixing."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
RATE, SECONDS = 48000, 1
# Programs that read `path`: the reader of preparation, and the reader of the decord loader.
READERS = {
    "normalise": "from settings import PrepareConfig, StorageConfig; from pipeline.prepare.media import normalise; "
    "pcm = normalise(path, PrepareConfig(storage=StorageConfig(fps=25, short_side=48))).pcm",
    "decode_pcm": "from pipeline.load.reference.raw_decoding import decode_pcm; "
    "pcm = decode_pcm(path, origin=0.0, rate=16000, start=0, length=16000)",
}


def write_surround(path: Path, codec: str) -> Path:
    """Writes one second of video at 25 fps with a 1 kHz tone in each of eight audio channels."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(codec, rate=RATE, layout="7.1")
        for index in range(25 * SECONDS):
            image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 5, np.uint8), format="rgb24")
            image.pts, image.time_base = index, Fraction(1, 25)
            container.mux(video.encode(image))
        wave = np.sin(2 * np.pi * 1000 * np.arange(RATE * SECONDS) / RATE)
        packed = np.repeat((wave * 8000).astype(np.int16), 8)[None]
        sound = av.AudioFrame.from_ndarray(packed, format="s16", layout="7.1")
        sound.sample_rate, sound.time_base, sound.pts = RATE, Fraction(1, RATE), 0
        convert = av.AudioResampler(audio.format, "7.1", RATE, frame_size=audio.codec_context.frame_size or None)
        for piece in [*convert.resample(sound), *convert.resample(None)]:
            container.mux(audio.encode(piece))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("name", "codec", "planar"), [("a.mkv", "aac", True), ("b.mkv", "flac", False)])
def test_eight_channels_are_read_from_a_file(tmp_path, reader, name, codec, planar):
    path = write_surround(tmp_path / name, codec)
    with av.open(str(path)) as container:
        frame = next(container.decode(audio=0))
        assert (frame.format.is_planar, frame.layout.nb_channels) == (planar, 8)
    # In a separate process, so that a crash fails only this test.
    program = f"path = {str(path)!r}; {READERS[reader]}; import numpy; numpy.save({str(tmp_path / 'pcm.npy')!r}, pcm)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    pcm = np.load(tmp_path / "pcm.npy")
    assert pcm.dtype == np.int16
    assert pcm.shape == (16000 * SECONDS,)
    middle = pcm[4000:12000].astype(float)
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 1000 * len(middle) // 16000
    assert np.abs(middle).max() > 4000
