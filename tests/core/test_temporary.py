import threading

import pytest

from pipeline.core.files import write_json
from pipeline.store.memo import place_file


@pytest.mark.parametrize("kind", ["written", "linked"])
def test_many_that_make_one_file_at_once_leave_it_whole_and_nothing_else(tmp_path, kind):
    """As processes of one id on several nodes of a cluster do."""
    source, target = tmp_path / "source", tmp_path / "below" / "made.json"
    write_json(source, ["text"] * 1000)
    together, faults = threading.Barrier(8), []

    def make():
        try:
            together.wait()
            for _ in range(20):
                if kind == "written":
                    write_json(target, ["text"] * 1000)
                else:
                    place_file(source, target)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not faults
    assert target.read_bytes() == source.read_bytes()
    assert [each.name for each in target.parent.iterdir()] == ["made.json"]
