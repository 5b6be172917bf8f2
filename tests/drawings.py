"""Drawings of chests, for tests of image models: dark lungs, and in one of them a white patch."""

import numpy as np
from numpy.typing import NDArray


def drawing(*, opaque: bool, seed: int) -> NDArray[np.uint8]:
    """Draw a chest of 64 x 64 pixels, 8-bit grey; the same seed gives the same."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:1:64j, 0:1:64j]
    body = 190 - 150 * (np.exp(-(((x - 0.3) / 0.12) ** 2 + ((y - 0.5) / 0.3) ** 2)))
    body -= 150 * np.exp(-(((x - 0.7) / 0.12) ** 2 + ((y - 0.5) / 0.3) ** 2))
    if opaque:
        left, low = random.choice([0.3, 0.7]), random.uniform(0.4, 0.65)
        body += 140 * np.exp(-(((x - left) / 0.1) ** 2 + ((y - low) / 0.12) ** 2))
    return np.clip(body + random.normal(0, 5, body.shape), 0, 255).astype(np.uint8)
