"""What a machine is, can do and draws; sensors are files, so a board's tree is built here as the kernel shows it."""

import os
import threading
import time

import pytest

from benchmarks import machine
from benchmarks.machine import Meter, copy_gb_s, description, device_mb_of, ina_watts, rapl_joules, total_watts


def rail(folder, number, label, millivolts, milliamperes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"in{number}_label").write_text(f"{label}\n")
    (folder / f"in{number}_input").write_text(f"{millivolts}\n")
    (folder / f"curr{number}_input").write_text(f"{milliamperes}\n")


@pytest.fixture
def board(tmp_path):
    """The INA3221 of an Orin Nano; its fourth label is of a sum, without a current of its own."""
    folder = tmp_path / "1-0040" / "hwmon" / "hwmon1"
    rail(folder, 1, "VDD_IN", 5000, 1200)
    rail(folder, 2, "VDD_CPU_GPU_CV", 4900, 400)
    rail(folder, 3, "VDD_SOC", 4950, 200)
    (folder / "in7_label").write_text("sum of shunt voltages\n")
    return tmp_path


def test_watts_by_rail(board):
    rails = ina_watts(board)
    assert rails == {"VDD_IN": 6.0, "VDD_CPU_GPU_CV": 1.96, "VDD_SOC": 0.99}
    assert total_watts(rails) == 6.0  # the input rail feeds the others
    assert total_watts({"VDD_GPU_SOC": 2.0, "VDD_CPU_CV": 1.5}) == 3.5
    assert total_watts({}) is None
    assert ina_watts(board / "nothing") == {}


def test_a_meter_integrates_what_the_board_draws(board):
    with Meter(lambda: ina_watts(board), lambda: None) as meter:
        time.sleep(0.3)
    drawn = meter.drawn
    assert drawn.by == "ina3221"
    assert drawn.joules == pytest.approx(6.0 * drawn.seconds, rel=0.01)
    assert all(thread.name != "bench-meter" for thread in threading.enumerate())


def test_a_counter_of_joules(tmp_path):
    for number, micro in ((0, 5_000_000), (1, 7_000_000)):
        (tmp_path / f"intel-rapl:{number}").mkdir()
        (tmp_path / f"intel-rapl:{number}" / "energy_uj").write_text(f"{micro}\n")
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the first package: counted there already
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("1000000\n")
    assert rapl_joules(tmp_path) == 12.0
    assert rapl_joules(tmp_path / "none") is None
    counter = iter((12.0, 15.5))
    with Meter(dict, lambda: next(counter)) as meter:
        pass
    assert (meter.drawn.joules, meter.drawn.by) == (3.5, "rapl")
    wrapped = iter((12.0, 1.0))
    with Meter(dict, lambda: next(wrapped)) as meter:
        pass
    assert meter.drawn.joules is None


def test_a_machine_without_sensors_says_nothing():
    with Meter(dict, lambda: None) as meter:
        time.sleep(0.01)
    assert meter.drawn.joules is None
    assert meter.drawn.by is None
    assert meter.drawn.seconds >= 0.01


def test_a_process_among_those_on_the_device():
    said = "123, 100\n4567, 256\n123, 50\nnonsense\n"
    assert device_mb_of(said, 123) == pytest.approx(150 * 2**20 / 1e6)
    assert device_mb_of(said, 999) == 0
    assert device_mb_of(None, 123) is None


def test_the_description_can_be_written_as_json():
    import json

    found = description()
    assert json.loads(json.dumps(found)) == found
    assert found["cores"] >= 1
    assert found["packages"]["numpy"]


def test_the_commit_is_this_one():
    found = machine.commit()
    assert set(found) == {"commit", "changed"}
    assert machine.commit(machine.Path(os.sep))["commit"] is None


def test_what_it_can_do_at_most():
    pytest.importorskip("onnx")
    assert 0.1 < copy_gb_s(1 << 20, 0.05) < 5000
    assert 0.1 < machine.multiply_gop_s("fp32", 0.05) < 1e5
    assert 0.1 < machine.multiply_gop_s("int8", 0.05) < 1e5
