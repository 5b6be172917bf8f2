"""Trouble that is no patient's: monitoring was blind for a while, a feed stopped, or all that it brings is too old to alert.

Alerts of the partition itself.

They inform; they page nobody, and they resolve nothing but themselves.
"""

from datetime import timedelta

from processors.alerts import Alert, hours_and_minutes, retracted
from processors.events import AlertEvent, AlertKind, AlertState, FeedbackEvent, Source
from processors.identity import natural_id
from processors.partition import Feed, Partition
from processors.patients import when
from processors.rules import MonitorRules

_MS = timedelta(milliseconds=1)
_BLIND: AlertKind = "monitoring-blind"
_GONE = "taken for out of service until it is heard again"
_LASTING = 600_000  # ms for which a feed is late before it is told: most queues have drained by then


class Outages:
    """Watches one partition's logged time and feeds. Times are milliseconds since 1970."""

    def __init__(self, rules: MonitorRules, partition: Partition) -> None:
        self._rules = rules
        self._partition = partition
        self._tolerance = rules.future_tolerance // _MS
        self._staleness = rules.staleness // _MS
        self._out_of_service = rules.feed_silence.out_of_service // _MS

    def wake(self, before: int | None, now: int, source: Source) -> list[AlertEvent]:
        """Notice a gap in logged time; and later, that the backlog is through. One notice tells from when to when."""
        state = self._partition
        steps: list[AlertEvent] = []
        if before is not None and now - before > self._rules.blind_after // _MS:
            if _BLIND in state.alerts:  # a second outage before the first was caught up with
                steps.append(self._end(_BLIND, "another outage followed", now, source))
            alert = self._open(_BLIND, _BLIND, now)
            alert.since, alert.until = before, now
            state.woke_at, state.caught_up, state.backlog_at, state.late = now, False, None, 0
            reason = f"no logged time for {hours_and_minutes(now - before)}"
            steps.append(self._step(alert, "raised", reason, now, source))
        elif state.woke_at is not None and (how := self._through(now)):
            state.woke_at = None
            if _BLIND in state.alerts:
                steps.append(self._end(_BLIND, f"{how}; {state.late} older sets went to history", now, source))
        return steps

    def _through(self, now: int) -> str:
        """Say how the backlog ended: a set of after the outage came, or none of before it for a while, or it was given up."""
        state, rules = self._partition, self._rules
        assert state.woke_at is not None
        if state.caught_up or now - max(state.woke_at, state.backlog_at or 0) >= rules.catch_up // _MS:
            return "caught up"
        if (waited := now - state.woke_at) >= rules.catch_up_most // _MS:
            return f"not caught up: given up after {hours_and_minutes(waited)}, while sets of before it still come"
        return ""

    def set_back(self, now: int, by: int, source: Source) -> list[AlertEvent]:
        """End the catch-up that an outage of the time to come began: the clock was wrong, then or now."""
        state = self._partition
        if state.woke_at is None or state.woke_at <= now or _BLIND not in state.alerts:
            return []
        reason = f"logged time was set back by {hours_and_minutes(by)}: there may have been no outage"
        return [self._end(_BLIND, reason, now, source)]

    def feeds(self, now: int, source: Source) -> list[AlertEvent]:
        """Say which peers stopped, or bring sets that are too old to alert, and which are back or stopped for good."""
        state, rules = self._partition, self._rules.feed_silence
        steps = self._gone(now, source)
        for peer in sorted(state.feeds):
            feed, key = state.feeds[peer], f"feed-stopped:{peer}"
            if feed.last > now + self._tolerance:  # by a clock that was wrong: it must not look alive until then
                feed.last, feed.began = now, min(feed.began, now)
            stopped = now - feed.last > feed.limit(peer, rules)
            if stopped and key not in state.alerts:
                alert = self._open(key, "feed-stopped", now)
                alert.since, alert.until, alert.about = feed.last, now, peer
                steps.append(self._step(alert, "raised", "nothing received", now, source))
            elif not stopped and key in state.alerts:
                steps.append(self._end(key, "receiving again", now, source))
            steps += self._late(peer, feed, now, source)
        return steps

    def _gone(self, now: int, source: Source) -> list[AlertEvent]:
        """Forget the feeds whose silence was told so long ago that they must have been renamed or taken out of service."""
        state = self._partition
        steps: list[AlertEvent] = []
        for key in sorted(key for key, alert in state.alerts.items() if alert.kind == "feed-stopped"):
            alert = state.alerts[key]
            told, feed = alert.until or alert.since, state.feeds.get(alert.about)  # snapshots of before lack the former
            if now - told < self._out_of_service or (feed is not None and feed.last > told):
                continue
            state.feeds.pop(alert.about, None)
            for ended in (key, f"feed-late:{alert.about}"):
                if ended in state.alerts:
                    steps.append(self._end(ended, _GONE, now, source))
        return steps

    def _late(self, peer: str, feed: Feed, now: int, source: Source) -> list[AlertEvent]:
        key, behind = f"feed-late:{peer}", feed.behind
        if behind is None or behind <= self._staleness:
            feed.late_since = None
            return [self._end(key, "its sets come in time again", now, source)] if key in self._partition.alerts else []
        if feed.late_since is None or feed.late_since > now:
            feed.late_since = now
        if key in self._partition.alerts or now - feed.late_since < _LASTING or feed.lags[-1] <= self._staleness:
            return []
        alert = self._open(key, "feed-late", now)
        alert.since, alert.until, alert.about = feed.late_since, behind, peer
        return [self._step(alert, "raised", f"sets older than {hours_and_minutes(self._staleness)} are history", now, source)]

    def answer(self, event: FeedbackEvent, now: int, source: Source) -> list[AlertEvent] | None:
        """Take an answer; None when it fits nothing. The alert stands until its cause ends: it is never raised anew meanwhile."""
        alert = next((one for one in self._partition.alerts.values() if one.id == event.target_id), None)
        if alert is not None and event.sequence is not None and event.sequence > alert.sequence:  # nobody was told such a step
            return None
        if event.kind == "alert-answer-retracted":
            if alert is None or alert.state not in ("acknowledged", "declined"):
                return None
            return [self._step(alert, "updated", retracted(event.reason), now, source, by=event.by)]
        state: AlertState = "acknowledged" if event.kind == "alert-acknowledged" else "declined"
        if alert is None or alert.state == state:
            return None
        return [self._step(alert, state, event.reason, now, source, by=event.by)]

    def _open(self, key: str, kind: AlertKind, now: int) -> Alert:
        alert = Alert(natural_id("alert", self._partition.id, key, self._partition.stamp(now)), kind, "information")
        alert.route = self._rules.default_route
        alert.routes = (alert.route,)
        self._partition.alerts[key] = alert
        return alert

    def _end(self, key: str, reason: str, now: int, source: Source) -> AlertEvent:
        return self._step(self._partition.alerts.pop(key), "resolved", reason, now, source)

    def _step(self, alert: Alert, state: AlertState, reason: str, now: int, source: Source, *, by: str = "") -> AlertEvent:
        alert.state = state
        alert.sequence += 1
        alert.route = self._rules.default_route  # it may be another since
        if alert.route not in alert.routes:
            alert.routes += (alert.route,)
        if alert.kind == _BLIND:
            span = f"{when(alert.since):%Y-%m-%d %H:%M} to {when(alert.until):%Y-%m-%d %H:%M} UTC"
            title = f"Monitoring was blind for {hours_and_minutes(alert.until - alert.since)}"
            detail = f"From {span} nothing was scored here. Older sets go to history; only current states alert."
        elif alert.kind == "feed-late":
            title = f"Feed {alert.about}: sets come {hours_and_minutes(alert.until)} after their own time"
            means = (
                f"It is {_GONE}."
                if reason == _GONE
                else "They come in time again."
                if state == "resolved"
                else "So old they never alert: its patients are not watched. Its clock or zone is wrong, or it sends with delay."
            )
            detail = f"The middle one of its last sets, since {when(alert.since):%Y-%m-%d %H:%M} UTC. {means}"
        else:
            title = f"Feed {alert.about} silent for {hours_and_minutes(now - alert.since)}"
            means = (
                f"It is {_GONE}."
                if reason == _GONE
                else "Receiving again."
                if state == "resolved"
                else "Its patients may be unwatched; this resolves no alert. Still silent "
                f"{hours_and_minutes(self._out_of_service)} after this was told, it is {_GONE}."
            )
            detail = f"Last received {when(alert.since):%Y-%m-%d %H:%M} UTC. {means}"
        return AlertEvent(
            id=natural_id(alert.id, alert.sequence),
            patient_id=self._partition.id,
            source=source,
            alert_id=alert.id,
            sequence=alert.sequence,
            kind=alert.kind,
            state=state,
            severity=alert.severity,
            title=title,
            detail=detail,
            reason=reason,
            route=alert.route,
            routes=alert.routes,
            observed_at=when(alert.since),
            received_at=when(alert.since),
            decided_at=when(now),
            by=by,
            peer=alert.about,
        )
