"""The parts of a delivery without a broker: signatures, what answers mean, settings, and the courier's patience."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from connectors.deliver.acknowledgement import judge_hl7, judge_http, retry_after
from connectors.deliver.errors import Refused, Unavailable
from connectors.deliver.notice import Notice
from connectors.deliver.pcd import message_of
from connectors.deliver.risk import assessments_of
from connectors.deliver.settings import PcdSettings, ReceiverSettings, WebhookSettings
from connectors.deliver.signing import key_of, sign, verified
from connectors.fhir.structure import validate
from connectors.hl7.message import parse
from processors.events import Location, RefusedReading, ScoreEvent
from processors.examples import EXAMPLES
from streams.courier import Courier, Way
from streams.delivering import tell_test
from streams.settings import Settings
from tests.deliveries import alert
from tests.receiver import HttpReceiver

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_a_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's reference libraries."""
    headers = sign([key_of(SECRET)], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_is_believed_by_either_secret_within_the_window_and_unchanged() -> None:
    old, new = key_of("an old secret, long enough"), key_of(SECRET)
    headers = sign([new, old], "id", 1000, b"body")
    for keys in ([old], [new], [old, new]):
        assert verified(keys, headers, b"body", now=1200, tolerance=300) == ""
    assert verified([new], headers, b"bodY", now=1000, tolerance=300) == "no signature is right"
    assert verified([new], {**headers, "webhook-id": "other"}, b"body", now=1000, tolerance=300) == "no signature is right"
    assert verified([new], headers, b"body", now=1301, tolerance=300) == "the timestamp is outside the window"
    assert verified([new], {}, b"body", now=1000, tolerance=300) == "a signature header is missing"


@pytest.mark.parametrize("secret", ["Zq7", "whsec_!!!", "whsec_c2hvcnQ="])
def test_a_secret_that_could_be_guessed_is_refused(secret: str) -> None:
    with pytest.raises(ValidationError) as caught:
        WebhookSettings(kind="webhook", url="https://r.example/x", secret=secret)
    assert secret not in str(caught.value.errors(include_input=False))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 413, 422, 301, 302])
def test_what_can_never_succeed_is_a_refusal(status: int) -> None:
    with pytest.raises(Refused):
        judge_http(status, {}, NOW)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_succeed_later_is_tried_again(status: int) -> None:
    with pytest.raises(Unavailable) as caught:
        judge_http(status, {"retry-after": "7"}, NOW)
    assert caught.value.retry_after == (7.0 if status in (429, 503) else None)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("Thu, 01 Jan 2026 12:01:00 GMT", NOW) == 60
    assert retry_after("Thu, 01 Jan 2026 11:00:00 GMT", NOW) == 0
    assert retry_after("soon", NOW) is None


@pytest.mark.parametrize(
    ("code", "error"), [("AE", Unavailable), ("CE", Unavailable), ("", Unavailable), ("AR", Refused), ("CR", Refused)]
)
def test_hl7_answers(code: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        judge_hl7(code)
    judge_hl7("AA")
    judge_hl7("CA")


@pytest.mark.parametrize("url", ["http://elsewhere.example/", "ftp://127.0.0.1/", "https://u:p@r.example/", "nothing"])
def test_alerts_go_to_no_open_or_odd_address(url: str) -> None:
    with pytest.raises(ValidationError):
        WebhookSettings(kind="webhook", url=url, secret=SECRET)
    if url.startswith("http:"):
        assert WebhookSettings(kind="webhook", url=url, secret=SECRET, plain_http=True).url == url


@pytest.mark.parametrize("fallbacks", [{"a": "b", "b": "a"}, {"a": "a"}, {"a": "c", "b": ""}])
def test_fallbacks_that_lead_nowhere_are_refused_at_start(fallbacks: dict[str, str]) -> None:
    own = {"kind": "webhook", "url": "https://r.example/", "secret": SECRET}
    with pytest.raises(ValidationError, match="fall"):
        Settings(deliver={name: own | {"fallback": other} for name, other in fallbacks.items()})


def test_a_title_with_delimiters_stays_one_field_and_a_test_is_test_traffic() -> None:
    one = alert("p", title="NEWS2 | 7 ^ & ~ \\ \r\nOBX|9", at=NOW)
    message = parse(message_of(Notice("test", one.id, NOW, one), PcdSettings(kind="pcd04", host="h", port=1)))
    assert [segment.name for segment in message.segments] == ["MSH", "PID", "PV1", "OBR", *["OBX"] * 8, "NTE"]
    assert message.header.get(11) == "T"
    text = [segment.get(5) for segment in message.all("OBX")][7]
    assert text == "TEST, no patient: NEWS2 | 7 ^ & ~ \\   OBX|9"


def test_the_hospital_goes_with_the_ward() -> None:
    one = alert("p", at=NOW, location=Location(ward="ICU", bed="1", facility="NORTH"))
    message = parse(message_of(Notice("step", one.id, NOW, one), PcdSettings(kind="pcd04", host="h", port=1)))
    assert [segment.raw(3) for segment in message.all("PV1")] == ["ICU^^1^NORTH"]


def test_a_score_is_a_risk_assessment_for_each_method_that_gave_one() -> None:
    score = next(one for one in EXAMPLES if isinstance(one, ScoreEvent))
    news2, model = assessments_of(score)
    assert all(validate(one) == [] for one in (news2, model))
    assert news2["prediction"][0]["qualitativeRisk"]["coding"][0]["code"] == "high"
    assert news2["prediction"][0]["rationale"].startswith("NEWS2 7: respiratory_rate 26.0 /min (3)")
    assert model["prediction"][0]["probabilityDecimal"] == 0.31
    assert model["prediction"][0]["outcome"]["text"].endswith("within 6 h")
    assert {one["subject"]["identifier"]["value"] for one in (news2, model)} == {score.patient_id}
    assert len({one["identifier"][0]["value"] for one in (news2, model)}) == 2
    assert "meta" not in news2


def test_what_is_not_known_is_said_and_what_was_not_computed_is_no_low_risk() -> None:
    score = next(one for one in EXAMPLES if isinstance(one, ScoreEvent))
    assert score.news2 is not None
    partial = score.news2.model_copy(update={"at_least": True, "missing": ("temperature",)})
    [news2] = assessments_of(score.model_copy(update={"news2": partial, "deterioration": None, "processing": "training"}))
    assert news2["status"] == "preliminary"
    assert "at least 7" in news2["prediction"][0]["rationale"]
    assert "missing: temperature" in news2["prediction"][0]["rationale"]
    assert news2["meta"]["tag"][0]["code"] == "HTEST"
    assert assessments_of(score.model_copy(update={"news2": None, "deterioration": None})) == []


def test_what_was_not_believed_is_said_and_a_score_by_a_context_names_no_set() -> None:
    score = next(one for one in EXAMPLES if isinstance(one, ScoreEvent))
    assert score.news2 is not None
    one = RefusedReading(name="spo2", reason="impossible: 0 % is outside 1-100", observed_at=NOW)
    doubted = score.news2.model_copy(update={"at_least": True, "missing": ("spo2",), "refused": (one,)})
    source = score.source.model_copy(update={"topic": "clinical.patients"})
    update = {"news2": doubted, "deterioration": None, "source": source}
    [told] = assessments_of(score.model_copy(update=update))
    assert told["prediction"][0]["rationale"].endswith("spo2 could not be used: impossible: 0 % is outside 1-100")
    assert validate(told) == [] and "basis" not in told and "basis" in assessments_of(score)[0]


def test_scores_and_alerts_do_not_stand_in_for_each_other() -> None:
    risk = {"kind": "fhir-scores", "url": "https://r.example/fhir"}
    hook = {"kind": "webhook", "url": "https://r.example/", "secret": SECRET}
    with pytest.raises(ValidationError, match="stand in"):
        Settings(deliver={"risk": risk | {"fallback": "hook"}, "hook": hook})
    with pytest.raises(ValidationError, match="all scores"):
        Settings(deliver={"risk": risk | {"wards": ["W1"]}})


class Scripted:
    """A receiver that does what it is told, one item a time; None confirms."""

    def __init__(self, *script: Exception | None) -> None:
        self.script = [*script]
        self.told: list[Notice] = []

    async def send(self, notice: Notice) -> None:
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        self.told.append(notice)

    async def close(self) -> None:
        return


class Waits:
    """Notes how long it was asked to wait, and does not."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def wait(self, reason: str, seconds: float) -> None:
        self.seconds.append(seconds)


def courier(*receivers: Scripted, **settings: float) -> Courier:
    ways: Sequence[Way] = [
        Way(f"r{n}", ReceiverSettings(**settings), one, asyncio.Semaphore(1)) for n, one in enumerate(receivers)
    ]
    return Courier(ways, lambda: NOW)


def make(now: datetime, instead_of: str) -> Notice:
    return Notice("silence", "id", now, instead_of=instead_of, since=now)


async def test_pauses_double_up_to_their_limit() -> None:
    waits = Waits()
    receiver = Scripted(*[Unavailable("down")] * 8)
    done = await courier(receiver, backoff_first=1, backoff_most=8).deliver(make, waits)
    assert done.by == "r0"
    assert done.refusals == ()
    limits = [1, 2, 4, 8, 8, 8, 8, 8]
    assert all(limit / 2 <= one <= limit for one, limit in zip(waits.seconds, limits, strict=True))


async def test_a_refusal_is_tried_a_few_times_and_then_the_fallback_is_told() -> None:
    first, second = Scripted(*[Refused("no")] * 9), Scripted(Unavailable("busy"))
    done = await courier(first, second, refused_tries=3).deliver(make, Waits())
    assert done.by == "r1"
    assert [name for name, _ in done.refusals] == ["r0"]
    assert len(first.script) == 6
    assert [one.instead_of for one in second.told] == ["r0"]


async def test_when_all_refuse_the_caller_hears_of_all() -> None:
    done = await courier(Scripted(*[Refused("no")] * 9), Scripted(*[Refused("no")] * 9)).deliver(make, Waits())
    assert done.by == ""
    assert [name for name, _ in done.refusals] == ["r0", "r1"]


async def test_silence_passes_to_the_fallback_only_after_its_time() -> None:
    first, second = Scripted(*[Unavailable("down")] * 3), Scripted()
    assert (await courier(first, second, silent_after=3600).deliver(make, Waits())).by == "r0"
    first, second = Scripted(*[Unavailable("down")] * 3), Scripted()
    assert (await courier(first, second, silent_after=1e-9).deliver(make, Waits())).by == "r1"


async def test_our_own_fault_reaches_the_fallback_too() -> None:
    done = await courier(Scripted(*[KeyError("Mr. Smith")] * 9), Scripted()).deliver(make, Waits())
    assert done.by == "r1"
    assert "Smith" not in str(done.refusals[0][1])


async def test_a_receiver_of_scores_can_be_tried_too() -> None:
    async with HttpReceiver(status=201) as server:
        settings = Settings(deliver={"risk": {"kind": "fhir-scores", "url": server.url.removesuffix("/alerts") + "/fhir"}})
        trouble, _, _ = await tell_test(settings, "risk")
    assert trouble == ""
    [(status, told)] = server.seen
    assert (status, told["path"], told["resourceType"]) == (201, "/fhir/RiskAssessment", "RiskAssessment")
    assert told["meta"]["tag"][0]["code"] == "HTEST"
