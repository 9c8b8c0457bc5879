from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.keys import canonical, changes, digest


@dataclass(frozen=True)
class Part:
    VERSION = "002"
    UNKEYED = ("speed",)
    size: float
    speed: int = 1


def test_a_component_stands_by_name_version_and_keyed_fields():
    assert canonical(Part(2.0, speed=9)) == {"is": "Part", "version": "002", "size": 2}


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_the_order_of_a_dict_does_not_matter(value):
    assert digest(value) == digest(dict(reversed(value.items())))


def test_equal_numbers_and_sequences_have_equal_keys():
    assert digest([1, (2.0,)]) == digest((1.0, [2]))


@pytest.mark.parametrize("value", [{1, 2}, print, b"x", float("nan"), {1: 2}, object()])
def test_what_has_no_single_form_is_refused(value):
    with pytest.raises(ValueError, match=r"value\.at"):
        canonical({"at": value})


def test_changes_name_the_path_and_both_values():
    old = {"args": {"taggers": [{"is": "C4", "min": 3}]}}
    new = {"args": {"taggers": [{"is": "C4", "min": 5}]}}
    assert [str(c) for c in changes(old, new)] == ["args.taggers[0].min: 3 -> 5"]
