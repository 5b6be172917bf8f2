"""Two models' answers to the same input: how far apart they are, from 0 (the same) to 1 (nothing in common)."""

from collections.abc import Collection, Sequence

import numpy as np

from models.tasks import Floats, Span


def spans_apart(one: Sequence[Span], other: Sequence[Span]) -> float:
    """Return 1 - F1 over the spans that both have, label, start and end alike; 0 where neither found any."""
    first, second = ({(span.label, span.start, span.end) for span in spans} for spans in (one, other))
    if not first and not second:
        return 0.0
    return 1.0 - 2 * len(first & second) / (len(first) + len(second))


def labels_apart(one: Collection[str], other: Collection[str]) -> float:
    """Return 1 - Jaccard's index of what was found; 0 where neither found anything."""
    first, second = set(one), set(other)
    return 1.0 - len(first & second) / len(first | second) if first or second else 0.0


def vectors_apart(one: Floats, other: Floats) -> float | None:
    """Return 1 - cosine of two unit vectors [dimensions], at most 1; None where they lie in spaces of different dimensions.

    It says something of two forms of one model (INT8 and fp32); of two models, each with a space of its own, it does not.
    """
    if one.shape != other.shape:
        return None
    return float(np.clip(1.0 - np.dot(one, other), 0.0, 1.0))
