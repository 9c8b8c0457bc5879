import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.records import as_document, with_conversation


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
