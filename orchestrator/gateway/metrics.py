"""Prometheus metrics: what the gateway has answered, and the fleet as it is when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from schemas.messages import NodeView, OverviewReply, PipelineAtWork, StreamEnd

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class AnswerMetrics:
    """What this gateway has answered since it started. No request has a label of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "linguabus_http_requests", "HTTP requests that were answered.", ("route", "status"), registry=registry
        )
        self._answers = Counter("linguabus_answers", "Answers by how they ended.", ("outcome",), registry=registry)
        self._prompt = Counter("linguabus_prompt_tokens", "Tokens of prompts that were answered.", registry=registry)
        self._made = Counter("linguabus_tokens_generated", "Tokens of answers.", registry=registry)
        self.open = Gauge("linguabus_answers_open", "Answers that are being made.", registry=registry)
        self._first = Histogram(
            "linguabus_time_to_first_token_seconds", "From a question to its answer's first token.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._next = Histogram(
            "linguabus_time_per_output_token_seconds", "Mean time of an answer's further tokens.",
            buckets=_TOKEN_SECONDS, registry=registry,
        )  # fmt: skip

    def requested(self, route: str, status: int) -> None:
        """Count a request; ``route`` is its pattern, and never what a caller wrote."""
        self._requests.labels(route, str(status)).inc()

    def broken_off(self, *, is_refused: bool) -> None:
        """Count an answer that failed, or that its reader left; a question that is refused never had one."""
        self._answers.labels("refused" if is_refused else "broken_off").inc()

    def ended(self, end: StreamEnd) -> None:
        """Count an answer that came to its end."""
        self._answers.labels(end.finish_reason).inc()
        self._prompt.inc(end.prompt_tokens)
        self._made.inc(end.completion_tokens)
        if end.completion_tokens:
            self._first.observe(end.ttft_s)
        if end.completion_tokens > 1:
            self._next.observe(max(0.0, end.total_s - end.ttft_s) / (end.completion_tokens - 1))

    def text(self, overview: OverviewReply | None) -> bytes:
        """All metrics, with the fleet's; None: no orchestrator has answered."""
        shown = CollectorRegistry()
        shown.register(_Families(fleet_metrics(overview)))
        return generate_latest(self.registry) + generate_latest(shown)


class _Families:
    """Metrics as a collector."""

    def __init__(self, families: Iterator[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> tuple[Metric, ...]:
        """Called when the metrics are written."""
        return self._families

    def describe(self) -> tuple[Metric, ...]:
        """Called when the collector is registered."""
        return ()


def fleet_metrics(overview: OverviewReply | None) -> Iterator[Metric]:
    """The fleet's metrics (pure)."""
    yield GaugeMetricFamily("linguabus_up", "Does an orchestrator answer?", value=float(overview is not None))
    if overview is not None:
        yield from _pipeline_metrics(overview.pipelines)
        yield from _node_metrics(overview.nodes)


def _pipeline_metrics(pipelines: tuple[PipelineAtWork, ...]) -> Iterator[Metric]:
    serving = GaugeMetricFamily("linguabus_pipeline_serving", "Is a plan in force?", labels=("pipeline", "model"))
    open_ = GaugeMetricFamily("linguabus_pipeline_open_requests", "Requests being answered.", labels=("pipeline",))
    queued = GaugeMetricFamily("linguabus_pipeline_queued_requests", "Requests that wait.", labels=("pipeline",))
    rate = GaugeMetricFamily(
        "linguabus_pipeline_tokens_per_second", "Generated over the last seconds.", labels=("pipeline",)
    )
    step = GaugeMetricFamily(
        "linguabus_stage_seconds", "A decode step as observed.", labels=("pipeline", "stage", "node")
    )
    predicted = GaugeMetricFamily(
        "linguabus_stage_predicted_seconds", "A decode step as predicted.", labels=("pipeline", "stage", "node")
    )
    for one in pipelines:
        serving.add_metric((one.pipeline, one.model or ""), float(one.epoch is not None))
        open_.add_metric((one.pipeline,), one.open_requests)
        queued.add_metric((one.pipeline,), one.queued_requests)
        rate.add_metric((one.pipeline,), one.tokens_per_s)
        for number, stage in enumerate(one.stages):
            where = (one.pipeline, str(number), stage.node)
            predicted.add_metric(where, stage.predicted_ms / 1e3)
            if stage.step_ms is not None:
                step.add_metric(where, stage.step_ms / 1e3)
    yield from (serving, open_, queued, rate, step, predicted)


def _node_metrics(nodes: tuple[NodeView, ...]) -> Iterator[Metric]:
    def family(name: str, text: str, value: dict[str, float | None]) -> Metric:
        is_counter = name.endswith("_total")
        kind = CounterMetricFamily if is_counter else GaugeMetricFamily
        made = kind(f"linguabus_node_{name.removesuffix('_total')}", text, labels=("node",))
        for node, number in value.items():
            if number is not None:
                made.add_metric((node,), number)
        return made

    def each(field: str, scale: float = 1.0) -> dict[str, float | None]:
        found = {view.node: getattr(view, field) for view in nodes}
        return {node: None if number is None else float(number) * scale for node, number in found.items()}

    yield family("online", "Can it be used?", {view.node: float(view.state == "online") for view in nodes})
    yield family("battery_ratio", "Charge of its battery.", each("battery_percent", 0.01))
    yield family("charging", "Is it on a charger?", each("charging"))
    yield family("temperature_celsius", "Its hottest sensor.", each("temperature_c"))
    yield family("battery_temperature_celsius", "Its battery's temperature.", each("battery_temperature_c"))
    yield family("cpu_ratio", "Cores that its process uses.", each("cpu_percent", 0.01))
    yield family("resident_bytes", "Resident memory.", each("rss_bytes"))
    yield family("memory_limit_bytes", "Memory that it may use.", each("memory_bytes"))
    yield family("available_bytes", "Memory that its system could still give.", each("available_bytes"))
    yield family("blob_bytes", "Model parts on its disk.", each("blob_bytes"))
    yield family("round_trip_seconds", "A small message to the broker and back.", each("rtt_ms", 1e-3))
    yield family("uptime_seconds", "Since it started.", each("uptime_s"))
    yield family("reconnects_total", "Reconnections to the broker.", each("reconnects"))
    yield family("frames_rejected_total", "Frames that were malformed.", each("frames_rejected"))
    yield family("frames_dropped_total", "Frames that came too late or twice.", each("frames_dropped"))
