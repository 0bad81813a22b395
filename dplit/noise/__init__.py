"""Where noise comes from: one file for each source, found by itself.

>>> names()
('gaussian',)
>>> find("gaussian")(seed=7).description
'Gaussian, from the seed 7, drawn in float32 (float64 for float64 parameters)'
"""

from __future__ import annotations

import inspect

from dplit import validation
from dplit.discovery import subclasses
from dplit.errors import ConfigurationError
from dplit.noise.base import NoiseSource, ReleaseNoise
from dplit.noise.gaussian import GaussianNoise

__all__ = ["GaussianNoise", "NoiseSource", "ReleaseNoise", "available", "find", "names"]


def available() -> tuple[type[NoiseSource], ...]:
    """Return the noise sources that the files of this package define, by name."""
    return tuple(sorted(subclasses(NoiseSource, __name__, __path__), key=lambda source: source.name))


def names() -> tuple[str, ...]:
    """Return the names by which `find` knows noise sources."""
    return tuple(source.name for source in available())


def find(source: str | type[NoiseSource] | None = None) -> type[NoiseSource]:
    """Return the noise source of this name, or the class given; `GaussianNoise` for None.

    Raises:
        ConfigurationError: an unknown name, with the nearest known one, or something that is no noise source.
    """
    if source is None:
        return GaussianNoise
    if inspect.isclass(source) and issubclass(source, NoiseSource):
        return source
    if not isinstance(source, str):
        raise ConfigurationError(f"noise source {source!r} is none; give one of {', '.join(names())}")
    by_name = {known.name: known for known in available()}
    return by_name[validation.choice("noise source", source, by_name)]
