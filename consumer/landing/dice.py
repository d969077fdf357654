"""Seeded chance: every decision of the generator is taken here, so that one seed gives one landing.

Only `random.Random.random` and `getrandbits` are used: they are the parts whose sequence Python promises
to keep, and they are several times faster than `choice` and `randint`.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """A stream of random decisions that depends on the seed alone."""

    def __init__(self, seed: int) -> None:
        # A text is hashed with SHA-512, so that neighbouring seeds share nothing and -1 differs from 1.
        source = random.Random(f"lotus-lake/{seed}")
        self._random = source.random
        self._bits = source.getrandbits

    def chance(self, probability: float) -> bool:
        """Is true with this probability."""
        return self._random() < probability

    def below(self, limit: int) -> int:
        """Draws an integer from 0 up to, but not including, `limit`."""
        return int(self._random() * limit)

    def between(self, least: int, greatest: int) -> int:
        """Draws an integer, both ends included."""
        return least + int(self._random() * (greatest - least + 1))

    def pick(self, choices: Sequence[T]) -> T:
        """Draws one of the choices, each as likely as the others."""
        return choices[int(self._random() * len(choices))]

    def recent(self, choices: Sequence[T], *, window: int) -> T:
        """Draws one of the choices, half of the time one of the last `window`."""
        if len(choices) > window and self._random() < 0.5:
            return choices[len(choices) - 1 - int(self._random() * window)]
        return self.pick(choices)

    def maybe(self, value: T, *, present: float = 0.9) -> T | None:
        """Keeps the value with this probability, else answers null."""
        return value if self._random() < present else None

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """Returns the values in a random order."""
        rest = list(values)
        return [rest.pop(self.below(len(rest))) for _ in values]

    def uuid(self) -> str:
        """Draws a version 4 UUID as text."""
        text = f"{self._bits(128):032x}"
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[self._bits(2)]}{text[17:20]}-{text[20:]}"

    def hex(self, bits: int) -> str:
        """Draws a hexadecimal text of so many bits."""
        return f"{self._bits(bits):0{bits // 4}x}"
