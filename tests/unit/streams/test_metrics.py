"""What a lane shows to Prometheus."""

from prometheus_client import generate_latest

from streams.metrics import LaneMetrics


def test_a_feed_is_shown_by_the_worker_that_has_its_partition() -> None:
    metrics = LaneMetrics("vitals")

    def shown() -> list[str]:
        return sorted(
            one for one in generate_latest(metrics.registry).decode().split("\n") if one.startswith("vigil_feed_behind")
        )

    metrics.feeds(3, {"EHR": -2.5, "MONITORS": 3665.0})
    metrics.feeds(4, {"EHR": 1.0})
    metrics.feeds(3, {"MONITORS": 3666.0})
    assert shown() == [
        'vigil_feed_behind_seconds{lane="vitals",partition="3",peer="MONITORS"} 3666.0',
        'vigil_feed_behind_seconds{lane="vitals",partition="4",peer="EHR"} 1.0',
    ]
    metrics.feeds(3, {})
    metrics.feeds(4, {})
    assert shown() == []


def test_patients_are_shown_by_the_worker_that_has_their_partition() -> None:
    metrics = LaneMetrics("vitals")

    def shown() -> dict[str, str]:
        lines = generate_latest(metrics.registry).decode().split("\n")
        return dict(one.split(" ") for one in lines if one.startswith("vigil_patients"))

    metrics.patients(3, 10, {"late": 2}, ("late", "age-unknown"))
    metrics.patients(3, 11, {"age-unknown": 1}, ("late", "age-unknown"))
    assert shown() == {
        'vigil_patients_observed{lane="vitals",partition="3"}': "11.0",
        'vigil_patients_cannot_alert{lane="vitals",partition="3",reason="age-unknown"}': "1.0",
        'vigil_patients_cannot_alert{lane="vitals",partition="3",reason="late"}': "0.0",
    }
    metrics.left(3)
    metrics.left(4)
    assert shown() == {}
