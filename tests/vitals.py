"""Vital signs for tests of the vitals lane: patients with a course, seeded, and the lane as a process that can be killed."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from processors.events import Observation, Origin, PatientEvent, VitalsEvent
from processors.identity import natural_id

PEER = "test-monitor"


def patient(number: int, at: datetime) -> PatientEvent:
    """An adult on ward A."""
    return PatientEvent(
        id=natural_id("test-patient", number),
        patient_id=f"patient-{number:04d}",
        birth_date="1950-01-01",
        pregnant=False,
        encounter_id=f"encounter-{number}",
        encounter_status="in-progress",
        location={"ward": "A", "room": "1", "bed": str(number)},
        effective_at=at,
        received_at=at,
        origin=Origin(protocol="file", peer=PEER),
    )


def vitals(
    patients: int, sets: int, start: datetime, *, every: timedelta = timedelta(minutes=5), seed: int = 1
) -> Iterator[VitalsEvent]:
    """Sets of all patients in order of time; a third of the patients get worse half-way, some recover."""
    rng = random.Random(seed)
    for step in range(sets):
        at = start + step * every
        for number in range(patients):
            worse = 0.0
            if number % 3 == 0 and step > sets // 3:
                worse = min(1.0, (step - sets // 3) / 4)
                if number % 6 == 0 and step > 2 * sets // 3:
                    worse = max(0.0, 1.0 - (step - 2 * sets // 3) / 4)
            values = {
                "9279-1": (round(16 + 12 * worse + rng.uniform(-1, 1)), "/min"),
                "59408-5": (round(97 - 7 * worse + rng.uniform(-1, 1)), "%"),
                "8480-6": (round(125 - 30 * worse + rng.uniform(-5, 5)), "mm[Hg]"),
                "8462-4": (round(75 - 15 * worse + rng.uniform(-4, 4)), "mm[Hg]"),
                "8867-4": (round(78 + 45 * worse + rng.uniform(-4, 4)), "/min"),
                "8310-5": (round(36.8 + 1.8 * worse + rng.uniform(-0.2, 0.2), 1), "Cel"),
                "3151-8": (4.0 if worse > 0.5 else 0.0, "L/min"),
                "67775-7": ("A", ""),
            }
            yield VitalsEvent(
                id=natural_id("test-vitals", seed, number, step),
                patient_id=f"patient-{number:04d}",
                encounter_id=f"encounter-{number}",
                observed_at=at,
                received_at=at + timedelta(seconds=1),
                observations=tuple(Observation(code=code, value=value, unit=unit) for code, (value, unit) in values.items()),
                origin=Origin(protocol="hl7v2", peer=PEER),
            )


class LaneProcess:
    """A lane as an operator runs it: `vigil lane run NAME`, in a process of its own."""

    def __init__(self, name: str, env: dict[str, str], log: Path, *, command: Sequence[str] = ()) -> None:
        self.name = name
        self._command = list(command) or [sys.executable, "-m", "streams.cli", "lane", "run", name]
        self._env = env
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._env},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)

    def stop(self) -> int:
        """SIGTERM, and wait for the exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.terminate()
        return self._process.wait(40)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def wire(events: Sequence[Any]) -> list[tuple[bytes, bytes]]:
    return [(event.patient_id.encode(), event.model_dump_json().encode()) for event in events]
