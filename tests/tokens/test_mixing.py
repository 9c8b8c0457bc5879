from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.artifacts import Artifact, Tokens
from pipeline.core.errors import CorruptShard, MismatchedInputs
from pipeline.tokens.format import TokenShardWriter
from pipeline.tokens.mixing import apportion, mix_tokens


def write_tokens(root, shards, tokenizer="t"):
    """Tokens of documents given as ids: a list a shard, of lists."""
    made = []
    for number, documents in enumerate(shards):
        names = [f"{number}-{place}" for place in range(len(documents))]
        with TokenShardWriter(root, number, "uint16") as writer:
            writer.write(["s"] * len(documents), names, documents)
        made.append(writer.shard)
    num_tokens = sum(each.num_tokens for each in made)
    return Tokens.of(
        root,
        tokenizer=tokenizer,
        dtype="uint16",
        vocab_size=100,
        end_id=0,
        num_tokens=num_tokens,
        num_documents=sum(each.num_records for each in made),
        sources={"s": num_tokens},
        shards=made,
    )


@pytest.fixture
def parts(tmp_path):
    big = write_tokens(tmp_path / "cache" / "1", [[[1] * 41]])
    small = write_tokens(tmp_path / "cache" / "2", [[[2] * 12]])
    return {"big": big, "small": small}


def drawn(mix):
    return {part.name: part.num_drawn for part in mix.parts}


@given(st.lists(st.integers(0, 1000), min_size=1).filter(any), st.integers(0, 10_000))
def test_apportioned_counts_sum_and_are_within_one_of_their_shares(weights, total):
    named = {str(place): Fraction(weight) for place, weight in enumerate(weights)}
    counts = apportion(named, total)
    assert sum(counts.values()) == total
    for name, weight in named.items():
        assert abs(counts[name] - Fraction(total) * weight / sum(weights)) < 1


def test_a_mix_without_proportions_reads_everything_once(parts, tmp_path):
    mix = mix_tokens(parts, sequence_length=4, out=tmp_path / "work" / "m")
    assert drawn(mix) == {"big": 10, "small": 3}


def test_proportions_give_the_largest_mix_without_repeats(parts, tmp_path):
    weights = {"big": 1.0, "small": 0.5}
    mix = mix_tokens(parts, sequence_length=4, proportions=weights, out=tmp_path / "work" / "m")
    assert drawn(mix) == {"big": 6, "small": 3}


def test_a_size_and_proportions_are_met_exactly_by_repeating(parts, tmp_path):
    mix = mix_tokens(
        parts,
        sequence_length=4,
        proportions={"big": 0.1, "small": 0.9},
        num_instances=20,
        out=tmp_path / "work" / "m",
    )
    assert drawn(mix) == {"big": 2, "small": 18}


def test_repeats_multiply_what_a_part_holds(parts, tmp_path):
    mix = mix_tokens(parts, sequence_length=4, repeats={"small": 2.5}, out=tmp_path / "work" / "m")
    assert sum(drawn(mix).values()) == 17
    assert drawn(mix)["big"] == 10


def test_the_order_of_parts_does_not_matter_and_where_they_lie_is_not_content(parts, tmp_path):
    one = mix_tokens(parts, sequence_length=4, out=tmp_path / "work" / "m")
    turned = dict(reversed(parts.items()))
    two = mix_tokens(turned, sequence_length=4, out=tmp_path / "deep" / "work" / "m")
    assert one.content == two.content
    assert one.locations != two.locations


def test_a_mix_still_finds_its_parts_after_it_and_its_workspace_moved(parts, tmp_path):
    workspace = tmp_path / "moved"
    mix_tokens(parts, sequence_length=4, out=tmp_path / "work" / "m")
    (tmp_path / "work" / "m").rename(tmp_path / "cache" / "m")
    workspace.mkdir()
    (tmp_path / "cache").rename(workspace / "cache")
    loaded = Artifact.load(workspace / "cache" / "m").load_parts()
    assert [each.num_tokens for each in loaded] == [41, 12]


def test_a_part_that_became_another_is_noticed(parts, tmp_path):
    mix = mix_tokens(parts, sequence_length=4, out=tmp_path / "work" / "m")
    write_tokens(tmp_path / "cache" / "2", [[[3] * 12]])
    with pytest.raises(CorruptShard, match="'small'"):
        mix.load_parts()


def test_parts_of_different_tokenizers_do_not_mix(parts, tmp_path):
    parts["other"] = write_tokens(tmp_path / "cache" / "3", [[[1] * 9]], tokenizer="u")
    with pytest.raises(MismatchedInputs, match="tokenizer is t and u"):
        mix_tokens(parts, sequence_length=4, out=tmp_path / "work" / "m")


@pytest.mark.parametrize(
    "arguments",
    [
        {"sequence_length": 0},
        {"sequence_length": 13},
        {"sequence_length": 4, "proportions": {"big": 1.0}},
        {"sequence_length": 4, "proportions": {"big": 0, "small": 0}},
        {"sequence_length": 4, "proportions": {"big": float("nan"), "small": 1}},
        {"sequence_length": 4, "repeats": {"bog": 2}},
        {"sequence_length": 4, "repeats": {}, "proportions": {"big": 1, "small": 1}},
        {"sequence_length": 4, "num_instances": 0},
    ],
)
def test_impossible_mixes_are_refused(parts, tmp_path, arguments):
    with pytest.raises(ValueError):
        mix_tokens(parts, **arguments, out=tmp_path / "work" / "m")


def test_a_part_shorter_than_an_instance_is_told_with_the_length_that_is_too_long(parts, tmp_path):
    fault = f"sequence_length is {10**15}; 'big' has fewer tokens, so no instance"
    with pytest.raises(ValueError, match=fault):
        mix_tokens(parts, sequence_length=10**15, out=tmp_path / "m")
