"""What is measured, all in one place. Base units; a customer is never a label."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from valuetide.scoring.lifetime.evidence_learner import Told
from valuetide.scoring.lifetime.grade import report
from valuetide.scoring.signals import KINDS
from valuetide.streams.pool import Knowledge
from valuetide.streams.store import AlertStep

T = TypeVar("T")

DELAY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0)
STAGE_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
BATCH_BOUNDS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)
PERIOD_NAMES = ("first_weeks", "later")
"""The four weeks after an order, and the time after those."""


class _Children(dict[tuple[str, ...], T]):
    """Children of a metric by labels: to find one costs prometheus-client more than to count."""

    def __init__(self, make: Callable[..., T]) -> None:
        self._make = make

    def __missing__(self, labels: tuple[str, ...]) -> T:
        child = self[labels] = self._make(*labels)
        return child


class ArrayHistogram(Collector):
    """A histogram that takes a whole array at once, at nanoseconds an entry."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name, self._documentation = name, documentation
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def observe_many(self, values: NDArray[np.float64]) -> None:
        """Count values, ``(n,)``, each in the first bucket whose bound is not below it."""
        places = np.searchsorted(self._bounds, values, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())

    def collect(self) -> Iterable[Metric]:
        """Give the histogram in Prometheus' form: cumulative buckets."""
        counts = np.cumsum(self._counts).tolist()
        bounds = [*map(str, self._bounds.tolist()), "+Inf"]
        buckets = [(bound, float(count)) for bound, count in zip(bounds, counts, strict=True)]
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets, self._sum)
        yield family


class ModelCollector(Collector):
    """How good the model's predictions were, lately, by horizon; of all shards, at each worker.

    Parameters
    ----------
    knowledge
        Gives what all shards have learned.
    """

    def __init__(self, knowledge: Callable[[], Knowledge]) -> None:
        self._knowledge = knowledge

    def collect(self) -> Iterable[Metric]:
        """Give the figures of the horizons that have outcomes."""
        knowledge = self._knowledge()
        correction = GaugeMetricFamily(
            "valuetide_model_correction_ratio",
            "What is expected is multiplied with; 1 unless that has proven to help",
        )
        correction.add_metric([], knowledge.factor)
        outcomes = CounterMetricFamily(
            "valuetide_model_outcomes",
            "Predictions of all shards whose outcome is known",
            labels=["horizon"],
        )
        bias = GaugeMetricFamily(
            "valuetide_model_bias_ratio",
            "Predicted less realised, as a share of the realised",
            labels=["horizon", "quantity"],
        )
        slope = GaugeMetricFamily(
            "valuetide_model_calibration_slope",
            "Slope of the regression of realised on predicted, 1 when calibrated",
            labels=["horizon", "quantity"],
        )
        errors = {
            "orders": GaugeMetricFamily(
                "valuetide_model_mae_orders",
                "Mean absolute error of the orders predicted for a customer",
                labels=["horizon"],
            ),
            "revenue": GaugeMetricFamily(
                "valuetide_model_mae_currency",
                "Mean absolute error of the revenue predicted for a customer, base currency",
                labels=["horizon"],
            ),
        }
        coverage = GaugeMetricFamily(
            "valuetide_model_coverage_ratio",
            "Outcomes inside the interval that was given; likely: of customers who may well buy",
            labels=["horizon", "customers"],
        )
        for days, grade in knowledge.grades.items():
            horizon, found = f"{days}d", report(grade.recent)
            outcomes.add_metric([horizon], report(grade.total).outcomes)
            if not grade.cohorts:
                continue
            for name, quality in (("orders", found.orders), ("revenue", found.revenue)):
                bias.add_metric([horizon, name], quality.bias)
                slope.add_metric([horizon, name], quality.slope)
                errors[name].add_metric([horizon], quality.mae)
            coverage.add_metric([horizon, "all"], found.coverage)
            coverage.add_metric([horizon, "likely"], found.likely_coverage)
        return [
            correction,
            outcomes,
            bias,
            slope,
            *errors.values(),
            coverage,
            *_evidence(knowledge.told),
        ]


def _evidence(told: Told | None) -> list[GaugeMetricFamily]:
    """Give what interactions and feedback were found to tell, where that is learned."""
    if told is None:
        return []
    prefix = "valuetide_model_evidence"
    ratio = GaugeMetricFamily(
        f"{prefix}_rate_ratio",
        "Signals of customers who left per signal of others, by estimate; below 1: a sign of life",
        labels=["signal", "period"],
    )
    counts = GaugeMetricFamily(
        f"{prefix}_beyond_doubt",
        "1 for signals whose ratios are beyond doubt: only these count",
        labels=["signal"],
    )
    days = GaugeMetricFamily(
        f"{prefix}_days",
        "Days with a signal between two orders, of the customers in the panels",
        labels=["signal"],
    )
    for nth, kind in enumerate(KINDS):
        counts.add_metric([kind], float(told.beyond_doubt[nth]))
        days.add_metric([kind], float(told.days[nth]))
        for period, log_ratio in zip(PERIOD_NAMES, told.estimate.log_ratio[nth], strict=True):
            ratio.add_metric([kind, period], float(np.exp(log_ratio)))
    others = (
        ("in_force", "1 while scores are made with what signals tell", float(told.in_force)),
        ("gain_nats", "Log probability of outcomes gained by signals, summed", told.gain),
        ("gain_sd_nats", "Standard deviation of that sum by chance alone", told.gain_sd),
        ("purchases", "Purchases that this rests on; old ones count in part", told.buyers),
    )
    gauges = [ratio, counts, days]
    for name, documentation, value in others:
        gauges.append(GaugeMetricFamily(f"{prefix}_{name}", documentation, value=value))
    return gauges


class Metrics:
    """The metrics of one worker, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.events = Counter(
            "valuetide_events",
            "Events read, by topic and by what became of them",
            ["topic", "outcome"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "valuetide_dead_letters",
            "Events rejected, by field at fault",
            ["reason"],
            registry=registry,
        )
        self.batch_events = Histogram(
            "valuetide_batch_events",
            "Events of one micro-batch",
            ["topic"],
            buckets=BATCH_BOUNDS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "valuetide_stage_seconds",
            "Time of one stage of a micro-batch, waiting included",
            ["stage"],
            buckets=STAGE_BOUNDS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "valuetide_commit_seconds",
            "Time until Redis has answered a commit",
            buckets=STAGE_BOUNDS,
            registry=registry,
        )
        self.commits = Counter(
            "valuetide_commits",
            "Commits to Redis: committed, refused, failed",
            ["outcome"],
            registry=registry,
        )
        self.swept_customers = Counter(
            "valuetide_swept_customers",
            "Customers scored again because their score was old",
            registry=registry,
        )
        self.customer_alerts = Counter(
            "valuetide_customer_alerts",
            "Steps of alerts about customers, by rule and reason: fired, resolved, accepted",
            ["rule", "reason"],
            registry=registry,
        )
        self.customer_alerts_untold = Counter(
            "valuetide_customer_alerts_untold",
            "Alerts about customers that were found beyond the budget of their day",
            registry=registry,
        )
        self.recoveries = Counter(
            "valuetide_recoveries",
            "Times a shard went back to its last commit",
            registry=registry,
        )
        self.offset_commits_failed = Counter(
            "valuetide_group_offset_commits_failed",
            "Kafka group offsets that could not be written; they serve lag tools only",
            registry=registry,
        )
        self.alerts = Counter(
            "valuetide_alerts",
            "Steps of alerts about series and producers, by rule and state",
            ["rule", "state"],
            registry=registry,
        )
        self.open_alerts = Gauge(
            "valuetide_open_alerts",
            "Alerts about series and producers that go on; 0 at workers without shard 0",
            registry=registry,
        )
        self.series = Gauge(
            "valuetide_series", "Series that are watched, at the worker of shard 0",
            registry=registry,
        )  # fmt: skip
        self.learning_points = Gauge(
            "valuetide_series_points_needed",
            "Buckets until all series of the whole are past learning",
            registry=registry,
        )
        self.closed_buckets = Counter(
            "valuetide_closed_buckets", "Buckets closed, each a point of every series",
            registry=registry,
        )  # fmt: skip
        self.late_events = Gauge(
            "valuetide_late_events",
            "Events of all shards so far that came after their bucket was closed",
            registry=registry,
        )
        self.watch_lag = Gauge(
            "valuetide_watch_lag_seconds",
            "Event time seen by all shards less the end of the last closed bucket",
            registry=registry,
        )
        self.shards = Gauge("valuetide_shards", "Shards of this worker", registry=registry)
        self.paused_shards = Gauge(
            "valuetide_paused_shards",
            "Shards of this worker that take no events for too many dead letters",
            registry=registry,
        )
        self.customers = Gauge(
            "valuetide_customers_in_memory", "Customers held in memory", registry=registry
        )
        self.webhook_deliveries = Counter(
            "valuetide_webhook_deliveries",
            "Attempts to deliver: delivered, failed (tried again), refused for good",
            ["hook", "outcome"],
            registry=registry,
        )
        self.webhook_given_up = Counter(
            "valuetide_webhook_given_up",
            "Steps of alerts that a webhook will never get",
            ["hook"],
            registry=registry,
        )
        self.webhook_faults = Counter(
            "valuetide_webhook_faults",
            "Times that delivery to a webhook failed by a fault of ours and began again",
            ["hook"],
            registry=registry,
        )
        self.webhook_seconds = Histogram(
            "valuetide_webhook_seconds",
            "Time of one attempt",
            ["hook"],
            buckets=DELAY_BOUNDS,
            registry=registry,
        )
        self._webhook_oldest = Gauge(
            "valuetide_webhook_oldest_seconds",
            "Age of the oldest step that a webhook has not got, 0 where it has all",
            ["hook"],
            registry=registry,
        )
        self._watermark_delay = Gauge(
            "valuetide_watermark_delay_seconds",
            "Wall clock less the largest event time committed, per partition",
            ["partition"],
            registry=registry,
        )
        self.event_delay = ArrayHistogram(
            "valuetide_event_delay_seconds",
            "From an event's production to the commit that contains it",
            DELAY_BOUNDS,
        )
        registry.register(self.event_delay)

        self._stages = _Children(self.stage_seconds.labels)
        self._outcomes = _Children(self.events.labels)
        self._sizes = _Children(self.batch_events.labels)

    def stage(self, name: str, started: float) -> None:
        """Record that a stage, begun at ``time.perf_counter()`` of ``started``, has ended."""
        self._stages[name,].observe(time.perf_counter() - started)

    def batch(self, topic: str, counts: Mapping[str, int]) -> None:
        """Record what became of a topic's events in a batch, by outcome."""
        for outcome, count in counts.items():
            counter = self._outcomes[topic, outcome]
            if count:
                counter.inc(count)
        self._sizes[topic,].observe(sum(counts.values()))

    def alerted(self, steps: Sequence[AlertStep], untold: int) -> None:
        """Count committed steps of alerts about customers, and those found beyond the budget."""
        for step in steps:
            said = msgspec.json.decode(step.text)
            self.customer_alerts.labels(said["rule"], said["reason"]).inc()
        self.customer_alerts_untold.inc(untold)

    def watermark(self, partition: int, delay_seconds: float) -> None:
        """Record how far a partition's watermark is behind the wall clock."""
        self._watermark_delay.labels(str(partition)).set(delay_seconds)

    def watch_webhook(self, hook: str, oldest_seconds: Callable[[], float]) -> None:
        """Have the age of a webhook's oldest step asked for whenever metrics are read."""
        self._webhook_oldest.labels(hook).set_function(oldest_seconds)
        # There, and 0, before the first.
        self.webhook_given_up.labels(hook)
        self.webhook_faults.labels(hook)

    def lost(self, partition: int) -> None:
        """Forget what is measured per partition for one that is no longer ours."""
        labels = (str(partition),)
        if labels in self._watermark_delay._metrics:
            self._watermark_delay.remove(*labels)
