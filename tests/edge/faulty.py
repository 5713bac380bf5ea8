"""The camera that fails by script, as the tests know it: the soak runs with the same one."""

from benchmarks.faulty import Script

__all__ = ["Script"]
