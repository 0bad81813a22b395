"""Random generators: the same numbers in every trial, and after a draw a state that does not depend on the draw."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dplit.grads.types import Generator

BITS = 31
"""Of a seed: as many as every generator takes."""


@contextmanager
def seeded(seed: int = 0, others: Iterable[Generator] = ()) -> Iterator[None]:
    """Give a trial the numbers that follow from a seed, from torch, numpy and python, and put the generators back.

    A numpy generator that is made meanwhile without a seed has a fixed one.

    Args:
        seed: in [0, 2^31).
        others: generators that the model keeps.
    """
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    kept = [(generator, _state(generator)) for generator in others]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        seed_all(seed, (generator for generator, _ in kept))
        fresh = np.random.default_rng
        np.random.default_rng = lambda seed=None: fresh(0 if seed is None else seed)
        try:
            yield
        finally:
            np.random.default_rng = fresh
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002
            for generator, state in kept:
                _set_state(generator, state)


@contextmanager
def independent_of_what_is_drawn(others: Iterable[Generator] = ()) -> Iterator[None]:
    """Let the generators go on, afterwards, from numbers that they gave before.

    How many numbers a draw uses, and a seed that it takes from its records, then change nothing of what follows.

    Args:
        others: generators that the model keeps.
    """
    kept = list(others)
    seeds = [_draw(generator) for generator in kept]
    from_torch, from_python = int(torch.randint(2**BITS, ())), random.getrandbits(BITS)
    from_numpy = int(np.random.randint(2**BITS, dtype=np.int64))  # noqa: NPY002
    try:
        yield
    finally:
        seed_torch(from_torch)
        random.seed(from_python)
        np.random.seed(from_numpy)  # noqa: NPY002
        for generator, seed in zip(kept, seeds, strict=True):
            _seed(generator, seed)


def seed_all(seed: int, others: Iterable[Generator] = ()) -> None:
    """Seed torch, numpy, python, and the generators that a model keeps."""
    seed_torch(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    for generator in others:
        _seed(generator, seed)


def seed_torch(seed: int) -> None:
    """As `torch.manual_seed`, which takes a millisecond for devices that are not there."""
    (torch if torch.accelerator.is_available() else torch.default_generator).manual_seed(seed)


def numbers_drawn(others: Iterable[Generator] = ()) -> list[Any]:
    """Return what is equal as long as neither numpy, nor python, nor a generator that the model keeps gave a number."""
    _, numbers, *rest = np.random.get_state()  # noqa: NPY002
    return [
        np.asarray(numbers).tobytes(),
        rest,
        random.getstate(),
        *(str(_state(g)) for g in others if not isinstance(g, torch.Generator)),
    ]


def _draw(generator: Generator) -> int:
    if isinstance(generator, torch.Generator):
        return int(torch.randint(2**BITS, (), generator=generator, device=generator.device))
    if isinstance(generator, random.Random):
        return generator.getrandbits(BITS)
    if isinstance(generator, np.random.RandomState):
        return int(generator.randint(2**BITS, dtype=np.int64))
    return int(generator.integers(2**BITS))


def _seed(generator: Generator, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, random.Random | np.random.RandomState):
        generator.seed(seed)
    else:
        bits: Any = generator.bit_generator
        bits.state = type(bits)(seed).state


def _state(generator: Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    return generator.bit_generator.state


def _set_state(generator: Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state
