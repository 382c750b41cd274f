"""Computes crop windows and colour maps from uniform random numbers, vectorised over the clips of a batch."""

from __future__ import annotations

import numpy as np

CROP_ATTEMPTS = 10
"""Number of attempts before a centre crop is taken, as in torchvision's RandomResizedCrop."""

_LUMA = np.array([0.299, 0.587, 0.114])
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def centre_windows(width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Returns the largest centred square of each frame, int64 [B, 4] as (top, left, height, width)."""
    return spread_windows(width, height, crops=1)[:, 0]


def spread_windows(width: np.ndarray, height: np.ndarray, *, crops: int) -> np.ndarray:
    """Spreads `crops` squares, as large as the shorter side, evenly along the longer side; a single one is centred.

    Args:
        width, height: int [B], frame sizes.

    Returns:
        int64 [B, crops, 4] as (top, left, height, width).
    """
    side = np.minimum(width, height)[:, None]
    place = np.linspace(0, 1, crops) if crops > 1 else np.array([0.5])
    top = np.floor(place * (height[:, None] - side)).astype(np.int64)
    left = np.floor(place * (width[:, None] - side)).astype(np.int64)
    side = np.broadcast_to(side, top.shape)
    return np.stack([top, left, side, side], axis=2)


def random_resized_windows(
    width: np.ndarray,
    height: np.ndarray,
    *,
    area: np.ndarray,
    ratio: np.ndarray,
    place: np.ndarray,
    area_range: tuple[float, float],
    ratio_range: tuple[float, float],
) -> np.ndarray:
    """Computes crop windows that follow the distribution of torchvision's RandomResizedCrop.

    Args:
        width, height: int [B], frame sizes.
        area, ratio: uniform numbers in [0, 1), [B, CROP_ATTEMPTS]; the first attempt that fits in the frame is taken.
        place: uniform numbers in [0, 1), [B, 2], for the top and the left edge of the window.
        area_range: range of the window's area as a fraction of the frame's.
        ratio_range: range of the window's aspect ratio, width / height (drawn log-uniformly).

    Returns:
        int64 [B, 4], (top, left, height, width).
    """
    low, high = np.log(ratio_range)
    pixels = (width * height)[:, None] * (area_range[0] + area * (area_range[1] - area_range[0]))
    aspect = np.exp(low + ratio * (high - low))
    w = np.rint(np.sqrt(pixels * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(pixels / aspect)).astype(np.int64)
    fits = (w > 0) & (h > 0) & (w <= width[:, None]) & (h <= height[:, None])
    first = fits.argmax(axis=1)
    rows = np.arange(len(width))
    w, h = w[rows, first], h[rows, first]
    top = (place[:, 0] * (height - h + 1)).astype(np.int64)
    left = (place[:, 1] * (width - w + 1)).astype(np.int64)
    drawn = np.stack([top, left, h, w], axis=1)
    return np.where(fits.any(axis=1)[:, None], drawn, _fallback_windows(width, height, ratio_range))


def _fallback_windows(width: np.ndarray, height: np.ndarray, ratio_range: tuple[float, float]) -> np.ndarray:
    """The largest centred windows whose aspect ratio is in the range."""
    narrow, wide = width < height * ratio_range[0], width > height * ratio_range[1]
    w = np.where(wide, np.rint(height * ratio_range[1]).astype(np.int64), width)
    h = np.where(narrow, np.rint(width / ratio_range[0]).astype(np.int64), height)
    w, h = np.minimum(w, width), np.minimum(h, height)
    return np.stack([(height - h) // 2, (width - w) // 2, h, w], axis=1)


def color_matrices(
    *, brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray, hue: np.ndarray
) -> np.ndarray:
    """Returns colour changes as affine maps of RGB in [0, 1], float64 [B, 3, 4]; the arguments are [B].

    Brightness scales, contrast scales about mid-grey (0.5), saturation blends with the BT.601 luma and hue (degrees)
    rotates the YIQ chroma plane, as in DALI's color_twist. An affine map and the normalisation compose into a single
    pass over the pixels. To keep the map affine, values below 0 and above 1 are not clipped, and contrast does not
    scale about the clip's mean. Both differ from torchvision's ColorJitter.
    """
    n = len(brightness)
    to_grey = np.broadcast_to(_LUMA, (3, 3))
    s = saturation[:, None, None]
    angle = np.deg2rad(hue)
    turn = np.tile(np.eye(3), (n, 1, 1))
    turn[:, 1, 1] = turn[:, 2, 2] = np.cos(angle)
    turn[:, 1, 2], turn[:, 2, 1] = -np.sin(angle), np.sin(angle)
    chroma = np.linalg.inv(_RGB_TO_YIQ) @ turn @ _RGB_TO_YIQ @ (s * np.eye(3) + (1 - s) * to_grey)
    matrix = (brightness * contrast)[:, None, None] * chroma
    offset = np.tile((0.5 * (1 - contrast))[:, None, None], (1, 3, 1))
    return np.concatenate([matrix, offset], axis=2)
