"""``python -m export.to_tensorrt BUNDLE``: on the robot, graphs become TensorRT plans, which prove themselves there.

Needs neither torch nor onnx. Plans go to this machine's cache under a key of all that they depend on; one that is
there is not built again. A build that is killed leaves nothing that looks whole, and the next one goes on after it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edge.arguments import BAD_INPUT, Parser
from edge.bundle import Bundle
from edge.engine.admission import ORDER, Verdict, judge, kept, wanted
from edge.engine.library import library, place
from edge.engine.plans import Key, Plans, key_of
from edge.errors import EdgeError, OptionError
from export.plans_build import build, workspace
from export.plans_inline import inlined

if TYPE_CHECKING:
    from edge.cuda import Device

INTERRUPTED = 130


def to_tensorrt(
    bundle: Bundle,
    device: Device,
    *,
    precisions: Sequence[str] | None = None,
    rebuild: bool = False,
    plans: Plans | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Build what is missing of a bundle's plans, and let them prove themselves.

    Args:
        bundle: opened.
        device: the GPU that they are for.
        precisions: None is what is worth it (:func:`edge.engine.admission.wanted`).
        rebuild: build anew what is there as well.
        plans: None is the user's cache.
        tell: is told what goes on, a line at a time.

    Returns:
        The verdict. A precision that TensorRT would not build is refused there in its words.

    Raises:
        BackendError: TensorRT is not there, or the cache can't be used; or no precision could be built.
        BundleError: a file of the bundle is not what was exported.
    """
    plans, here = plans or Plans(), place(device)
    failed: dict[str, str] = {}
    last: EdgeError | None = None
    chosen = wanted(bundle) if precisions is None else tuple(precisions)
    built = False
    with plans.lock(tell):
        for precision in chosen:
            try:
                for graph in bundle.manifest.running:
                    key = key_of(bundle, graph, precision, here)
                    if not rebuild and (facts := plans.find(key)) is not None:
                        tell(f"{graph} {precision}: there since {facts.built}")
                        continue
                    _build(bundle, key, device, plans, tell)
                    built = True
            except EdgeError as error:
                tell(str(error))
                failed[precision], last = str(error), error
        if last is not None and len(failed) == len(chosen):
            raise last
        verdict = None if built or failed else kept(bundle, here, plans)
        # Under the lock: a build beside would spoil the timings.
        return verdict or judge(bundle, device, plans, failed=failed, tell=tell)


def _build(bundle: Bundle, key: Key, device: Device, plans: Plans, tell: Callable[[str], None]) -> None:
    what = f"{key.graph} {key.precision}"
    model = inlined(bundle.graph(key.graph, key.precision))
    limit = workspace(device.free_memory())
    tell(f"{what}: building for {key.place} with {limit >> 20} MiB to work in; a first build takes minutes")
    with device.doing(f"building {what}"):
        made = build(
            model,
            what,
            key.precision,
            key.place,
            limit=limit,
            timing=plans.timing(key.place),
            tell=tell,
        )
    facts = plans.save(key, made.plan, made.seconds)
    if made.timing is not None:
        plans.save_timing(key.place, made.timing)
    tell(f"{what}: built in {made.seconds:.0f} s, {facts.size / 2**20:.1f} MiB")


def report(verdict: Verdict) -> str:
    """The verdict for people, several lines."""
    rows = "\n".join(f"  {'ok' if row.admitted else 'NO'}  {row}" for row in verdict.rows)
    return f"{verdict}\n{rows}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(prog="python -m export.to_tensorrt", description="Build a bundle's TensorRT plans on this machine.")
    parser.add_argument("bundle", nargs="?", metavar="BUNDLE", help="name or path (default: face)")
    parser.add_argument("--precisions", metavar="P,P,...", help=f"some of {','.join(ORDER)} (default: the fast ones)")
    parser.add_argument("--rebuild", action="store_true", help="build anew what is there as well")
    options = parser.parse_args(arguments)
    begun = time.monotonic()

    def tell(line: str) -> None:
        print(f"[{time.monotonic() - begun:6.1f} s] {line}", file=sys.stderr, flush=True)

    try:
        bundle = Bundle.open(options.bundle)
        precisions = _precisions(bundle, options.precisions)
        library()
        from edge.cuda import Device

        device = Device()
        try:
            verdict = to_tensorrt(bundle, device, precisions=precisions, rebuild=options.rebuild, tell=tell)
        finally:
            device.close()
    except EdgeError as error:
        print(f"to_tensorrt: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("to_tensorrt: interrupted; type the same again to go on", file=sys.stderr)
        return INTERRUPTED
    print(report(verdict))
    return 0


def _precisions(bundle: Bundle, given: str | None) -> tuple[str, ...] | None:
    if given is None:
        return None
    named = tuple(one.strip() for one in given.split(",") if one.strip())
    if not named or (unknown := [one for one in named if one not in bundle.manifest.precisions]):
        there = ", ".join(bundle.manifest.precisions)
        raise OptionError(
            f"--precisions {given!r}: {unknown[0] if named else 'nothing'} is not in this bundle, which has {there}"
        )
    return named


if __name__ == "__main__":
    sys.exit(main())
