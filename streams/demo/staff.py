"""The ward's staff: answers most alerts some minutes after they are raised, as an alert consumer's application would."""

import asyncio
import random
from datetime import timedelta
from typing import Any, Self

from processors.events import FeedbackEvent, Origin
from processors.identity import natural_id
from streams.clock import Clock
from streams.outbox import Outbox

_ANSWERED = 0.75  # of the alerts; the others show what an escalation is
_DECLINED = 0.1


class Staff:
    """Reads alerts as they come (`see`) and answers on `clinical.feedback` at the ward's pace. Use as an async context manager."""

    def __init__(self, outbox: Outbox, now: Clock, seed: int) -> None:
        self._outbox = outbox
        self._now = now
        self._random = random.Random(f"staff {seed}")
        self._answering: set[asyncio.Task[None]] = set()
        self._seen: set[str] = set()
        self._here = False

    async def __aenter__(self) -> Self:
        await self._outbox.start()
        self._here = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._here = False
        for task in list(self._answering):
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)
        await self._outbox.stop()

    def see(self, alert: dict[str, Any]) -> None:
        """Take note of an alert; a raised one is answered once, perhaps."""
        if not self._here or alert["state"] != "raised" or alert["alert_id"] in self._seen:
            return
        self._seen.add(alert["alert_id"])
        if self._random.random() > _ANSWERED:
            return
        declined = self._random.random() < _DECLINED
        task = asyncio.create_task(self._answer(alert, declined, timedelta(minutes=self._random.uniform(2, 12))))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, alert: dict[str, Any], declined: bool, after: timedelta) -> None:
        due = self._now() + after
        while self._now() < due:  # noqa: ASYNC110 - the ward's clock is not the loop's
            await asyncio.sleep(0.05)
        at = self._now()
        event = FeedbackEvent(
            id=natural_id("demo-feedback", alert["alert_id"]),
            patient_id=alert["patient_id"],
            kind="alert-declined" if declined else "alert-acknowledged",
            target_id=alert["alert_id"],
            by=f"nurse-{self._random.randint(1, 6)}",
            reason="known, being treated" if declined else "",
            given_at=at,
            received_at=at,
            origin=Origin(protocol="vigil", peer="demo-staff"),
        )
        await self._outbox.send([self._outbox.encode(event)])
