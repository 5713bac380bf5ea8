"""What Prometheus reads, parsed by Prometheus' own client."""

import sys

import pytest

import edge
from edge.outputs.metrics import Metrics
from edge.types import Box, Face, FaceState, Result

pytest.importorskip("prometheus_client")
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse


def result(*ids, spent=20.0):
    faces = [Face(i, Box(0, 0, 9, 9), "happy", 0.9, {"happy": 0.9, "sad": 0.1}, FaceState.OK) for i in ids]
    return Result(0, 0, tuple(faces), {"detect": spent / 2, "total": spent})


def read(metrics, accept=""):
    text, media_type = metrics.exposition(accept)
    families = (parse_open if "openmetrics" in media_type else parse)(text.decode())
    return {(sample.name, *sorted(sample.labels.values())): sample.value for f in families for sample in f.samples}


def test_every_number_is_right():
    metrics = Metrics(lambda: {"dropped": 7, "reconnects": 2}, lambda: 0.25, lambda: (3, 11))
    for one in (result(1), result(1, 2, spent=40.0), result()):
        metrics.update(one)
    found = read(metrics)
    assert found["edge_frames_processed_total",] == 3
    assert found["edge_frames_with_face_total",] == 2
    assert found["edge_faces",] == 0
    assert found["edge_faces_seen_total",] == 2
    assert found["edge_labels_total", "happy", "ok"] == 3
    assert found["edge_stage_duration_seconds_count", "total"] == 3
    assert found["edge_stage_duration_seconds_sum", "total"] == pytest.approx(0.080)
    assert found["edge_stage_duration_seconds_bucket", "0.02", "total"] == 2
    assert found["edge_stage_duration_seconds_bucket", "0.05", "total"] == 3
    assert found["edge_frames_dropped_total",] == 7
    assert found["edge_source_reconnects_total",] == 2
    assert not [name for name in found if name[0].startswith("edge_frames_corrupt")], "not told, so not shown"
    assert found["edge_result_age_seconds",] == 0.25
    assert found["edge_preview_clients",] == 3
    assert found["edge_preview_messages_lost_total",] == 11


def test_open_metrics_is_spoken_too():
    metrics = Metrics(dict, lambda: None, lambda: (0, 0))
    metrics.update(result(1))
    found = read(metrics, "application/openmetrics-text; version=1.0.0")
    assert found["edge_frames_processed_total",] == 1
    assert ("edge_result_age_seconds",) not in found, "no result, no age"


def test_two_in_one_process_know_nothing_of_each_other():
    one, other = (Metrics(dict, lambda: None, lambda: (0, 0)) for _ in range(2))
    one.update(result(1))
    assert read(one)["edge_frames_processed_total",] == 1
    assert read(other)["edge_frames_processed_total",] == 0
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("edge_")]


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(edge.MissingPackageError, match=r"prometheus-client .*edge-emotion\[preview\]"):
        Metrics(dict, lambda: None, lambda: (0, 0))
