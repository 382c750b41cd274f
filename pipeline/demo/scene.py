"""The scene of a demo video, whose images and audio follow from the same causes.

A shape flies straight through a room and bounces off its walls. Its kind (outline and pattern) decides the timbre of
its hum, its speed decides the pitch, and each bounce is heard as a knock. Everything else (colours, size,
rotation, background, motionless silent shapes, loudness, noise) is drawn independently of kind and speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT, FPS, SECONDS = 128, 96, 25, 4
SAMPLE_RATE = 16000
KINDS = ("disc", "square", "triangle", "star", "cross", "ring", "bar", "dumbbell")
SPEEDS = ("slow", "medium", "fast", "rapid")
PIXELS_PER_SECOND = (30.0, 60.0, 110.0, 190.0)
"""Mean speed of the shape, in the order of `SPEEDS`."""
PITCHES = (196.0, 294.0, 440.0, 660.0)
"""Pitch of the hum in Hz, in the order of `SPEEDS`."""


@dataclass(frozen=True)
class Flight:
    """Motion of the shape: the common cause of images and sound."""

    start: np.ndarray
    """[2] position (x, y) of the centre at t = 0, in pixels from the leftmost and topmost point that it can reach."""
    velocity: np.ndarray
    """[2] velocity (x, y) at t = 0, in pixels per second."""
    room: np.ndarray
    """[2] distance that the centre can move along each axis, in pixels."""

    @classmethod
    def draw(cls, rng: np.random.Generator, *, pixels_per_second: float, radius: float) -> Flight:
        """Draws a random flight.

        Args:
            pixels_per_second: speed along the path.
            radius: nominal radius of the shape in pixels; the centre stays at least this far from the frame's edges.
        """
        # The angles avoid the axes, along which the shape would meet only one pair of walls.
        angle = rng.uniform(0.3, np.pi / 2 - 0.3) + rng.integers(4) * np.pi / 2
        room = np.array([WIDTH, HEIGHT]) - 2 * radius
        velocity = pixels_per_second * np.array([np.cos(angle), np.sin(angle)])
        return cls(start=rng.uniform(0, room), velocity=velocity, room=room)

    def positions(self, times: np.ndarray) -> np.ndarray:
        """Returns the positions [n, 2] at `times` [n] in seconds: a straight path, reflected at the walls."""
        wrapped = np.mod(self.start + times[:, None] * self.velocity, 2 * self.room)
        return self.room - np.abs(self.room - wrapped)

    def impacts(self) -> np.ndarray:
        """Returns the times in seconds, in ascending order, at which the shape touches a wall."""
        times = []
        for start, velocity, room in zip(self.start, self.velocity, self.room, strict=True):
            # Without reflection, the path would cross walls at all multiples of `room`.
            walls = np.arange(-np.ceil(abs(velocity) * SECONDS / room) - 1, abs(velocity) * SECONDS / room + 2)
            times.append((walls * room - start) / velocity)
        reached = np.concatenate(times)
        return np.sort(reached[(reached >= 0) & (reached < SECONDS)])


def render(kind: int, speed: int, seed: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Renders one video; `kind` and `speed` are indices into KINDS and SPEEDS.

    Returns:
        (frames, sound, impacts): uint8 RGB [FPS·SECONDS, HEIGHT, WIDTH, 3], float32 mono [SAMPLE_RATE·SECONDS] within
        [-1, 1], and the times in seconds at which the shape hits a wall.
    """
    rng = np.random.default_rng(seed)
    radius, flight = _draw_flight(rng, speed)
    frames = _images(rng, kind, radius, flight)
    return frames, _sound(rng, kind, PITCHES[speed], flight.impacts()), flight.impacts()


def shape_positions(speed: int, seed: tuple[int, ...], times: np.ndarray) -> tuple[np.ndarray, float]:
    """Where the shape of the video that `render` makes of this seed is: what sounds in it.

    Args:
        times: [n] in seconds.

    Returns:
        ([n, 2] centres (x, y), nominal radius), in pixels.
    """
    radius, flight = _draw_flight(np.random.default_rng(seed), speed)
    return flight.positions(times) + radius, radius


def _draw_flight(rng: np.random.Generator, speed: int) -> tuple[float, Flight]:
    """Draws the shape's radius in pixels and its flight."""
    radius = rng.uniform(20, 28)
    pixels_per_second = PIXELS_PER_SECOND[speed] * rng.uniform(0.9, 1.1)
    return radius, Flight.draw(rng, pixels_per_second=pixels_per_second, radius=radius)


def _images(rng: np.random.Generator, kind: int, radius: float, flight: Flight) -> np.ndarray:
    background, colour = _background(rng)
    spin = rng.uniform(-2, 2)
    angle = rng.uniform(0, 2 * np.pi)
    times = np.arange(FPS * SECONDS) / FPS
    frames = np.empty((len(times), HEIGHT, WIDTH, 3), np.uint8)
    for frame, time, position in zip(frames, times, flight.positions(times) + radius, strict=True):
        canvas = background.copy()
        _draw(canvas, kind, position, radius, angle + spin * time, colour)
        frame[:] = canvas
    return frames


def _background(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns a random background, float32 [HEIGHT, WIDTH, 3] in [0, 255], and a contrasting shape colour [3]."""
    colour, base = _two_colours(rng)
    rows, columns = np.linspace(0, 1, HEIGHT)[:, None], np.linspace(0, 1, WIDTH)[None, :]
    wave = np.zeros((HEIGHT, WIDTH))
    for _ in range(4):
        direction = rng.uniform(-6, 6, 2)
        wave += np.sin(2 * np.pi * (direction[0] * rows + direction[1] * columns + rng.uniform()))
    background = base + rng.uniform(0, 8) * wave[..., None] + rng.normal(0, 3, (HEIGHT, WIDTH, 1))
    background = np.clip(background, 0, 255).astype(np.float32)
    for _ in range(rng.integers(0, 3)):
        position, radius = rng.uniform((0, 0), (WIDTH, HEIGHT)), rng.uniform(4, 7)
        _draw(background, int(rng.integers(len(KINDS))), position, radius, rng.uniform(0, 6), _two_colours(rng)[0])
    return background, colour


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns two random RGB colours [3] that differ in brightness."""
    while True:
        first, second = rng.uniform(20, 235, (2, 3))
        if abs((first - second) @ (0.299, 0.587, 0.114)) > 60:
            return first, second


def _draw(canvas: np.ndarray, kind: int, centre: np.ndarray, radius: float, angle: float, colour: np.ndarray) -> None:
    reach = int(np.ceil(1.3 * radius))
    left, top = np.maximum(centre.astype(int) - reach, 0)
    right, bottom = np.minimum(centre.astype(int) + reach + 1, (WIDTH, HEIGHT))
    x = (np.arange(left, right) - centre[0])[None, :] / radius
    y = (np.arange(top, bottom) - centre[1])[:, None] / radius
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    shape, pattern = LOOKS[KINDS[kind]]
    coverage = np.clip(0.5 - radius * shape(u, v), 0, 1)[..., None]
    # The pattern only darkens the shape's random colour, so that colour does not reveal the kind.
    shade = 1 - 0.7 * pattern(u, v)[..., None]
    patch = canvas[top:bottom, left:right]
    patch += coverage * (shade * colour - patch)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    turn = np.mod(np.arctan2(v, u), 2 * np.pi / 5) - np.pi / 5
    return 0.8 * (np.hypot(u, v) - (0.45 + 0.65 * (np.abs(turn) / (np.pi / 5)) ** 1.5))


def _plain(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.zeros(np.broadcast_shapes(u.shape, v.shape))


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sin(9 * u + 0 * v) > 0  # 0 * v broadcasts to 2-D.


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sin(7 * u) * np.sin(7 * v) > 0


def _target(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sin(10 * np.hypot(u, v)) < 0


def _half(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u + 0 * v > 0  # 0 * v broadcasts to 2-D.


LOOKS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "disc": (lambda u, v: np.hypot(u, v) - 0.85, _target),
    "square": (lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.75, _checks),
    "triangle": (lambda u, v: np.maximum(-u, np.maximum(0.5 * u - 0.866 * v, 0.5 * u + 0.866 * v)) - 0.52, _stripes),
    "star": (_star, _plain),
    "cross": (
        lambda u, v: np.minimum(
            np.maximum(np.abs(u) - 0.95, np.abs(v) - 0.3), np.maximum(np.abs(v) - 0.95, np.abs(u) - 0.3)
        ),
        _plain,
    ),
    "ring": (lambda u, v: np.abs(np.hypot(u, v) - 0.75) - 0.22, _plain),
    "bar": (lambda u, v: np.maximum(np.abs(u) - 1.05, np.abs(v) - 0.33), _stripes),
    "dumbbell": (lambda u, v: np.hypot(np.abs(u) - 0.55, v) - 0.45, _half),
}
"""Outline and pattern of each kind, as functions of points (u, v) in units of the radius.

The outline is the approximate signed distance, negative inside; the pattern is the darkening, from 0 to 1.
"""


def _sound(rng: np.random.Generator, kind: int, pitch: float, impacts: np.ndarray) -> np.ndarray:
    time = np.arange(SAMPLE_RATE * SECONDS) / SAMPLE_RATE
    hum = TIMBRES[KINDS[kind]](rng, 2 * np.pi * pitch * rng.uniform(0.97, 1.03) * time, time)
    hum /= np.sqrt(np.mean(hum**2))
    knocks = np.zeros_like(time)
    for impact in impacts:
        since = time - impact
        knocks += np.where(since >= 0, np.exp(-np.maximum(since, 0) / 0.06), 0)
    noise = rng.normal(0, 1, len(time)) * knocks**2
    sound = hum * (0.06 + 0.25 * knocks) + 0.1 * noise + rng.uniform(0.001, 0.008) * rng.normal(0, 1, len(time))
    return np.clip(rng.uniform(0.5, 1.2) * sound, -1, 1).astype(np.float32)


def _partials(*ratios_and_levels: tuple[float, float]) -> Callable[..., np.ndarray]:
    def tone(rng: np.random.Generator, phase: np.ndarray, time: np.ndarray) -> np.ndarray:
        partials = [level * np.sin(ratio * phase + rng.uniform(0, 6)) for ratio, level in ratios_and_levels]
        return sum(partials, np.zeros_like(phase))

    return tone


def _noise_band(rng: np.random.Generator, phase: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Returns narrow-band noise around three times the pitch: carriers in quadrature with slowly varying amplitudes."""
    spectrum = np.fft.rfft(rng.normal(0, 1, (2, len(time))))
    spectrum[:, int(80 * SECONDS) :] = 0
    inphase, quadrature = np.fft.irfft(spectrum, len(time))
    return inphase * np.sin(3 * phase) + quadrature * np.cos(3 * phase)


def _tremolo(rng: np.random.Generator, phase: np.ndarray, time: np.ndarray) -> np.ndarray:
    return (1.02 + np.sin(2 * np.pi * 9 * time + rng.uniform(0, 6))) * (np.sin(phase) + 0.5 * np.sin(2 * phase))


def _vibrato(rng: np.random.Generator, phase: np.ndarray, time: np.ndarray) -> np.ndarray:
    wobble = 30 * np.sin(2 * np.pi * 4 * time + rng.uniform(0, 6))
    return np.sin(4 * phase + wobble)


TIMBRES: dict[str, Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": _partials((1, 1.0)),
    "square": _partials(*((k, 1 / k) for k in (1, 3, 5, 7, 9))),
    "triangle": _partials(*((k, 0.8**k) for k in range(1, 11))),
    "star": _partials((1, 0.4), (2.76, 1.0), (5.4, 1.0), (8.93, 0.7)),
    "cross": _noise_band,
    "ring": _tremolo,
    "bar": _vibrato,
    "dumbbell": _partials(*((k, 1.0) for k in range(7, 12))),
}
"""Timbre of each kind: maps (generator, phase of the fundamental in radians, time in seconds) to a waveform."""
