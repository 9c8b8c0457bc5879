import json

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.files import write_json


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(
            st.none(),
            st.integers(),
            st.text(),
            st.lists(st.dictionaries(st.text(max_size=5), st.text())),
        ),
        max_size=5,
    ),
    st.booleans(),
)
def test_json_is_read_as_it_was_written_indented_or_a_line_an_item(tmp_path_factory, value, large):
    path = tmp_path_factory.mktemp("json") / "x.json"
    if large:
        value = {**value, "shards": [{"path": f"{n}.parquet"} for n in range(4000)]}
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value
    assert not large or path.read_text(encoding="utf-8").count("\n") > 4000
