"""What the lanes ask of a model, by task: the slots that every runtime fills in.

Processors depend on these protocols and never on a runtime, so ONNX Runtime, torch and a site's own model are exchangeable by
a line in the registry. Calls are synchronous and may take long: `models.batching` runs them off the event loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answered: stamped on every output. `digest` is the SHA-256 (hex) over the digests of all its files."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class Span:
    """One entity in a text: `text[start:end]` in characters of the text as given; `score` in [0, 1]."""

    label: str
    start: int
    end: int
    score: float


@runtime_checkable
class Model(Protocol):
    """What every model has."""

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and digest, for the outputs."""
        ...


@runtime_checkable
class TokenClassifier(Model, Protocol):
    """Named entities. Texts of any length: a model windows long ones itself (overlapping) and merges the spans."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label that `find` can return."""
        ...

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """Return the spans of each text, sorted by start, in characters of that text."""
        ...

    def cost(self, text: str) -> int:
        """Tell the work a text means (tokens), so that batches can be made of like lengths."""
        ...


@runtime_checkable
class TextEmbedder(Model, Protocol):
    """Text into one space. `limit` is the most tokens one text may have; longer text must be chunked, never cut."""

    dimensions: int
    limit: int

    def embed(self, texts: Sequence[str]) -> Floats:
        """Return [len(texts), dimensions] float32 rows of unit length. A text over `limit` raises `Poison`."""
        ...

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the character span of each token, without special tokens and without cutting: what a chunker cuts by."""
        ...


@runtime_checkable
class ImageTextModel(Model, Protocol):
    """Images and texts into one space (CLIP style)."""

    dimensions: int
    labels: tuple[str, ...]  # the findings that its prompts ask for
    thresholds: Mapping[str, float]  # lowest score per label that counts as found

    def embed_images(self, images: Sequence[NDArray[np.uint8]]) -> Floats:
        """Embed 8-bit greyscale [h, w] or RGB [h, w, 3] images: [len(images), dimensions] float32, unit length."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Embed texts: [len(texts), dimensions] float32, unit length."""
        ...

    def classify(self, embeddings: Floats) -> Floats:
        """Return calibrated scores in [0, 1], [len(embeddings), len(labels)] float32, by the configured label prompts."""
        ...


@runtime_checkable
class DeteriorationModel(Model, Protocol):
    """Hourly vital signs into the probability of deterioration within `horizon_hours`.

    Results must not depend on what else is in the batch (bit for bit): a rerun after a crash batches otherwise.
    """

    hours: int  # rows of the window, newest last
    features: tuple[str, ...]  # columns: names as in `processors.deterioration`; NaN = not measured in that hour
    horizon_hours: int

    def score(self, windows: Floats) -> Floats:
        """Score [n, hours, len(features)] raw values in UCUM units, NaN where missing: [n] float32 in [0, 1]."""
        ...

    def attribute(self, windows: Floats) -> Floats:
        """Say what drove each score: [n, len(features)] float32, signed, largest magnitude = strongest driver."""
        ...


@runtime_checkable
class HomeModel(Model, Protocol):
    """Days of home monitoring into the probability of deterioration within `horizon_days`."""

    days: int  # rows of the window, newest last
    features: tuple[str, ...]  # columns: names as in `models.runtimes.home`; NaN = not reported that day
    horizon_days: int

    def score(self, windows: Floats) -> Floats:
        """Score [n, days, len(features)] raw values, NaN where missing: [n] float32 in [0, 1]."""
        ...

    def attribute(self, windows: Floats) -> Floats:
        """Say what drove each score: [n, len(features)] float32, signed."""
        ...

    def attribute_days(self, windows: Floats) -> Floats:
        """Say which day's values drove each score: [n, days, len(features)] float32, signed."""
        ...
