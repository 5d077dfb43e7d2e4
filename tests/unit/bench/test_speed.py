import pytest

from bench.speed import BOUNDS, Table, group_formed_at, missed


def test_a_figure_lies_under_its_dotted_key() -> None:
    table = Table()
    table.put("peers.quix.cpu_us_per_event", 12.34567)
    table.put("worker.verified", True)
    assert table.found == {
        "peers": {"quix": {"cpu_us_per_event": 12.346}},
        "worker": {"verified": True},
    }
    assert table.get("peers.quix.cpu_us_per_event") == 12.346
    assert table.get("peers.bytewax.cpu_us_per_event") is None


def test_only_measured_figures_that_break_a_bound_are_named() -> None:
    table = Table()
    table.put("worker.cpu_us_per_event", 10.0)
    table.put("ratios.faust", 39.9)
    table.put("latency_1k.p50_ms", 15.5)
    assert missed(table) == [
        "CPU per event, idiomatic Faust / worker: 39.9, must be >= 40 (ratios.faust)",
        "latency at 1,000 events/s, p50, ms: 15.5, must be <= 15 (latency_1k.p50_ms)",
    ]


def test_every_bound_is_missed_by_the_worst_figure() -> None:
    table = Table()
    for bound in BOUNDS:
        table.put(bound.key, 0.0 if bound.holds(1e9, 0.0) else 1e9)
    assert len(missed(table)) == len(BOUNDS)


def test_the_group_is_formed_when_the_log_says_so_for_the_first_time() -> None:
    lines = [
        "no JSON",
        '{"event": "http interface", "timestamp": "1970-01-01T00:00:05Z"}',
        '{"event": "group formed", "timestamp": "1970-01-01T00:00:07.250000Z"}',
        '{"event": "group formed", "timestamp": "1970-01-01T00:00:09Z"}',
    ]
    assert group_formed_at("\n".join(lines)) == 7.25
    with pytest.raises(AssertionError):
        group_formed_at(lines[1])
