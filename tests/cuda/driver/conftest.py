"""Every test over the tests' driver leaves nothing behind on it."""

import gc

import pytest


@pytest.fixture(autouse=True)
def _nothing_is_left():
    # Only where that driver is loaded; this file is seen by the ordinary tests' collection too.
    import control

    yield
    gc.collect()
    left = control.left()
    control.reset()
    assert left == {}


@pytest.fixture
def device():
    from edge.cuda import Device

    one = Device()
    yield one
    one.close()
