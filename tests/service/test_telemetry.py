"""Telemetry: what Prometheus and OpenTelemetry are told, read back by their own readers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from gro.service.core import Refused
from gro.service.telemetry import CODES, OVERHEAD, Telemetry

LIMITED = Refused(429, "account_calls_per_day", "too many calls")
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Timer:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def reader() -> InMemoryMetricReader:
    return InMemoryMetricReader()


@pytest.fixture
def telemetry(timer: Timer, spans: InMemorySpanExporter, reader: InMemoryMetricReader) -> Iterator[Telemetry]:
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    yield Telemetry(tracers=tracers, meters=meters, timer=timer)
    meters.shutdown()


def exposed(telemetry: Telemetry) -> dict[tuple[str, str], float]:
    """Samples by name and value of their label."""
    content, _ = telemetry.exposition()
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in prometheus(content.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def collected(reader: InMemoryMetricReader) -> dict[tuple[str, str], float | HistogramDataPoint]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        (metric.name, next((str(value) for value in (point.attributes or {}).values()), "")): (
            point if isinstance(point, HistogramDataPoint) else point.value  # type: ignore[union-attr]
        )
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


def the(spans: InMemorySpanExporter) -> ReadableSpan:
    [span] = spans.get_finished_spans()
    return span


def attributes(spans: InMemorySpanExporter) -> Mapping[str, object]:
    return dict(the(spans).attributes or {})


def test_an_answered_request_is_counted_timed_and_traced(
    telemetry: Telemetry, timer: Timer, spans: InMemorySpanExporter
) -> None:
    with telemetry.request("POST", "/rank") as request:
        timer.now += 0.0003
        with request.ranking():
            timer.now += 2
        timer.now += 0.0004
        request.note(score=3.5)
        request.answered(200, calls=4, entries=40)
        trace_id = request.trace_id
    found = exposed(telemetry)
    assert found["gro_requests_total", "answered"] == 1
    assert found["gro_calls_total", ""] == 4
    assert found["gro_entries_total", ""] == 40
    assert found["gro_overhead_seconds_sum", ""] == pytest.approx(0.0007)
    assert found["gro_overhead_seconds_bucket", "0.0005"] == 0
    assert found["gro_overhead_seconds_bucket", "0.001"] == 1
    assert attributes(spans) == {
        "http.request.method": "POST",
        "url.path": "/rank",
        "http.response.status_code": 200,
        "gro.outcome": "answered",
        "gro.calls": 4,
        "gro.entries": 40,
        "gro.score": 3.5,
        "gro.overhead_seconds": pytest.approx(0.0007),
    }
    assert the(spans).status.status_code is StatusCode.UNSET
    context = the(spans).context
    assert context is not None
    assert trace_id == f"{context.trace_id:032x}"


@pytest.mark.parametrize(
    ("raised", "outcome", "status"),
    [
        (LIMITED, "refused", StatusCode.UNSET),
        (Refused(503, "audit_unavailable", "try again later"), "refused", StatusCode.ERROR),
        (asyncio.CancelledError(), "abandoned", StatusCode.UNSET),
        (ValueError("secret"), "failed", StatusCode.ERROR),
        (None, "failed", StatusCode.ERROR),
    ],
)
def test_what_became_of_other_requests_is_told(
    telemetry: Telemetry,
    spans: InMemorySpanExporter,
    raised: BaseException | None,
    outcome: str,
    status: StatusCode,
) -> None:
    def ask() -> None:
        with telemetry.request("POST", "/rank"):
            if raised:
                raise raised

    if raised:
        with pytest.raises(type(raised)):
            ask()
    else:
        ask()
    found = exposed(telemetry)
    assert found["gro_requests_total", outcome] == 1
    assert found["gro_calls_total", ""] == 0
    assert found["gro_overhead_seconds_count", ""] == 1
    assert the(spans).status.status_code is status
    assert attributes(spans)["gro.outcome"] == outcome
    assert "secret" not in the(spans).to_json()
    if isinstance(raised, Refused):
        assert found["gro_refusals_total", raised.code] == 1
        assert attributes(spans)["http.response.status_code"] == raised.status
        assert attributes(spans)["gro.refusal"] == raised.code


def test_an_answer_that_fails_while_it_is_sent_is_no_answer(telemetry: Telemetry) -> None:
    def answer() -> None:
        with telemetry.request("POST", "/rank") as request:
            request.answered(200, calls=1, entries=10)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        answer()
    assert exposed(telemetry)["gro_requests_total", "failed"] == 1
    assert exposed(telemetry)["gro_entries_total", ""] == 0


def tell_everything(telemetry: Telemetry) -> None:
    telemetry.scored(2.5, alarm=False)
    telemetry.scored(9.0, alarm=True)
    telemetry.transition("throttle")
    telemetry.audit_failed()
    telemetry.lost("events", 7)
    telemetry.degraded(True)
    telemetry.watching(lambda: 12)
    with telemetry.request("POST", "/rank") as request:
        request.answered(200, calls=1, entries=10)


TOLD = {
    ("requests", "answered"): 1,
    ("calls", ""): 1,
    ("entries", ""): 10,
    ("alarms", ""): 1,
    ("transitions", "throttle"): 1,
    ("audit_failures", ""): 1,
    ("lines_lost", "events"): 7,
    ("store_degraded", ""): 1,
    ("accounts_watched", ""): 12,
}


def test_prometheus_and_opentelemetry_are_told_the_same(telemetry: Telemetry, reader: InMemoryMetricReader) -> None:
    tell_everything(telemetry)
    to_prometheus, to_otel = exposed(telemetry), collected(reader)
    for (name, label), value in TOLD.items():
        exposition = f"gro_{name}" if ("gro_" + name, label) in to_prometheus else f"gro_{name}_total"
        assert to_prometheus[exposition, label] == to_otel[f"gro.{name}", label] == value
    for name, total in (("overhead", 0.0), ("score", 11.5)):
        point = to_otel[f"gro.{name}", ""]
        assert isinstance(point, HistogramDataPoint)
        assert point.sum == total
        exposition = "gro_overhead_seconds" if name == "overhead" else "gro_score"
        running = 0
        for bound, many in zip([*point.explicit_bounds, float("inf")], point.bucket_counts, strict=True):
            running += many
            label = "+Inf" if bound == float("inf") else str(bound)
            assert to_prometheus[f"{exposition}_bucket", label] == running


def test_overhead_is_resolved_from_a_tenth_of_a_millisecond_to_fifty() -> None:
    assert (OVERHEAD[0], OVERHEAD[-1]) == (0.0001, 0.05)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4"),
        ("text/html", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_the_exposition_is_what_was_asked_for(telemetry: Telemetry, accept: str, kind: str) -> None:
    tell_everything(telemetry)
    content, content_type = telemetry.exposition(accept)
    assert content_type.startswith(kind)
    parse = openmetrics if "openmetrics" in kind else prometheus
    families = {family.name: family for family in parse(content.decode())}
    assert families["gro_overhead_seconds"].type == "histogram"
    assert families["gro_calls"].type == "counter"
    assert families["gro_store_degraded"].type == "gauge"
    assert all(family.documentation for family in families.values())


def test_the_number_of_series_is_bounded(telemetry: Telemetry) -> None:
    for number in range(CODES + 50):
        with pytest.raises(Refused), telemetry.request("POST", f"/{number}"):
            raise Refused(400, f"code_{number}", "no")
    codes = {label: value for (name, label), value in exposed(telemetry).items() if name == "gro_refusals_total"}
    assert len(codes) == CODES + 1
    assert codes["other"] == 50


def test_telemetries_share_nothing() -> None:
    before = REGISTRY.collect()
    one, other = Telemetry(), Telemetry()
    one.audit_failed()
    assert exposed(other)["gro_audit_failures_total", ""] == 0
    assert {family.name for family in REGISTRY.collect()} == {family.name for family in before}


def test_without_a_sdk_there_is_no_trace_and_every_count() -> None:
    telemetry = Telemetry()
    with telemetry.request("POST", "/rank", {}) as request:
        assert request.trace_id is None
        request.answered(200, calls=1, entries=10)
    tell_everything(telemetry)
    assert exposed(telemetry)["gro_requests_total", "answered"] == 2


def test_the_callers_trace_is_gone_on_with_where_headers_are_given(
    telemetry: Telemetry, spans: InMemorySpanExporter
) -> None:
    with telemetry.request("POST", "/rank", {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}) as request:
        assert request.trace_id == TRACE
        request.answered(200)
    span = the(spans)
    assert span.kind is SpanKind.SERVER
    assert span.parent is not None
    assert span.parent.span_id == 0xB7AD6B7169203331
    spans.clear()
    with telemetry.request("POST", "/rank", {"traceparent": "00-zz"}) as request:
        assert request.trace_id != TRACE
    assert the(spans).parent is None


def test_what_is_traced_within_a_request_belongs_to_it(telemetry: Telemetry, spans: InMemorySpanExporter) -> None:
    async def ask(path: str) -> str | None:
        with telemetry.request("POST", path) as request:
            await asyncio.sleep(0)
            with telemetry.request("GET", "/inner") as inner:
                assert inner.trace_id == request.trace_id
            return request.trace_id

    async def both() -> tuple[str | None, str | None]:
        return await asyncio.gather(ask("/one"), ask("/other"))

    one, other = asyncio.run(both())
    assert one != other
    assert {span.kind for span in spans.get_finished_spans()} == {SpanKind.INTERNAL}


def test_long_paths_are_cut(telemetry: Telemetry, spans: InMemorySpanExporter) -> None:
    with telemetry.request("X" * 10_000, "/" + "\ud800" * 10_000):
        pass
    assert all(len(str(value)) <= 1024 for value in attributes(spans).values())


def test_threads_count_together(telemetry: Telemetry) -> None:
    def ask() -> None:
        for _ in range(200):
            with telemetry.request("POST", "/rank") as request:
                request.answered(200, calls=1, entries=2)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert exposed(telemetry)["gro_entries_total", ""] == 1600
