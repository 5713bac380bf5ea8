"""Engine latency alone, by pytest-benchmark: ``python -m benchmarks`` runs this file once a round, as a process.

``EDGE_BENCH`` is JSON: ``cases`` (lists of bundle, precision, backend, graph), ``seconds`` (a case) and ``reverse``. By
hand: ``EDGE_BENCH='{"cases": [["face", "int8", "onnxruntime", "window"]]}' python -m pytest benchmarks/micro.py``.
"""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from edge.bundle import WINDOW, Bundle
from edge.engine import Engine, open_engine

ASKED: dict[str, Any] = json.loads(os.environ.get("EDGE_BENCH", "{}"))
CASES = [tuple(case) for case in ASKED.get("cases", ())][:: -1 if ASKED.get("reverse") else 1]
SECONDS = float(ASKED.get("seconds", 1.0))

WARM = 10
"""Runs before the first that counts, at most; SECONDS / 4 of them where they are slow, and two at least."""

MOST, FEWEST = 400, 8
"""Runs that count."""


@lru_cache(maxsize=1)
def engine(bundle: str, precision: str, backend: str) -> Engine:
    """The last engine that was asked for."""
    return open_engine(Bundle.open(bundle), backend, precision)


def inputs(one: Engine, graph: str) -> dict[str, Any]:
    """A real face for a whole network; numbers for the parts, whose work does not depend on them."""
    if graph == WINDOW:
        return one.bundle.window(one.bundle.cases[0])
    generator = np.random.default_rng(0)
    return {spec.name: generator.random(spec.shape, np.float32) for spec in one.manifest.graphs[graph].inputs}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "|".join(case))
def test_engine(benchmark: Any, case: tuple[str, str, str, str]) -> None:
    """One run of one graph at batch 1, checks of the contract included, as each frame pays for them."""
    *which, graph = case
    one = engine(*which)
    given = inputs(one, graph)
    one.run(given, graph)
    begun = time.perf_counter()
    one.run(given, graph)
    once = time.perf_counter() - begun
    rounds = int(min(MOST, max(FEWEST, SECONDS / once)))
    warm = int(min(WARM, max(2, SECONDS / 4 / once)))
    benchmark.extra_info["case"] = list(case)
    benchmark.extra_info["warm_up"] = warm + 2
    benchmark.pedantic(one.run, args=(given, graph), rounds=rounds, warmup_rounds=warm, iterations=1)
