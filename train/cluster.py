"""Work over a cluster: Ray starts it, moves the data, and starts again what was lost with its worker."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from edge.errors import EdgeError, MissingPackageError

Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""The signature of ``map`` with one sequence."""

REACH_S = 5.0
"""A cluster that does not take a connection within this time is not there."""

RETRIES = 3
"""How often a fold is started again after its worker died. A fold that raised is not: it would raise again."""


class ClusterError(EdgeError):
    """A cluster that can't be reached, or that lost a fold too often."""


@contextlib.contextmanager
def connected(address: str | None, *, cpus_each: float = 1.0) -> Iterator[Map | None]:
    """A ``map`` over a cluster; None where no address is given. Results come as they are finished, in any order.

    Args:
        address: None, ``auto`` (a cluster that is already running here, else one started on this machine for as long as
            it is needed), or ``HOST:PORT`` of a running cluster's head or client server (``ray://``).
        cpus_each: CPU cores that one fold takes.

    Raises:
        MissingPackageError: Ray is not installed.
        ClusterError: no cluster answers there, or a fold's worker died more than ``RETRIES`` times.
    """
    if address is None:
        yield None
        return
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError("--cluster needs Ray; type: pip install 'edge-emotion[cluster]'") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == "auto":
            try:
                ray.init(address="auto", **quiet)
            except ConnectionError:
                ray.init(include_dashboard=False, **quiet)
        else:
            # Ray itself waits for minutes before it gives up.
            host, _, port = address.rpartition("://")[2].rpartition(":")
            socket.create_connection((host, int(port)), REACH_S).close()
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ClusterError(
            f"no Ray cluster answers at {address} ({reason}); start one with `ray start --head`, or type --cluster auto"
        ) from error

    def spread(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterable[Any]:
        # The function carries the examples: it is sent to each machine once, not once a fold.
        shared = ray.put(function)
        run = ray.remote(_run).options(num_cpus=cpus_each, max_retries=RETRIES, retry_exceptions=False)
        waiting = [run.remote(shared, job) for job in jobs]
        while waiting:
            done, waiting = ray.wait(waiting)
            try:
                yield ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                reason = str(error).strip().splitlines()[-1]
                raise ClusterError(
                    f"a worker can't do its part ({reason}); is this package installed there?"
                ) from error
            except ray.exceptions.RayError as error:
                reason = str(error).splitlines()[0]
                raise ClusterError(
                    f"a worker died {RETRIES + 1} times ({reason}); what was finished is kept: run it again"
                ) from error

    try:
        yield spread
    finally:
        ray.shutdown()


def _run(function: Callable[[Any], Any], job: Any) -> Any:
    return function(job)
