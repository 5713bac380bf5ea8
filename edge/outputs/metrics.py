"""What the loop did, as numbers that Prometheus reads (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from edge.errors import MissingPackageError
from edge.types import Result

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Upper edges of the stages' histograms, seconds: 0.033 is a frame at 30 a second."""

COUNTERS = {
    "dropped": ("edge_frames_dropped", "Frames read but never processed, because newer ones had arrived."),
    "corrupt": ("edge_frames_corrupt", "Frames that could not be decoded and were skipped."),
    "reconnects": ("edge_source_reconnects", "Times the source was lost and opened again."),
    "frozen": ("edge_source_frozen", "Times the source gave the same picture for too long."),
}
"""What the loop counts itself, by the key under which it tells; a key that it does not tell is not shown."""


class Metrics:
    """Counts results. It has a registry of its own: two in one process know nothing of each other.

    Args:
        counters: gives the loop's own counters, by the keys of :data:`COUNTERS`.
        age_s: gives the seconds since the newest result's frame was read, or None before the first.
        clients: gives how many watch, and the messages that slow ones lost.

    Raises:
        MissingPackageError: prometheus-client is not installed.
    """

    def __init__(
        self,
        counters: Callable[[], Mapping[str, int]],
        age_s: Callable[[], float | None],
        clients: Callable[[], tuple[int, int]],
    ) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                "the preview needs prometheus_client; type: pip install starlette uvicorn websockets prometheus-client "
                "(or the extra edge-emotion[preview])"
            ) from error
        self._counters, self._age_s, self._clients = counters, age_s, clients
        self._registry = registry = CollectorRegistry()
        self._frames = Counter("edge_frames_processed", "Frames with a result.", registry=registry)
        self._with_face = Counter("edge_frames_with_face", "Frames with at least one face.", registry=registry)
        self._faces = Gauge("edge_faces", "Faces in the newest result.", registry=registry)
        self._people = Counter("edge_faces_seen", "Faces that were given an id.", registry=registry)
        self._labels = Counter(
            "edge_labels", "Results of a face by label and state.", ["label", "state"], registry=registry
        )
        self._stages = Histogram(
            "edge_stage_duration_seconds",
            "Time that a stage took for one frame; the stage 'total' is the whole pipeline.",
            ["stage"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        registry.register(_Asked(self._ask))
        self._highest_id = 0

    def update(self, result: Result) -> None:
        """Take in one result; any thread, a few microseconds a stage."""
        self._frames.inc()
        self._faces.set(len(result.faces))
        if result.faces:
            self._with_face.inc()
            # Ids count up and are never used again.
            highest = max(face.id for face in result.faces)
            if highest > self._highest_id:
                self._people.inc(highest - self._highest_id)
                self._highest_id = highest
        for face in result.faces:
            self._labels.labels(face.label, face.state.value).inc()
        for stage, spent_ms in result.timings_ms.items():
            self._stages.labels(stage).observe(spent_ms / 1e3)

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Everything as text, and its media type.

        Args:
            accept: the request's Accept header: OpenMetrics or Prometheus' older text format.
        """
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _ask(self) -> Iterator[Metric]:
        """What is known elsewhere is asked for when somebody reads it."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        told = self._counters()
        for key, (name, meaning) in COUNTERS.items():
            if key in told:
                yield CounterMetricFamily(name, meaning, value=told[key])
        age = self._age_s()
        if age is not None:
            yield GaugeMetricFamily("edge_result_age_seconds", "Since the newest result's frame was read.", value=age)
        watching, lost = self._clients()
        yield GaugeMetricFamily("edge_preview_clients", "Open WebSockets.", value=watching)
        yield CounterMetricFamily("edge_preview_messages_lost", "Messages that slow clients never got.", value=lost)


class _Asked:
    """A collector, as the registry wants it: an object that has ``collect``."""

    def __init__(self, ask: Callable[[], Iterator[Metric]]) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        return self._ask()
