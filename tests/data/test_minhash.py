import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.engine import Local
from pipeline.data.duplicates import first_seen, minhash
from pipeline.data.duplicates.minhash import find_near_duplicates, hash_functions
from pipeline.data.filtering import filter_documents
from pipeline.data.ingest import concat_documents
from pipeline.data.rules import Keep
from pipeline.data.text_columns import TextColumn
from tests.data.conftest import column, make_documents

NUMBER = re.compile(r"\d+(?:[.,\u060c\u066b\u2396\u2397\u2398]\d+)?")
PRIME = 2**61 - 1
PIECES = [*"aAbBéÉİΣßᾳ", "中", "かな", "ไทย", "한", "한", "𠀀", "𝒳", "🙂", "\u0301", "\xad", "\0"]
PIECES += ["12", "1.5", "1.2.3", "٣٫٤", "1,", ",2", ".", "…", "_", "-", "\n", "\r", "\u3000", " "]
PIECES += ["one two three ", "four five ", "x" * 40, "x" * 31 + " "]
texts = st.lists(st.sampled_from(PIECES), max_size=24).map("".join)
laws = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def words(text):
    """The words of a text, by Python's own functions."""
    from pipeline.data.compiled.signatures import UNSPACED

    found = ""
    for character in NUMBER.sub("0", text):
        category = unicodedata.category(character)
        if category[0] in "PSZC" and category != "Cf":
            found += " "
        elif category not in ("Mn", "Me", "Cf"):
            apart = unicodedata.normalize("NFD", character.lower())
            plain = "".join(each for each in apart if unicodedata.category(each) != "Mn")
            point = ord(character)
            alone = point >= 0x20000 or any(low <= point < high for low, high in UNSPACED)
            found += f" {plain} " if alone and plain else plain
    return found.split()


def signature(text, ngram_words, factors, terms):
    every = words(text)
    ngrams = {" ".join(every[n : n + ngram_words]) for n in range(len(every) - ngram_words + 1)}
    hashes = [xxhash.xxh64_intdigest(each.encode()) for each in ngrams]
    return [
        min((h * int(a) + int(b)) % 2**64 % PRIME for h in hashes) if hashes else None
        for a, b in zip(factors, terms, strict=True)
    ]


def clusters(signatures, num_rows):
    """For each document the first that a chain of shared bands leads to, by plain search."""
    bands = [
        {(n, *each[n : n + num_rows]) for n in range(0, len(each), num_rows) if each[0] is not None}
        for each in signatures
    ]
    first = list(range(len(bands)))
    for place in range(len(bands)):
        if first[place] != place:
            continue
        todo = [place]
        while todo:
            at = todo.pop()
            for other in range(place + 1, len(bands)):
                if first[other] == other and bands[at] & bands[other]:
                    first[other] = place
                    todo.append(other)
    return first


@laws
@given(
    shards=st.lists(st.lists(texts, max_size=5), max_size=3),
    num_bands=st.integers(1, 5),
    num_rows=st.integers(1, 3),
    ngram_words=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    part_keys=st.integers(1, 8),
)
def test_clusters_are_those_of_a_plain_search_over_plain_signatures(
    shards, num_bands, num_rows, ngram_words, seed, part_keys, tmp_path_factory
):
    root = tmp_path_factory.mktemp("minhash")
    documents = make_documents(root / "documents", shards)
    chosen = {"num_bands": num_bands, "num_rows": num_rows, "ngram_words": ngram_words}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minhash, "SIGNED_BYTES", 1)  # a document at a time
        patch.setattr(first_seen, "PART_KEYS", part_keys)  # many parts
        marked = find_near_duplicates(documents, **chosen, seed=seed, out=root / "out")
    functions = hash_functions(num_bands * num_rows, seed)
    flat = [text for shard in shards for text in shard]
    expected = clusters([signature(t, ngram_words, *functions) for t in flat], num_rows)
    assert column(marked, "kept_place") == expected
    assert column(marked, "duplicate_near") == [first != n for n, first in enumerate(expected)]
    assert column(marked, "cluster_size") == [expected.count(first) for first in expected]


def test_every_character_is_folded_as_python_folds_it(tmp_path):
    from pipeline.data.compiled.signatures import ALONE, DIGIT, DROPPED, SPACE, folding

    table = folding()
    for point in range(0x20000):
        kind, start = table.kinds[point], table.starts[point]
        text = bytes(table.pool[start : start + table.sizes[point]]).decode()
        found = words(f"a{chr(point)}b")
        if kind == SPACE:
            assert found == ["a", "b"], point
        elif kind == ALONE:
            assert found == ["a", text, "b"], point
        else:
            assert found == [f"a{text}b"], point
            assert (text == "") == (kind == DROPPED) and (text == "0") == (kind == DIGIT), point


@given(st.binary(max_size=100), st.binary(max_size=20))
@settings(deadline=None)
def test_the_hash_of_an_ngram_is_xxh64(data, after):
    from pipeline.data.compiled import signatures

    whole = np.frombuffer(data + after, np.uint8)
    found = signatures.xxh64(whole, np.uint64(0), np.uint64(len(data)))
    assert int(found) == xxhash.xxh64_intdigest(data)


def spelt(text):
    """The text with letters for its digits, which would all be one number."""
    return text.translate(str.maketrans("0123456789", "abcdefghij"))


def many_texts(num, rng):
    """Texts in families: of each some words are changed."""
    made = []
    for _ in range(num):
        base = rng.integers(0, 400, 60)
        for _ in range(rng.integers(1, 4)):
            again = base.copy()
            places = rng.integers(0, 60, rng.integers(0, 3))
            again[places] = rng.integers(0, 400, len(places))
            made.append(" ".join(spelt(str(word)) for word in again))
    return [made[n] for n in rng.permutation(len(made))]


def test_neither_workers_nor_shard_bounds_change_what_is_kept(tmp_path):
    every = many_texts(60, np.random.default_rng(3))
    cuts = {"one": [every], "many": [every[n : n + 7] for n in range(0, len(every), 7)]}
    found = []
    for name, shards in cuts.items():
        documents = make_documents(tmp_path / name, shards)
        for workers in (1, 2):
            out = tmp_path / f"{name}{workers}"
            marked = find_near_duplicates(documents, out=out, engine=Local(workers))
            found.append([column(marked, each) for each in minhash.COLUMNS])
            assert {p.name for p in out.iterdir()} == {"near_duplicates", "manifest.json"}
            marked.verify()
    assert all(each == found[0] for each in found)
    assert 20 < sum(found[0][0]) < len(every) - 50


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8])
def test_pairs_share_a_band_with_the_probability_of_the_curve(similarity, tmp_path):
    num_pairs, common, own = 400, round(90 * similarity), round(90 * (1 - similarity) / 2)
    pairs = []
    for pair in range(num_pairs):
        shared = [f"p{pair}s{n}" for n in range(common)]
        pairs += [" ".join(shared + [f"p{pair}{side}{n}" for n in range(own)]) for side in "lr"]
    documents = make_documents(tmp_path / "d", [[spelt(text) for text in pairs]])
    marked = find_near_duplicates(documents, ngram_words=1, out=tmp_path / "o")
    exact = common / (common + 2 * own)
    expected = 1 - (1 - exact**8) ** 14
    found = sum(column(marked, "duplicate_near")) / num_pairs
    assert abs(found - expected) < 5 * (expected * (1 - expected) / num_pairs) ** 0.5


def test_what_a_chain_of_pairs_connects_is_one_cluster_and_its_first_is_kept(tmp_path):
    base = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrstuv"]
    chain = [" ".join(base[n * 2 : 100 + n * 2]) for n in (4, 0, 8, 2, 6)]
    documents = make_documents(tmp_path / "d", [["alone and unlike all of the others", *chain]])
    marked = find_near_duplicates(documents, out=tmp_path / "o")
    assert column(marked, "kept_place") == [0, 1, 1, 1, 1, 1]
    assert column(marked, "cluster_size") == [1, 5, 5, 5, 5, 5]


def test_case_accents_punctuation_and_numbers_are_no_difference(tmp_path):
    pair = ["Le Café, à 12.50 euros: ouvert!", "le cafe a 3 EUROS (ouvert)"]
    documents = make_documents(tmp_path / "d", [pair])
    marked = find_near_duplicates(documents, out=tmp_path / "o")
    assert column(marked, "duplicate_near") == [0, 1]


def test_a_document_of_fewer_words_than_an_ngram_is_never_a_near_duplicate(tmp_path):
    documents = make_documents(tmp_path / "d", [["one two three four"] * 2 + ["", ""]])
    marked = find_near_duplicates(documents, out=tmp_path / "o")
    assert column(marked, "duplicate_near") == [0] * 4
    assert column(marked, "kept_place") == [0, 1, 2, 3]


def test_a_filter_after_concat_keeps_the_first_of_each_cluster_across_sources(tmp_path):
    text = " ".join(f"{a}{b}" for a in "abcdefghij" for b in "klmno")
    first = make_documents(tmp_path / "a", [["unlike the other ones here", text]], source="a")
    second = make_documents(tmp_path / "b", [[text + " and", "nothing like it is there"]], "b")
    every = concat_documents([first, second], out=tmp_path / "c")
    marked = find_near_duplicates(every, out=tmp_path / "m")
    rule = Keep("near_duplicates.duplicate_near", at_most=0)
    kept = filter_documents(every, [marked], [rule], out=tmp_path / "k")
    assert column(kept, "source") == ["a", "a", "b"]
    assert column(kept, "text")[-1] == "nothing like it is there"
    again = find_near_duplicates(kept, out=tmp_path / "m2")
    assert sum(column(again, "duplicate_near")) == 0


def test_a_text_of_many_ngrams_is_signed_block_by_block():
    from pipeline.data.compiled import signatures

    text = " ".join(spelt(str(n)) for n in range(3 * signatures.BLOCK + 5))
    functions = hash_functions(6, 1)
    data, offsets = TextColumn.of(pa.array([text]))
    room = np.empty(signatures.MOST_BYTES * (len(text) + 1), np.uint8)
    least, counts = signatures.sign(data, offsets, 2, *functions, *signatures.folding(), room)
    assert least[0].tolist() == signature(text, 2, *functions)
    assert counts.tolist() == [3 * signatures.BLOCK + 5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_bands": 0}, "num_bands is 0; it must be at least 1"),
        ({"seed": 2**32}, "seed is 4294967296; it must be from 0 to 4294967295"),
    ],
)
def test_what_is_out_of_range_is_refused(given, message, tmp_path):
    documents = make_documents(tmp_path / "d", [["a"]])
    with pytest.raises(ValueError, match=message):
        find_near_duplicates(documents, **given, out=tmp_path / "o")
