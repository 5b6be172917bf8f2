from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7.times import parse_stamp, resolve

BERLIN = ZoneInfo("Europe/Berlin")
LATER = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "local", "precision"),
    [
        ("2026", datetime(2026, 1, 1), "year"),
        ("202603", datetime(2026, 3, 1), "month"),
        ("20260302", datetime(2026, 3, 2), "day"),
        ("2026030210", datetime(2026, 3, 2, 10), "hour"),
        ("202603021015", datetime(2026, 3, 2, 10, 15), "minute"),
        ("20260302101530", datetime(2026, 3, 2, 10, 15, 30), "second"),
        ("20260302101530.1234", datetime(2026, 3, 2, 10, 15, 30, 123400), "second"),
        ("20160106165800070", datetime(2016, 1, 6, 16, 58, 0, 70000), "second"),  # milliseconds without their point
        ("2026-03-02T10:15:30", datetime(2026, 3, 2, 10, 15, 30), "second"),
        ("202602282400", datetime(2026, 3, 1), "minute"),  # ISO 8601's end of the day
    ],
)
def test_what_a_timestamp_says(text: str, local: datetime, precision: str) -> None:
    stamp = parse_stamp(text)
    assert stamp is not None
    assert (stamp.local, stamp.precision, stamp.offset) == (local, precision, None)


def test_offsets() -> None:
    stamp = parse_stamp("202603021015-0530")
    assert stamp is not None
    assert stamp.offset == timezone(-timedelta(hours=5, minutes=30))
    assert resolve(stamp, BERLIN, LATER) == (datetime(2026, 3, 2, 15, 45, tzinfo=UTC), "")
    for text in ("20260302154500Z", "20260302154500+00:00", "20260302104500.0-0500"):
        assert instant(text, LATER) == (datetime(2026, 3, 2, 15, 45, tzinfo=UTC), "")


@pytest.mark.parametrize(
    "text",
    [
        "not-a-date",
        "20261302",
        "20260230",
        "202603022560",
        "202603022401",
        "99991231240000",
        "20260302101530+1",
        "2026030210153",
        "+0100",
        "20260302+9900",
        "２０２６",
    ],
)
def test_what_is_none_says_so_without_quoting_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"timestamp|calendar") as caught:
        parse_stamp(text)
    assert text not in str(caught.value)


def test_empty_is_none() -> None:
    assert parse_stamp("  ") is None


def instant(text: str, sent: datetime, zone: ZoneInfo = BERLIN) -> tuple[datetime, str]:
    stamp = parse_stamp(text)
    assert stamp is not None
    return resolve(stamp, zone, sent)


def test_zone_in_summer_and_winter() -> None:
    assert instant("202607011200", LATER) == (datetime(2026, 7, 1, 10, tzinfo=UTC), "")
    assert instant("202601011200", LATER) == (datetime(2026, 1, 1, 11, tzinfo=UTC), "")


# Berlin goes back from 03:00 (UTC+2) to 02:00 (UTC+1) on 25 October 2026: 02:30 is 00:30Z and again 01:30Z.
def test_ambiguous_hour_is_the_later_one_that_had_come_when_the_message_was_sent() -> None:
    first, second = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert instant("202610250230", first + timedelta(minutes=1)) == (first, "ambiguous")
    assert instant("202610250230", second + timedelta(minutes=1)) == (second, "ambiguous")
    assert instant("202610250230", second - timedelta(minutes=4)) == (second, "ambiguous")  # a clock that is a little slow
    assert instant("202610250230", LATER) == (second, "ambiguous")


def test_hour_that_never_was() -> None:
    assert instant("202603290230", LATER) == (datetime(2026, 3, 29, 1, 30, tzinfo=UTC), "nonexistent")


def test_the_ends_of_the_calendar() -> None:
    assert instant("00010101", LATER)[0].year == 1
    assert instant("99991231235959", LATER, ZoneInfo("America/New_York"))[0].year == 9999


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "UTC"]),
)
def test_resolving_is_reading_the_wall_clock_back(local: datetime, name: str) -> None:
    local = local.replace(microsecond=0)
    zone = ZoneInfo(name)
    moment, flag = instant(local.strftime("%Y%m%d%H%M%S").rjust(14, "0"), LATER, zone)
    if flag != "nonexistent":
        assert moment.astimezone(zone).replace(tzinfo=None) == local


@given(st.text(max_size=30))
def test_any_text_is_a_timestamp_or_a_value_error(text: str) -> None:
    try:
        stamp = parse_stamp(text)
    except ValueError:
        return
    if stamp:
        resolve(stamp, BERLIN, LATER)
