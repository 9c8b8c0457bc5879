"""The mix step: what reaches `mix_tokens`, and what is refused while a graph is built."""

import pytest

from steps.tokens import Mix
from tests.tokens.test_mixing import drawn, write_tokens


@pytest.fixture
def parts(tmp_path):
    code = write_tokens(tmp_path / "1", [[[1] * 41]])
    return {"code": code, "prose": write_tokens(tmp_path / "2", [[[2] * 12]])}


def test_upsampling_reads_each_source_exactly_as_often_as_it_says(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(Mix, "out", tmp_path / "work" / "m", raising=False)
    repeats = {"prose": 3, "code": 0.5}
    mix = Mix.run(Mix.__new__(Mix), parts, 4, repeats=repeats)
    assert drawn(mix) == {"code": 5, "prose": 9}


@pytest.mark.parametrize(
    ("repeats", "says"),
    [
        ({"pros": 2}, "mix.repeats.pros is of no part; did you mean 'prose'?"),
        ({"code": -1}, "mix.repeats.code is -1; it must be finite and at least 0"),
        ({"code": 0, "prose": 0}, "mix.repeats are 0 for every part"),
    ],
)
def test_repeats_that_are_not_of_the_parts_are_refused(parts, repeats, says):
    step = Mix.__new__(Mix)
    step.kwargs = {"proportions": None, "repeats": repeats, "tokens": parts}
    with pytest.raises(ValueError) as refused:
        step.check("mix")
    assert str(refused.value).startswith(says)
