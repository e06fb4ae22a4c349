"""English sentences and text lines rendered from them: the parts share no sentence."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tests.zoo.photos import Part, crops

SENTENCE = re.compile(r"(?<=[.!?]\s)[A-Z][A-Za-z0-9 ,;:'()-]{40,220}[.!?](?=\s)")
SIZES = (18, 22, 26, 32, 40)  # pixels
DARK, LIGHT = 90, 165  # brightest ink on bright ground, darkest ink on dark ground
MIDDLE = 128.0


@cache
def sentences(part: Part) -> tuple[str, ...]:
    """Sentences of the texts that describe scikit-learn's data sets and Python itself, alternately to each part."""
    import pydoc_data.topics

    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).with_name("descr")
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.rst"))]
    texts += [text for _, text in sorted(pydoc_data.topics.topics.items())]
    found = dict.fromkeys(match for text in texts for match in SENTENCE.findall(" ".join(text.split())))
    return tuple(found)[("calibration", "test").index(part) :: 2]


def sentence(part: Part, random: np.random.Generator) -> str:
    """One of the part's sentences."""
    choice = sentences(part)
    return choice[random.integers(len(choice))]


def phrase(part: Part, random: np.random.Generator, longest: int) -> str:
    """A few words in a row out of one sentence, at most ``longest`` characters."""
    words = sentence(part, random).split()
    start = int(random.integers(max(1, len(words) - 4)))
    line = words[start][:longest]
    for word in words[start + 1 :]:
        if len(line) + len(word) >= longest:
            break
        line = f"{line} {word}"
    return line


def _ink(ground: Image.Image, random: np.random.Generator) -> tuple[int, int, int]:
    """A colour that stands out from the ground."""
    bright = float(np.asarray(ground.convert("L")).mean()) > MIDDLE
    low, high = (0, DARK) if bright else (LIGHT, 256)
    red, green, blue = random.integers(low, high, 3)
    return int(red), int(green), int(blue)


def _ground(part: Part, size: tuple[int, int], random: np.random.Generator) -> Image.Image:
    """Plain paper half of the time, else a blurred crop of a photograph."""
    if random.random() < 0.5:
        red, green, blue = random.integers(170, 256, 3)
        return Image.new("RGB", size, (int(red), int(green), int(blue)))
    patch = Image.fromarray(crops(part, 4, size[::-1], random)[random.integers(4)])
    return patch.filter(ImageFilter.GaussianBlur(6))


def line(part: Part, random: np.random.Generator, longest: int) -> tuple[Image.Image, str]:
    """A tight picture of one line of text, and the text."""
    text, font = phrase(part, random, longest), ImageFont.load_default(float(random.choice(SIZES)))
    left, top, right, bottom = font.getbbox(text)
    margin = int(random.integers(2, 6))
    image = _ground(part, (round(right - left) + 2 * margin, round(bottom - top) + 2 * margin), random)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=_ink(image, random), font=font)
    return image, text


def scene(part: Part, size: int, random: np.random.Generator) -> Image.Image:
    """A square photograph with two to five lines of text written over it."""
    image = Image.fromarray(crops(part, 4, (size, size), random)[random.integers(4)])
    draw, top = ImageDraw.Draw(image), float(random.integers(5, 40))
    for _ in range(random.integers(2, 6)):
        font = ImageFont.load_default(float(random.choice(SIZES)))
        left, text = float(random.integers(2, size // 4)), phrase(part, random, 24)
        box = draw.textbbox((left, top), text, font=font)
        draw.text((left, top), text, fill=_ink(image.crop(box), random), font=font)
        top = box[3] + float(random.integers(8, 40))
    return image
