import pytest

from pipeline.core.energy import JOULES_A_KWH
from pipeline.store.history import add_segment, read_segments
from pipeline.store.spent import claim_energy


def segment(series, number, joules=None, to_step=None, **more):
    first = 10 * (number - 1)
    said = {"segment": number, "first_step": first, "last_step": first + 10, "num_updates": 10}
    add_segment(series, said | {"cause": "finished"} | more)
    if joules is not None:
        known = {"energy_joules": joules, "energy_by": "RAPL", "devices_not_measured": 2}
        add_segment(series, {"segment": number, "energy_to_step": to_step or first + 10} | known)


def test_what_killed_attempts_took_is_summed_and_what_is_not_known_is_told(tmp_path):
    segment(tmp_path, 1, 7200.0)
    segment(tmp_path, 2, 3600.0, to_step=16, cause="killed")
    segment(tmp_path, 3, cause="failed")  # before its first checkpoint
    record = claim_energy(tmp_path, "a")
    assert record["energy_kwh"] == pytest.approx(10800 / JOULES_A_KWH)
    assert record["updates_not_measured"] == 4 + 10 and record["devices_not_measured"] == 2
    assert record["energy_by"] == "RAPL" and record["co2_kilograms"] > 0
    assert claim_energy(tmp_path, "a") == record  # as when it is made again


def test_a_segment_is_counted_in_one_result_alone(tmp_path):
    segment(tmp_path, 1, 7200.0)
    assert claim_energy(tmp_path, "a")["energy_kwh"] == pytest.approx(7200 / JOULES_A_KWH)
    segment(tmp_path, 2, 3600.0)
    assert claim_energy(tmp_path, "b")["energy_kwh"] == pytest.approx(3600 / JOULES_A_KWH)
    nothing = claim_energy(tmp_path, "c")
    assert (nothing["energy_kwh"], nothing["updates_not_measured"]) == (0, 0)
    assert [each["counted_in"] for each in read_segments(tmp_path)] == ["a", "b"]


def test_a_segment_under_way_and_one_that_was_taken_over_are_not_counted(tmp_path):
    add_segment(tmp_path, {"segment": 1, "first_step": 0, "cause": "taken over", "num_updates": 0})
    add_segment(tmp_path, {"segment": 2, "first_step": 0, "energy_joules": 1.0})
    assert claim_energy(tmp_path, "a")["energy_kwh"] == 0
