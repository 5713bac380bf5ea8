"""Memory that nobody uses goes back to the system: asked of a process that has only that to do."""

import platform
import subprocess
import sys

import pytest

CHECK = """
import threading
import numpy as np
from edge.allocator import give_back

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

def fill():
    # Each picture is too small for pages of its own, and something that stays lies between any two of them.
    pictures, stays = [], []
    for _ in range(600):
        pictures.append(np.ones(100_000, np.uint8))
        stays.append(np.ones(2_000, np.uint8))
    kept.append(stays)

kept = []
before = resident_mb()
thread = threading.Thread(target=fill)
thread.start()
thread.join()
freed = resident_mb()
give_back()
print(freed - before, resident_mb() - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library keeps nothing that could be given back"
)
def test_what_a_thread_freed_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, timeout=60, check=True)
    held, left = (float(word) for word in done.stdout.split())
    assert held > 50, "the C library keeps it by itself, or there is nothing to show"
    assert left < 15
