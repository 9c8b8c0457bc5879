import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.artifacts import Artifact
from pipeline.core.engine import Local
from pipeline.core.errors import CorruptShard
from pipeline.core.shards import read_shard
from pipeline.tokens.batches import ExampleBatches, PairBatches
from pipeline.tokens.chat import (
    prepare_examples,
    prepare_pairs,
    render,
)
from pipeline.tokens.tokenizer import decode, load_tokenizer
from tests.tokens.conftest import write_documents


def said(role, content):
    return {"role": role, "content": content}


TALK = [
    said("system", "Be kind."),
    said("user", " hello <|endoftext|>\n"),
    said("assistant", "hi "),
    said("user", "bye"),
    said("assistant", "so long"),
]


@pytest.fixture(scope="module")
def loaded(tokenizer):
    return load_tokenizer(tokenizer)


def spelled(tokenizer, loaded, ids, mask):
    """The whole text, and the learned text."""
    learned = [token for token, on in zip(ids, mask, strict=True) if on]
    return decode(loaded, ids), decode(loaded, learned)


def test_a_conversation_is_rendered_as_open_instruct_does(tokenizer, loaded):
    ids, mask = render(TALK, tokenizer)
    whole, learned = spelled(tokenizer, loaded, ids, mask)
    assert whole == (
        "<|endoftext|><|system|>\nBe kind.\n<|user|>\nhello <|endoftext|>\n<|assistant|>\nhi"
        "<|endoftext|>\n<|user|>\nbye\n<|assistant|>\nso long<|endoftext|>"
    )
    assert learned == "hi<|endoftext|>so long<|endoftext|>"
    assert ids.count(tokenizer.end_id) == 3  # the user's is ordinary text


def test_a_conversation_without_an_answer_has_nothing_to_learn(tokenizer, loaded):
    ids, mask = render(TALK[:2], tokenizer, loaded)
    assert decode(loaded, ids).endswith("<|user|>\nhello <|endoftext|>")
    assert not any(mask)


messages = st.lists(
    st.builds(said, st.sampled_from(["system", "user", "assistant"]), st.text(max_size=12)),
    min_size=1,
)


@given(talk=messages)
def test_what_is_learned_is_what_assistants_say(tokenizer, loaded, talk):
    ids, mask = render(talk, tokenizer, loaded)
    answers = [m["content"].strip() for m in talk if m["role"] == "assistant"]
    learned = spelled(tokenizer, loaded, ids, mask)[1]
    assert learned == "".join(answer + "<|endoftext|>" for answer in answers)
    assert mask[0] == 0 and ids[0] == tokenizer.end_id


@given(talk=messages)
def test_a_conversation_begins_as_the_shorter_one_up_to_an_answer(tokenizer, loaded, talk):
    talk = [*talk, said("assistant", "yes")]
    longer = render([*talk, said("user", "more")], tokenizer, loaded)[0]
    shorter = render(talk, tokenizer, loaded)[0]
    assert longer[: len(shorter)] == shorter


def conversations(root, count):
    talks = [
        [said("user", f"question {i}"), said("assistant", f"answer é{'x' * i}")]
        for i in range(count)
    ]
    data = [{"messages": talk} for talk in talks]
    shards = [data[: count // 2], [], data[count // 2 :]]
    return write_documents(root, [[""] * len(shard) for shard in shards], shards), talks


def test_examples_hold_rendered_conversations_with_any_workers(tokenizer, loaded, tmp_path):
    documents, talks = conversations(tmp_path / "d", 9)
    one = prepare_examples(documents, tokenizer, max_length=99, out=tmp_path / "1")
    two = prepare_examples(documents, tokenizer, max_length=99, out=tmp_path / "2", engine=Local(2))
    assert one == two and Artifact.load(tmp_path / "1") == one
    rows = [row for shard in one.shards for row in read_shard(one.root, shard).to_pylist()]
    assert [(row["input_ids"], row["mask"]) for row in rows] == [
        render(talk, tokenizer, loaded) for talk in talks
    ]
    assert [row["num_answer_bytes"] for row in rows] == [9 + i for i in range(9)]
    assert (one.num_examples, one.num_skipped) == (9, 0)


def test_examples_too_long_or_with_nothing_to_learn_are_counted(tokenizer, tmp_path):
    talks = [TALK, TALK[:2], [said("assistant", " ")], [said("assistant", "x")]]
    shards = [[{"messages": talk} for talk in talks]]
    documents = write_documents(tmp_path / "d", [[""] * 4], shards)
    made = prepare_examples(documents, tokenizer, max_length=20, out=tmp_path / "e")
    assert (made.num_examples, made.num_skipped) == (1, 3)


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        ({}, "messages"),
        ([], "metadata is not an object"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "message 0 is a str"),
        ({"messages": [{"role": "robot", "content": ""}]}, "role of message 0 is 'robot'"),
        ({"messages": [{"role": ["user"], "content": ""}]}, "role of message 0"),
        ({"messages": [TALK[0], {"role": "user", "content": None}]}, "content of message 1"),
        ({"messages": [said("user", "\ud800"), TALK[2]]}, "message 0"),
    ],
)
def test_a_malformed_conversation_is_named(tokenizer, tmp_path, metadata, what):
    documents = write_documents(tmp_path / "d", [["", ""]], [[{"messages": TALK}, metadata]])
    with pytest.raises(CorruptShard, match=f"00000.parquet record 0-1: .*{what}"):
        prepare_examples(documents, tokenizer, max_length=99, out=tmp_path / "e")


def preferences(root, count):
    data = [
        {"prompt": TALK[:4], "chosen": f"good {'y' * i}", "rejected": "bad é"} for i in range(count)
    ]
    return write_documents(root, [[""] * count], [data])


def test_pairs_learn_the_answer_alone_after_one_prompt(tokenizer, loaded, tmp_path):
    documents = preferences(tmp_path / "d", 3)
    pairs = prepare_pairs(documents, tokenizer, max_length=200, out=tmp_path / "p")
    rows = read_shard(pairs.root, pairs.shards[0]).to_pylist()
    for place, row in enumerate(rows):
        for side, answer in (("chosen", f"good {'y' * place}".strip()), ("rejected", "bad é")):
            ids, mask = row[f"{side}_ids"], row[f"{side}_mask"]
            assert ids == render([*TALK[:4], said("assistant", answer)], tokenizer, loaded)[0]
            assert spelled(tokenizer, loaded, ids, mask)[1] == answer + "<|endoftext|>"
            assert row[f"{side}_bytes"] == len(answer.encode())
            assert row[f"{side}_logprob"] is None
        start = row["chosen_mask"].index(1)
        assert row["chosen_ids"][:start] == row["rejected_ids"][:start]
    assert (pairs.num_pairs, pairs.num_skipped, pairs.reference) == (3, 0, "")


@pytest.mark.parametrize(
    "change", [{"chosen": ""}, {"rejected": "long " * 99}, {"rejected": " a\n"}]
)
def test_pairs_with_a_side_too_long_or_empty_or_both_the_same_are_counted(
    tokenizer, tmp_path, change
):
    data = {"prompt": TALK[:2], "chosen": "a", "rejected": "b", **change}
    documents = write_documents(tmp_path / "d", [[""]], [[data]])
    pairs = prepare_pairs(documents, tokenizer, max_length=150, out=tmp_path / "p")
    assert (pairs.num_pairs, pairs.num_skipped) == (0, 1)


@pytest.mark.parametrize("change", [{"chosen": None}, {"rejected": 3}, {"prompt": "hello"}])
def test_a_malformed_pair_is_named(tokenizer, tmp_path, change):
    data = {"prompt": TALK[:2], "chosen": "a", "rejected": "b", **change}
    documents = write_documents(tmp_path / "d", [[""]], [[data]])
    with pytest.raises(CorruptShard, match="record 0-0"):
        prepare_pairs(documents, tokenizer, max_length=150, out=tmp_path / "p")


def unpadded(batch):
    """Rows without their padding: in these tests every row ends in a learned token."""
    return [
        ids[: np.flatnonzero(mask)[-1] + 1].tolist()
        for ids, mask in zip(batch["input_ids"], batch["mask"], strict=True)
    ]


def test_example_batches_read_every_example_once_an_epoch_on_any_ranks(tokenizer, tmp_path):
    documents, _ = conversations(tmp_path / "d", 9)
    examples = prepare_examples(documents, tokenizer, max_length=99, out=tmp_path / "e")
    batches = ExampleBatches(examples, 3, seed=5, pad_id=tokenizer.pad_id)
    assert batches.order.num_instances == 9
    rows = [
        row for shard in examples.shards for row in read_shard(examples.root, shard).to_pylist()
    ]
    read = [ids for step in range(3) for ids in unpadded(batches.at(step))]
    assert sorted(read) == sorted(row["input_ids"] for row in rows)
    again = pickle.loads(pickle.dumps(batches))
    ranks = [unpadded(again.at(2, rank, 2)) for rank in range(2)]
    assert [ranks[0][0], ranks[1][0], ranks[0][1]] == read[6:]
    batch = batches.at(0)
    assert batch["input_ids"].shape == batch["mask"].shape
    assert batch["input_ids"].dtype == batch["mask"].dtype == np.int64
    assert batch["lengths"].tolist() == list(map(len, unpadded(batch)))
    assert batches.at(0, 3, 4)["input_ids"].shape == (0, 0)


def test_pair_batches_hold_the_chosen_and_then_the_rejected(tokenizer, loaded, tmp_path):
    documents = preferences(tmp_path / "d", 5)
    pairs = prepare_pairs(documents, tokenizer, max_length=200, out=tmp_path / "p")
    batches = PairBatches(pairs, 5, seed=5, pad_id=tokenizer.pad_id)
    batch = pickle.loads(pickle.dumps(batches)).at(0)
    texts = [decode(loaded, ids) for ids in unpadded(batch)]
    assert all("good" in text for text in texts[:5]) and all("bad é" in t for t in texts[5:])
    assert batch["lengths"].tolist() == list(map(len, unpadded(batch)))
    assert batch["reference"].shape == (10,) and all(map(math.isnan, batch["reference"]))
    assert (batch["input_ids"][batch["mask"] == 1] != tokenizer.pad_id).all()
