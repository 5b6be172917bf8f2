"""What the demo says became of each input: accounted for, not finished, lost; and how long it waits for it."""

import asyncio
from typing import Any

import orjson
import pytest

from streams.demo.play import Sent
from streams.demo.run import reckon
from streams.demo.watch import Account, Watcher
from streams.settings import Settings


class Record:
    """A record as a consumer gives it."""

    timestamp = 0

    def __init__(self, value: dict[str, Any], partition: int = 0, offset: int = 0) -> None:
        self.value, self.partition, self.offset = orjson.dumps(value), partition, offset


def _note(account: Account, name: str, offset: int) -> Sent:
    origin = {"digest": f"digest-{name}", "message_id": name}
    account.take("clinical.notes", Record({"id": name, "origin": origin}, offset=offset))
    return Sent("mllp", f"note {name}", frozenset({f"digest-{name}"}), accepted=True, answer="AA")


def _done(account: Account, lane: str, *names: str) -> None:
    entries = [{"input_id": name} for name in names]
    body = {"action": "predict", "agent": f"{lane}@demo-0", "subject": "clinical.notes/0", "entries": entries}
    account.take("clinical.audit", Record(body))


@pytest.fixture
def account() -> Account:
    return Account()


def test_what_its_lane_has_yet_to_come_to_is_not_finished(account: Account) -> None:
    sent = [_note(account, name, offset) for offset, name in enumerate("abc")]
    _done(account, "notes-vectors", "a", "b", "c")
    _done(account, "notes-entities", "a")
    committed = {("notes-entities", "clinical.notes", 0): 1, ("notes-vectors", "clinical.notes", 0): 3}
    found = reckon(sent, account, committed)
    assert (found["accepted"], found["accounted"], found["lost"], found["unfinished"]) == (3, 1, 0, 2)
    assert found["unfinished_in"] == {"notes-entities": 2}
    assert found["unaccounted"] == []


def test_what_its_lane_has_passed_without_a_word_is_lost_and_named(account: Account) -> None:
    sent = [_note(account, name, offset) for offset, name in enumerate("abc")]
    _done(account, "notes-vectors", "a", "b", "c")
    _done(account, "notes-entities", "a")
    found = reckon(sent, account, {("notes-entities", "clinical.notes", 0): 2})
    assert (found["lost"], found["unfinished"], found["accounted"]) == (1, 1, 1)
    assert found["unaccounted"] == ["notes-entities b"]


def test_what_was_accepted_and_is_on_no_topic_is_lost_once_all_topics_were_read(account: Account) -> None:
    gone = Sent("fhir", "a Bundle", frozenset({"nowhere"}), accepted=True, answer="201")
    found = reckon([gone], account, {})
    assert (found["lost"], found["unfinished"], found["unaccounted"]) == (1, 0, ["fhir a Bundle"])
    unread = reckon([gone], account, None)
    assert (unread["lost"], unread["unfinished"], unread["unaccounted"]) == (0, 1, [])


def test_what_the_audit_names_and_no_topic_holds_is_lost(account: Account) -> None:
    sent = [_note(account, name, offset) for offset, name in enumerate("ab")]
    _done(account, "notes-vectors", "a", "b")
    entries = [{"input_id": name, "event_id": f"entities-{name}", "outcome": "ok"} for name in "ab"]
    body = {"action": "predict", "agent": "notes-entities@demo-0", "subject": "clinical.notes/0", "entries": entries}
    account.take("clinical.audit", Record(body))
    account.take("clinical.entities", Record({"id": "entities-a"}))
    found = reckon(sent, account, {("notes-entities", "clinical.notes", 0): 2})
    assert (found["lost"], found["accounted"], found["unaccounted"]) == (1, 1, ["notes-entities b"])
    account.take("clinical.entities", Record({"id": "entities-b"}))
    assert reckon(sent, account, {("notes-entities", "clinical.notes", 0): 2})["lost"] == 0


def test_an_audit_that_is_read_before_its_input_has_a_latency_too(account: Account) -> None:
    record = Record(
        {"action": "predict", "agent": "vitals@demo-0", "subject": "clinical.vitals/0", "entries": [{"input_id": "v"}]}
    )
    record.timestamp = 70
    account.take("clinical.audit", record)
    record = Record({"id": "v", "origin": {"digest": "d", "message_id": "m"}})
    record.timestamp = 50
    account.take("clinical.vitals", record)
    assert account.latencies["vitals"] == [20]


@pytest.fixture
def watcher(tmp_path: Any) -> Watcher:
    return Watcher(Settings.model_validate({"objects": {"url": str(tmp_path)}}))


async def test_it_waits_as_long_as_anything_moves(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.demo.watch._NEWS", 0.2)
    said: list[str] = []
    for offset in range(8):
        _note(watcher.account, f"n{offset}", offset)
    _done(watcher.account, "notes-vectors", *(f"n{n}" for n in range(8)))

    async def slowly() -> None:
        for n in range(8):
            await asyncio.sleep(0.3)
            _done(watcher.account, "notes-entities", f"n{n}")

    lane = asyncio.create_task(slowly())
    assert await watcher.settle(said.append, patience=1.0, most=60.0), "longer in all than it may stand still"
    await lane
    assert any("in notes-entities; waiting while it moves, 1 s without, 60 s at most" in line for line in said)


async def test_it_ends_when_nothing_moves_and_when_it_takes_too_long(watcher: Watcher) -> None:
    _note(watcher.account, "stuck", 0)
    began = asyncio.get_running_loop().time()
    assert not await watcher.settle(lambda _: None, patience=0.3, most=60.0)
    assert not await watcher.settle(lambda _: None, patience=60.0, most=0.3)
    assert asyncio.get_running_loop().time() - began < 20
