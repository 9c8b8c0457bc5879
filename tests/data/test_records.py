import datetime
import decimal
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.sources.records import as_document, check_fields, excerpt_of, with_conversation


def said(*contents, first="user"):
    """Messages that alternate between a user and an assistant."""
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]


OURS = {"prompt": said("hi"), "chosen": "good", "rejected": "bad"}
FORMS = {
    "answers and a text": {"prompt": "hi", "chosen": "good", "rejected": "bad"},
    "ours": OURS,
    "conversations with their prompt": {
        "prompt": "hi",
        "chosen": said("hi", "good"),
        "rejected": said("hi", "bad"),
    },
    "conversations alone": {"chosen": said("hi", "good"), "rejected": said("hi", "bad")},
    "answers as messages": {
        "prompt": said("hi"),
        "chosen": said("good", first="assistant"),
        "rejected": said("bad", first="assistant"),
    },
    "messages with more in them": {
        "prompt": "hi ",
        "chosen": [{**each, "weight": 1} for each in said("hi", "good")],
        "rejected": said("hi", "bad"),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_usual_form_of_a_preference_becomes_ours(form):
    made = with_conversation(FORMS[form], "preferences")
    assert made.pop("text") == "hi\n\ngood\n\nbad"
    assert made == OURS


texts = st.text(min_size=1, max_size=8)


@given(st.lists(texts, min_size=0, max_size=3), texts, texts, st.booleans())
def test_all_turns_before_the_answers_are_the_prompt(turns, chosen, rejected, system):
    before = said(*[part for turn in turns for part in (turn, turn)], "last")
    before = [{"role": "system", "content": "be short"}, *before] if system else before
    sides = {"chosen": chosen, "rejected": rejected}
    row = {side: [*before, {"role": "assistant", "content": text}] for side, text in sides.items()}
    for prompt in ({}, {"prompt": "last"}, {"prompt": before}):
        made = with_conversation({**row, **prompt}, "preferences")
        assert made["prompt"] == before
        assert {side: made[side] for side in sides} == sides


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rejected": said("ho", "bad")}, "differ before their last messages"),
        ({"rejected": said("hi", "x", "hi", "bad")}, "differ before their last messages"),
        ({"rejected": "bad"}, "differ before their last messages"),
        ({"rejected": said("hi", "bad", "thanks")}, "last message of 'rejected' is of role 'user'"),
        ({"rejected": []}, "'rejected' is '\\[\\]'; it must be a list of messages"),
        ({"rejected": None}, "'rejected' is 'None'"),
        ({"rejected": [{"role": "human", "content": "x"}]}, "message 0 of 'rejected' is 'human'"),
        ({"rejected": ["bad"]}, "role of message 0 of 'rejected' is None"),
        (
            {"rejected": [*said("hi"), {"role": "assistant", "content": None}]},
            "content of message 1 of 'rejected' is not text",
        ),
        ({"prompt": "ho"}, "'prompt' is no message of 'chosen'"),
        ({"prompt": said("ho")}, "'prompt' and the messages of 'chosen' before the last differ"),
        ({"prompt": 3}, "'prompt' is '3'"),
    ],
)
def test_what_is_no_preference_says_why(change, says):
    row = {**FORMS["conversations with their prompt"], **change}
    with pytest.raises(ValueError, match=says):
        with_conversation(row, "preferences")


def test_answers_without_a_prompt_are_no_preference():
    with pytest.raises(ValueError, match="'prompt' is 'None'"):
        with_conversation({"chosen": "good", "rejected": "bad"}, "preferences")


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        (None, "'messages' is 'None'; it must be a list of messages"),
        ([{"from": "gpt", "value": "x"}], "role of message 0 of 'messages' is None"),
        ([*said("hi"), {"role": "tool", "content": "x"}], "message 1 of 'messages' is 'tool'"),
    ],
)
def test_what_is_no_conversation_says_why(messages, says):
    with pytest.raises(ValueError, match=says):
        with_conversation({"messages": messages}, "messages")


def test_a_conversation_keeps_its_messages_as_they_are():
    messages = [{**each, "weight": 1} for each in said("hi", "good")]
    made = as_document({"id": "1", "messages": messages}, "s", {}, None, "messages")
    assert made.text == "hi\n\ngood" and json.loads(made.metadata) == {"messages": messages}


ROW = {"id": "a", "text": "b"}


def metadata_of(row, **more):
    return json.loads(as_document(row, "s", more.pop("fields", {}), **more).metadata)


def test_a_url_that_is_the_id_stays_where_dedup_looks_for_it():
    row, fields = {"url": "http://a", "text": "b", "n": 1}, {"id": "url"}
    assert as_document(row, "s", fields).id == "http://a"
    assert metadata_of(row, fields=fields) == {"url": "http://a", "n": 1}
    assert metadata_of({**row, "metadata": {"url": "c"}}, fields=fields) == {"url": "c", "n": 1}
    assert metadata_of(row, fields=fields, leave_out=["url"]) == {"n": 1}
    assert metadata_of({**row, "key": "k"}, fields={"id": "key"})["url"] == "http://a"


def test_a_source_of_a_record_is_another_field_if_asked_and_else_is_not_kept():
    row = {"id": "a", "source": "ein Text", "target": "a text"}
    made = as_document(row, "s", {"text": "source"})
    assert (made.text, made.source, made.metadata) == ("ein Text", "s", '{"target":"a text"}')
    assert as_document(row, "s", {"id": "source", "text": "target"}).id == "ein Text"
    assert metadata_of({**ROW, "source": "x"}) == {}


def test_one_field_may_be_several_of_ours():
    made = as_document({"url": "http://a"}, "s", {"id": "url", "text": "url"})
    assert (made.id, made.text) == ("http://a", "http://a")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (datetime.datetime(2024, 5, 1, 12, 30), "2024-05-01T12:30:00"),
        (datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc), "2024-05-01T00:00:00+00:00"),
        (datetime.date(2024, 5, 1), "2024-05-01"),
        (datetime.time(12, 30), "12:30:00"),
        (datetime.timedelta(minutes=1.5), 90.0),
        (decimal.Decimal("1.20"), "1.20"),
        (b"\xff\x00", "/wA="),
    ],
)
def test_what_a_table_may_hold_has_a_form_in_json(value, told):
    assert metadata_of({**ROW, "n": value}) == {"n": told}
    assert metadata_of({**ROW, "metadata": {"n": [{"m": value}]}}) == {"n": [{"m": told}]}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"n": float("nan")}, "'n' is nan, which has no JSON form; leave_out: ['n'] leaves it out"),
        ({"n": {"m": [1.0, float("-inf")]}}, "'n.m[1]' is -inf, which"),
        ({"metadata": {"n": float("nan")}}, "'metadata.n' is nan, .*; leave_out: ['n']"),
        ({"n": {1, 2}}, "'n' is {1, 2}; a set has no JSON form; leave_out: ['n']"),
        ({"m": "x\ud800"}, "'m' has half a surrogate pair at 1"),
        ({"metadata": {"m": ["é\ud800"]}}, "'metadata.m[0]' has half a surrogate pair at 1"),
        ({"m": {"\ud800": 1}}, "half a surrogate pair at 0"),
    ],
)
def test_a_value_without_a_form_in_json_is_named_and_may_be_left_out(more, says):
    says = re.escape(says).replace(re.escape(".*"), ".*")
    with pytest.raises(ValueError, match=says):
        as_document({**ROW, **more}, "s", {})
    assert metadata_of({**ROW, **more, "k": 1}, leave_out=["m", "n"]) == {"k": 1}


def test_names_that_are_no_field_or_are_needed_are_refused():
    with pytest.raises(ValueError, match="fields has 'source'; there is added, created, id, "):
        check_fields({"source": "src"}, [])
    with pytest.raises(ValueError, match="leave_out has 'content', which is read as 'text'"):
        check_fields({"text": "content"}, ["content"])
    check_fields({"id": "url"}, ["url", "id"])


def test_an_excerpt_of_a_large_record_is_short():
    row = {"id": "a", "text": "x" * 10**7, "image": b"\xff" * 10**7, "l": [1] * 10**6}
    assert len(excerpt_of(row)) < 1000 and "'id': 'a'" in excerpt_of(row)
