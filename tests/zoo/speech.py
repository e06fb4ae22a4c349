"""Speech-like sound: a glottal pulse train through vowel formants, hissed consonants, pauses and room noise.

A source-filter synthesis after G. Fant, "Acoustic Theory of Speech Production" (1960); the formant frequencies are the
means for men of Peterson and Barney, "Control methods used in a study of the vowels" (JASA 24, 1952).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

RATE = 16_000
FORMANTS: tuple[tuple[float, ...], ...] = (
    (270, 2290, 3010),
    (390, 1990, 2550),
    (530, 1840, 2480),
    (660, 1720, 2410),
    (730, 1090, 2440),
    (570, 840, 2410),
    (440, 1020, 2240),
    (300, 870, 2240),
)
BANDWIDTHS = (60.0, 90.0, 150.0)  # Hz


def _filter(numerator: list[float], denominator: list[float], signal: Float64) -> Float64:
    from scipy.signal import lfilter  # type: ignore[import-untyped]

    return np.asarray(lfilter(numerator, denominator, signal))


def _resonate(signal: Float64, frequency: float, bandwidth: float) -> Float64:
    """A two-pole resonator with unit gain at zero frequency."""
    radius = np.exp(-np.pi * bandwidth / RATE)
    poles = [1.0, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2]
    return _filter([sum(poles)], poles, signal)


def _envelope(length: int) -> Float64:
    return np.minimum(1.0, 8 * np.minimum(np.arange(length), np.arange(length)[::-1]) / length)


def _vowel(length: int, pitch: float, random: np.random.Generator) -> Float64:
    track = pitch * (1 + np.linspace(0, random.uniform(-0.2, 0.15), length) + 0.01 * random.standard_normal())
    phase = np.cumsum(track) / RATE
    pulses = np.diff(np.floor(phase), prepend=0.0)
    sound = _filter([1.0], [1.0, -0.95], pulses + 0.003 * random.standard_normal(length))
    for frequency, bandwidth in zip(FORMANTS[random.integers(len(FORMANTS))], BANDWIDTHS, strict=True):
        sound = _resonate(sound, frequency * random.uniform(0.95, 1.08), bandwidth)
    sound = np.diff(sound, prepend=0.0)  # the lips radiate the derivative
    voiced: Float64 = _envelope(length) * sound / (np.abs(sound).max() + 1e-9)
    return voiced


def _consonant(length: int, random: np.random.Generator) -> Float64:
    hiss = _resonate(random.standard_normal(length), random.uniform(2500, 6500), 900.0)
    breath: Float64 = 0.15 * _envelope(length) * hiss / (np.abs(hiss).max() + 1e-9)
    return breath


def _seconds(random: np.random.Generator, low: float, high: float) -> int:
    return int(random.uniform(low, high) * RATE)


def _word(pitch: float, random: np.random.Generator) -> list[Float64]:
    parts: list[Float64] = []
    for _ in range(random.integers(1, 4)):
        parts.append(_consonant(_seconds(random, 0.04, 0.1), random))
        parts.append(_vowel(_seconds(random, 0.09, 0.24), pitch * random.uniform(0.9, 1.1), random))
    return parts


def speech(seconds: float, random: np.random.Generator) -> Float32:
    """Phrases of one speaker with pauses between them over faint noise.

    Args:
        seconds: Length.
        random: Source of pitch, words, pauses and levels.

    Returns:
        float32 [seconds * 16000] in -1..1 at 16 kHz.
    """
    pitch, wanted = random.uniform(95, 230), int(seconds * RATE)
    parts: list[Float64] = []
    while sum(len(part) for part in parts) < wanted:
        loudness = random.uniform(0.1, 0.6)
        for _ in range(random.integers(2, 5)):
            parts += [loudness * sound for sound in _word(pitch, random)]
            parts.append(np.zeros(_seconds(random, 0.02, 0.08)))
        parts.append(np.zeros(_seconds(random, 0.3, 0.9)))
    sound = np.concatenate(parts)[:wanted]
    noise = random.uniform(0.0005, 0.005) * random.standard_normal(wanted)
    return np.clip(sound + noise, -1, 1).astype(np.float32)
