"""The deterioration model that ships, as a test wants it to behave."""

import time

import numpy as np

from models.tasks import DeteriorationModel, Floats


class Told:
    """The real model, with a note of what it was asked; it fails on a heart rate of 13 and is slow where told so."""

    def __init__(self, model: DeteriorationModel, *, seconds: float = 0.0) -> None:
        self.identity, self.hours, self.features = model.identity, model.hours, model.features
        self.horizon_hours = model.horizon_hours
        self.rows: list[int] = []
        self.seconds = seconds  # that each run takes longer
        self.beyond = 0.0  # what every score is at least
        self._model = model

    def score(self, windows: Floats) -> Floats:
        self.rows.append(len(windows))
        time.sleep(self.seconds)
        scores = np.maximum(self._model.score(windows), np.float32(self.beyond))
        return np.where((windows[:, -1, 0] == 13), np.float32("nan"), scores)

    def attribute(self, windows: Floats) -> Floats:
        return self._model.attribute(windows)
