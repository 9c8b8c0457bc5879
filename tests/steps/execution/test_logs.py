import logging
import os

from hypothesis import given
from hypothesis import strategies as st

from steps.execution.logs import captured, file_name, tail

NAMES = st.text(st.characters(codec=None, exclude_categories=()), max_size=300)


@given(NAMES, NAMES)
def test_every_name_is_a_file_name_of_its_own(one, other):
    for name in (one, other):
        safe = file_name(name)
        assert "/" not in safe and "\0" not in safe and not safe.startswith(".")
        assert len(safe.encode()) <= 200
    assert (file_name(one) == file_name(other)) == (one == other)


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40))
def test_a_plain_name_stays_as_it_is(name):
    assert file_name(name) == name


def test_what_is_printed_by_whatever_way_is_kept_and_all_is_as_before_after_it(tmp_path, capfd):
    log = tmp_path / "logs" / "a.log"
    handlers = list(logging.getLogger().handlers)
    with captured(log):
        os.write(1, b"by the descriptor\n")
        print("by print")
        logging.getLogger("x").info("by a logger")
    print("after")
    text = log.read_text()
    for way in ("the descriptor", "print", "a logger"):
        assert f"by {way}" in text
    assert capfd.readouterr().out == "after\n"
    assert logging.getLogger().handlers == handlers


def test_a_tail_has_the_last_state_of_a_bar_and_nothing_that_moves_a_cursor(tmp_path):
    log = tmp_path / "a.log"
    log.write_bytes(b"old\n" * 3 + b" 1%|\r 50%|\r100%|#\n\x1b[31mred\x1b[0m\xff\n\nlast")
    assert tail(log, 12) == ["100%|#", "red\N{REPLACEMENT CHARACTER}", "last"]
    assert tail(log, count=1) == ["last"] and tail(tmp_path / "none") == []
