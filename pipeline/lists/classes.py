"""Sets of classes by name, such as those of Kinetics-Sounds, or from a text file."""

from __future__ import annotations

from pathlib import Path

from settings.errors import ConfigError

KINETICS_SOUNDS = "kinetics_sounds"
CLASSES: dict[str, tuple[str, ...]] = {
    KINETICS_SOUNDS: (
        *("blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball", "laughing"),
        *("mowing lawn", "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet"),
        *("playing drums", "playing guitar", "playing harmonica", "playing keyboard", "playing organ"),
        *("playing piano", "playing saxophone", "playing trombone", "playing trumpet", "playing violin"),
        *("playing xylophone", "ripping paper", "shoveling snow", "shuffling cards", "singing", "stomping grapes"),
        *("tap dancing", "tapping guitar", "tapping pen", "tickling"),
    )
}
"""Value of the setting `classes` -> names of classes. Kinetics-Sounds (Arandjelović and Zisserman 2017) has 34 classes
of a first version of Kinetics, of which these 31 are in the published lists."""


def read_classes(name: str) -> tuple[str, ...]:
    """The classes of a known set, or those in a text file with one on each line.

    Raises:
        ConfigError: there is neither such a set nor such a file, or the file is empty.
    """
    if name in CLASSES:
        return CLASSES[name]
    try:
        lines = Path(name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(CLASSES)
        raise ConfigError(f"classes={name!r} is neither {known} nor a readable text file of classes: {error}") from None
    if not (listed := tuple(line.strip() for line in lines if line.strip())):
        raise ConfigError(f"classes={name!r} is an empty file; write one class on each line")
    return listed


def plain_name(name: str) -> str:
    """The name of a class, as it is compared: case does not matter, and an underscore counts as a space."""
    return " ".join(name.replace("_", " ").casefold().split())
