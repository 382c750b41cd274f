"""Opens files from users: local files only, of known formats and codecs, with one thread and a limit on pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer

from pipeline.media.rejection import RejectedSource, content_problem, file_problem, open_problem

_FORMATS = """
    aac ac3 aiff amr amrnb amrwb ape apng asf au av1 avi caf dirac dnxhd dts dtshd dv eac3 flac flv gif gxf h261 h263
    h264 hevc ivf live_flv loas m4v matroska mjpeg mov mp3 mpc mpc8 mpeg mpegts mpegvideo mpjpeg mxf nsv nut obu ogg
    rm swf tak truehd tta ty vc1 voc vvc w64 wav webm wtv wv yuv4mpegpipe
"""
"""The accepted FFmpeg demuxers: none that opens other files, devices or network addresses, or reads still images."""
_VIDEO_DECODERS = """
    8bps apng av1 cavs cfhd cinepak dirac dnxhd dvvideo ffv1 ffvhuff flashsv flashsv2 flv gif h261 h263 h263i h263p h264
    hap hevc huffyuv indeo2 indeo3 indeo4 indeo5 jpeg2000 lagarith libaom-av1 libdav1d libvpx libvpx-vp9 magicyuv mjpeg
    mjpegb mpeg1video mpeg2video mpeg4 mpegvideo msmpeg4 msmpeg4v1 msmpeg4v2 msrle msvideo1 mszh png prores qtrle r10k
    r210 rawvideo rpza rv10 rv20 rv30 rv40 smc snow svq1 svq3 theora tscc2 utvideo v210 v308 v408 v410 vc1 vp3 vp4 vp5
    vp6 vp6a vp6f vp7 vp8 vp9 vvc wmv1 wmv2 wmv3 zlib zmbv
"""
_AUDIO_DECODERS = """
    aac aac_fixed aac_latm ac3 ac3_fixed adpcm_g722 adpcm_ima_qt adpcm_ima_wav adpcm_ms adpcm_swf adpcm_yamaha alac als
    amrnb amrwb ape atrac1 atrac3 atrac3plus cook dca dsd_lsbf dsd_lsbf_planar dsd_msbf dsd_msbf_planar dvaudio eac3
    flac g722 g723_1 g726 g726le gsm gsm_ms ilbc libopencore_amrnb libopencore_amrwb libopus libspeex libvorbis mace3
    mace6 mlp mp1 mp1float mp2 mp2float mp3 mp3adu mp3adufloat mp3float mp3on4 mp3on4float mpc7 mpc8 nellymoser opus
    pcm_alaw pcm_bluray pcm_dvd pcm_f16le pcm_f24le pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_mulaw pcm_s16be
    pcm_s16be_planar pcm_s16le pcm_s16le_planar pcm_s24be pcm_s24daud pcm_s24le pcm_s24le_planar pcm_s32be pcm_s32le
    pcm_s32le_planar pcm_s64be pcm_s64le pcm_s8 pcm_s8_planar pcm_u16be pcm_u16le pcm_u24be pcm_u24le pcm_u32be
    pcm_u32le pcm_u8 qcelp qdm2 qdmc ralf real_144 real_288 s302m sipr speex tak truehd truespeech tta vorbis wavpack
    wmalossless wmapro wmav1 wmav2 wmavoice
"""
DECODERS = frozenset((_VIDEO_DECODERS + _AUDIO_DECODERS).split())
"""The accepted FFmpeg decoders: those of formats that cameras, recorders and editors write. Others, such as those of
games, are hardly tested."""
MAX_STREAMS = 128
"""Largest number of tracks of a file; a DVD has about 50."""


def open_media(path: str | Path, *, max_pixels: int) -> InputContainer:
    """Opens a file of a user; every place that reads such files with PyAV opens them here.

    Decoders run with one thread, because the caller has a process per core. Decode untrusted files in a process with
    limits on memory and time (`pipeline.prepare.workers.pool`), because they may crash FFmpeg.

    Args:
        max_pixels: largest width times height; FFmpeg itself refuses larger frames, even if a header understates them.

    Raises:
        RejectedSource: the file cannot be read, is no media file or of a format that is not accepted, or has too many
            tracks.
        MemoryError: it needs more memory than the process may use.
    """
    path = Path(path)
    if problem := file_problem(path) or content_problem(path):
        raise problem
    limits = {"protocol_whitelist": "file", "format_whitelist": ",".join(_FORMATS.split())}
    limits["codec_whitelist"] = ",".join(sorted(DECODERS))
    try:
        container = av.open(
            str(path.absolute()),
            options={"max_pixels": str(max_pixels)},
            container_options=limits,
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, MemoryError):
            raise
        raise open_problem(path, error) from None
    if len(container.streams) > MAX_STREAMS:
        count = len(container.streams)
        container.close()
        raise RejectedSource("too many tracks", f"{count}, more than {MAX_STREAMS}")
    for stream in container.streams:
        if stream.codec_context is not None:
            stream.codec_context.thread_count = 1
    return container


def check_decoder(stream: Any) -> Any:
    """Returns the codec context of a stream.

    Raises:
        RejectedSource: FFmpeg has no decoder for it, or one that is not on the list.
    """
    context = stream.codec_context
    if context is None:  # PyAV would crash
        raise RejectedSource("unknown codec", f"FFmpeg has no decoder for the {stream.type} track")
    if context.name not in DECODERS:
        raise RejectedSource("unknown codec", f"the {stream.type} track is {context.name}, which is not decoded")
    return context


def is_cover_art(stream: Any) -> bool:
    """Whether a video stream is only a picture attached to the file."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)
