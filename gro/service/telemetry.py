"""What the guard tells of itself: metrics for Prometheus and OpenTelemetry, and a span for each request.

Every count is kept once, in a Prometheus registry that belongs to the :class:`Telemetry`. OpenTelemetry reads the same
registry when it collects, so that both always say the same; only histograms, which it cannot read, are recorded twice.
Without an OpenTelemetry SDK all of its part does nothing. No metric is labelled by what callers choose, such as their
accounts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from gro.service.core import Refused
from gro.service.lines import text

SCOPE: Final = "gro.service"
OVERHEAD: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05)
"""Buckets of the guard's overhead, in seconds."""
SCORES: Final = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 50.0)
"""Buckets of scores, in standard deviations."""
CODES: Final = 100
"""Codes of refusals that are told apart; those that come later are counted as ``other``."""


class Telemetry:
    """Counts, measures and traces.

    Attributes:
        registry: the metrics, for an exporter other than :meth:`exposition`.
    """

    def __init__(
        self,
        *,
        tracers: TracerProvider | None = None,
        meters: MeterProvider | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Begin at zero.

        Args:
            tracers: of OpenTelemetry; unset is the application's.
            meters: likewise.
            timer: seconds, of which only differences count.
        """
        self.registry = CollectorRegistry()
        self._tracer = trace.get_tracer(SCOPE, tracer_provider=tracers)
        self._meter = metrics.get_meter(SCOPE, meter_provider=meters)
        self._timer = timer
        self._codes: set[str] = set()
        self._requests = self._counter("requests", "Requests, by what became of them.", "outcome")
        self._calls = self._counter("calls", "Calls that were answered: one history in, one list out.")
        self._entries = self._counter("entries", "List entries that were answered.")
        self._refusals = self._counter("refusals", "Requests that were refused, by the code of the refusal.", "code")
        self._alarms = self._counter("alarms", "Alarms of the monitor: accounts that it found unlike people.")
        self._transitions = self._counter("transitions", "Changes of what is done to accounts, by new state.", "state")
        self._audit_failures = self._counter("audit_failures", "Entries that the audit log could not take.")
        self._lost = self._counter("lines_lost", "Lines of logs that were lost.", "log")
        self._watched = self._gauge("accounts_watched", "Accounts that the monitor remembers.")
        self._degraded = self._gauge("store_degraded", "Whether the store of limits does not answer.")
        self._overhead = self._histogram(
            "overhead", "Time of a request beyond the ranking service's.", OVERHEAD, "seconds"
        )
        self._scores = self._histogram("score", "Scores of accounts after each call.", SCORES)

    @contextmanager
    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Iterator[Traced]:
        """Trace and measure a request; what leaves the block says what became of it.

        It was refused where :class:`Refused` was raised, abandoned where the task was cancelled, failed where another
        error was raised or nobody said :meth:`Traced.answered`.

        Args:
            method: of HTTP.
            path: of the URL, or of its route where the path itself would name an account; never the query.
            headers: in which to look for the caller's trace (W3C Trace Context), where callers are trusted to choose
                it; without them the span belongs to what is being traced now.
        """
        parent = None if headers is None else TraceContextTextMapPropagator().extract(headers)
        kind = SpanKind.INTERNAL if headers is None else SpanKind.SERVER
        asked = {"http.request.method": text(method), "url.path": text(path)}
        with self._tracer.start_as_current_span(
            "gro.guard", parent, kind, asked, record_exception=False, set_status_on_exception=False
        ) as span:
            traced = Traced(span, self._timer)
            try:
                yield traced
            except BaseException as error:
                traced.raised(error)
                raise
            finally:
                self._finish(traced)

    def scored(self, score: float, *, alarm: bool) -> None:
        """Count a judgement of the monitor, and whether an alarm of the account begins with it."""
        self._scores(score)
        if alarm:
            self._alarms.inc()

    def transition(self, state: str) -> None:
        """Count a change of what is done to an account, by its new state."""
        self._transitions.labels(state).inc()

    def audit_failed(self) -> None:
        """Count an entry that the audit log could not take."""
        self._audit_failures.inc()

    def lost(self, log: Literal["events", "queries"], lines: int) -> None:
        """Count lines of a log that were lost."""
        self._lost.labels(log).inc(lines)

    def degraded(self, now: bool) -> None:
        """Say whether the store of limits does not answer."""
        self._degraded.set(now)

    def watching(self, accounts: Callable[[], int]) -> None:
        """Say by what to count the accounts that the monitor remembers, whenever somebody looks."""
        self._watched.set_function(accounts)

    def counts(self) -> dict[str, float]:
        """Return every count and gauge, by its name and labels as Prometheus writes them."""
        return {
            "".join((sample.name, *(f'{{{name}="{value}"}}' for name, value in sample.labels.items()))): sample.value
            for family in self.registry.collect()
            if family.type in {"counter", "gauge"}
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Return the metrics in the text format that ``accept``, the header of that name, asks for, and its type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type

    def _finish(self, traced: Traced) -> None:
        self._requests.labels(traced.outcome).inc()
        self._calls.inc(traced.calls)
        self._entries.inc(traced.entries)
        if traced.code:
            self._refusals.labels(self._known(traced.code)).inc()
        self._overhead(traced.finish())

    def _known(self, code: str) -> str:
        if len(self._codes) < CODES:
            self._codes.add(code)
        return code if code in self._codes else "other"

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        counter = Counter(name, about, labels, "gro", registry=self.registry)
        self._meter.create_observable_counter(f"gro.{name}", [partial(_observed, counter)], description=about)
        return counter

    def _gauge(self, name: str, about: str) -> Gauge:
        gauge = Gauge(name, about, namespace="gro", registry=self.registry)
        self._meter.create_observable_gauge(f"gro.{name}", [partial(_observed, gauge)], description=about)
        return gauge

    def _histogram(self, name: str, about: str, buckets: Sequence[float], unit: str = "") -> Callable[[float], None]:
        kept = Histogram(name, about, (), "gro", unit=unit, registry=self.registry, buckets=buckets)
        told = self._meter.create_histogram(f"gro.{name}", unit[:1], about, explicit_bucket_boundaries_advisory=buckets)

        def record(value: float) -> None:
            kept.observe(value)
            told.record(value)

        return record


class Traced:
    """A request that is being traced.

    Attributes:
        outcome: answered, refused, abandoned or failed.
        calls: that were answered.
        entries: of the lists that were answered.
        code: of the refusal; empty where there is none.
    """

    def __init__(self, span: trace.Span, timer: Callable[[], float]) -> None:
        self._span, self._timer = span, timer
        self._begun, self._elsewhere = timer(), 0.0
        self.outcome: Literal["answered", "refused", "abandoned", "failed"] = "failed"
        self.calls = self.entries = self._status = 0
        self.code = ""

    @property
    def trace_id(self) -> str | None:
        """W3C trace id, 32 hexadecimal digits, where there is a trace."""
        context = self._span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else None

    def note(self, **attributes: str | float | bool | Sequence[str]) -> None:
        """Add attributes to the span, under ``gro.``."""
        self._span.set_attributes({f"gro.{name}": value for name, value in attributes.items()})

    @contextmanager
    def ranking(self) -> Iterator[None]:
        """Leave the time of the block, the ranking service's, out of the guard's overhead."""
        begun = self._timer()
        try:
            yield
        finally:
            self._elsewhere += self._timer() - begun

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Count the time of the block, within that of :meth:`ranking`, as the guard's all the same."""
        begun = self._timer()
        try:
            yield
        finally:
            self._elsewhere -= self._timer() - begun

    def answered(self, status: int, calls: int = 0, entries: int = 0) -> None:
        """Say that the request is answered, with so many lists of so many entries in all."""
        self.outcome, self.calls, self.entries, self._status = "answered", calls, entries, status
        self._span.set_attributes({"gro.calls": calls, "gro.entries": entries})

    def raised(self, error: BaseException) -> None:
        """Say that the request ended with an error."""
        self.calls = self.entries = self._status = 0
        if isinstance(error, Refused):
            self.outcome, self.code, self._status = "refused", error.code, error.status
            self._span.set_attribute("gro.refusal", error.code)
        else:
            self.outcome = "abandoned" if isinstance(error, asyncio.CancelledError) else "failed"
            self._span.set_attribute("error.type", type(error).__qualname__)

    def finish(self) -> float:
        """End the measurement and return the guard's overhead in seconds."""
        overhead = self._timer() - self._begun - self._elsewhere
        self._span.set_attributes({"gro.outcome": self.outcome, "gro.overhead_seconds": overhead})
        if self._status:
            self._span.set_attribute("http.response.status_code", self._status)
        if self.outcome == "failed" or self._status >= 500:
            self._span.set_status(StatusCode.ERROR)
        return overhead


def _observed(metric: Counter | Gauge, options: CallbackOptions) -> Iterable[Observation]:
    """What a metric of Prometheus holds, for OpenTelemetry."""
    for family in metric.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                yield Observation(sample.value, sample.labels)
