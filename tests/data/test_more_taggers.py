"""Taggers of language by paragraph, words by Unicode's rules, tokens, comments and secrets."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline.core.errors import CorruptShard
from pipeline.core.fingerprints import OutsideFile
from pipeline.core.keys import canonical, digest
from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.code import Code
from pipeline.data.taggers.comments import Comments
from pipeline.data.taggers.fasttext_model import FastText
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.language import Language, LanguageParagraphs
from pipeline.data.taggers.lengths import Lengths
from pipeline.data.taggers.pii import Pii
from pipeline.data.taggers.secrets import Secrets
from pipeline.data.taggers.token_lengths import TokenLengths
from pipeline.data.taggers.unicode_words import UnicodeWords
from pipeline.data.word_classes import class_table, class_table_digest
from steps.graph.wiring import WiringError, build_steps

ENGLISH = "This is a sentence that anybody can read.\n"
GERMAN = "Das ist ein Satz, den nicht jeder lesen kann.\n"


def test_any_language_of_the_model_is_measured_and_english_alone_keeps_its_key():
    german = Language(("en", "de"))
    assert list(german.COLUMNS) == ["en", "not_en", "de", "not_de"]
    made = german.measure(GERMAN)
    assert made["de"] > 0.9 > 0.1 > made["en"] and made["not_de"] == round(1 - made["de"], 5)
    assert german.measure("") == {"en": 0, "not_en": 1, "de": 0, "not_de": 1}
    parts = LanguageParagraphs(("de",)).measure(ENGLISH + GERMAN)
    assert [score > 0.5 for _, _, score in parts["de_paragraphs"]] == [False, True]
    assert parts.keys() == LanguageParagraphs(("de",)).COLUMNS.keys()
    assert canonical(Language()) == {"is": "Language", "version": "001"}
    assert canonical(german)["languages"] == ["en", "de"]
    with pytest.raises(ValueError, match="languages has 'klingon'; the model has af, als, am"):
        Language(("klingon",))
    for languages in ((), ("en", "en"), ("e n",)):
        with pytest.raises(ValueError, match="languages"):
            Language(languages)


def test_language_is_told_of_each_paragraph_and_of_the_document_by_their_lengths():
    made = LanguageParagraphs().measure(ENGLISH + "\n" + GERMAN)
    first, second = made["en_paragraphs"]
    assert (first[:2], second[:2]) == ((0, 42), (43, 89))
    assert first[2] > 0.8 > 0.2 > second[2]
    assert made["doc_en"] == pytest.approx((42 * first[2] + 46 * second[2]) / 89, abs=1e-5)
    assert made["doc_en"] + made["doc_not_en"] == pytest.approx(1)
    assert [span[2] for span in made["not_en_paragraphs"]] == pytest.approx(
        [1 - first[2], 1 - second[2]]
    )
    assert not any(LanguageParagraphs().measure("").values())
    assert LanguageParagraphs().measure("\n \n")["doc_not_en"] == 1


# what uniseg 0.10.1 gave; the first of them is the example of the annex
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The quick (\u201cbrown\u201d) fox can\u2019t jump 32.3 feet, right?", 15),
        ("", 0),
        ("a", 1),
        ("can't a.b 3,141.5 3. a:b x_1 'a'", 10),
        ("\u05d0'\u05d0\"\u05d1 \u05d0\" \u05d0'", 4),
        ("\U0001f1e6\U0001f1e7\U0001f1e8 \U0001f468\u200d\U0001f469 a\u0308b \u30ab\u30ab_", 5),
        ("one\r\ntwo\x0b\u0308a\u2028", 4),
        ("\u4e2d\u6587", 2),
    ],
)
def test_words_are_those_of_unicode_s_annex(text, words):
    assert UnicodeWords().measure(text)["num_words"] == words


@settings(deadline=None)
@given(st.text(alphabet="ab1. ,'\n\u0308\u200d\U0001f1e6\u05d0\"\u30ab_", max_size=40))
def test_the_words_of_a_document_are_those_of_its_paragraphs(text):
    made = UnicodeWords().measure(text)
    assert made["num_words"] == sum(score for _, _, score in made["paragraphs"])
    spans = [text[start:end] for start, end, _ in made["paragraphs"]]
    assert spans == [each for each in text.splitlines(keepends=True) if each.strip()]
    for piece, (_, _, score) in zip(spans, made["paragraphs"], strict=True):
        assert UnicodeWords().measure(piece)["num_words"] == score


def test_tokens_are_counted_with_a_tokenizer_of_ones_own(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "t.json"))
    tagger = TokenLengths(OutsideFile(str(tmp_path / "t.json")))
    assert [tagger.measure(each)["num_tokens"] for each in ("a b c", "", " a ")] == [3, 0, 1]
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(CorruptShard, match="no.json: is no tokenizer"):
        TokenLengths(OutsideFile(str(tmp_path / "no.json"))).measure("a")
    assert digest(tagger) != digest(TokenLengths(OutsideFile(str(tmp_path / "no.json"))))


@pytest.mark.parametrize(
    ("language", "text", "comments"),
    [
        ("python", '"""Doc."""\nx = 1  # hi\n', "Doc.\n hi"),
        ("python", "def f():\n    'What.'\nclass A:\n    'It.'\n", "It.\nWhat."),
        ("python", "x = 1\n", ""),
        ("python", "# one\nx = (\n", ""),
        ("python", "'a' 'b\x00'", ""),
        ("java", "// a\nint x; /* b */\n", "// a/* b */"),
        ("python", "", ""),
    ],
)
def test_comments_are_a_share_of_the_text(language, text, comments):
    made = Comments(language).measure(text)["comment_ratio"]
    assert made == pytest.approx(len(comments) / max(1, len(text)), abs=1e-5)


def test_a_language_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="language is 'klingon', of which Pygments has no lexer"):
        Comments("klingon")
    with pytest.raises(ValueError, match="language is empty"):
        Comments(" ")


@pytest.mark.parametrize("language", ["python", "java", "javascript", "csharp", "typescript"])
@pytest.mark.parametrize("piece", ["a ", "a\n", "a.", "/* ", "/** x ", "$", "// a /* "])
def test_comments_are_looked_for_in_time_that_grows_by_the_text(language, piece):
    text = piece * (50_000 // len(piece))
    before = time.process_time()
    Comments(language).measure(text)
    assert time.process_time() - before < 10


@pytest.mark.parametrize("language", ["java", "javascript", "c", "csharp"])
@pytest.mark.parametrize(
    "text",
    [
        "/* " + "plain words " * 99 + "*/ int x;",
        "// " + "plain words " * 99 + "\nint x;",
        "/* one */ x = 1; // two\n" + "word\n" * 999 + "// three",
        's = "' + "plain words " * 99 + '"; // end',
        "// /* " * 40 + "\nint x; // end",
    ],
)
def test_comments_are_those_of_pygments_where_words_are_many(language, text):
    from pygments.lexers import get_lexer_by_name
    from pygments.token import Comment

    tokens = get_lexer_by_name(language).get_tokens(text)
    kinds = (Comment.Single, Comment.Multiline)
    expected = sum(len(part) for kind, part in tokens if kind in kinds) / len(text)
    assert Comments(language).measure(text)["comment_ratio"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "piece", ["eyJ", "a://", "pwd", "pwd ", '"pwd"', "secret=", '"', " ", "= ", "a=(", "sk-", "\t="]
)
@pytest.mark.parametrize("line", [999, 60_000])
def test_secrets_are_looked_for_in_time_that_grows_by_the_text(piece, line):
    pytest.importorskip("detect_secrets")
    text = "\n".join([(piece * line)[:line], ("pwd" * 20 + piece * line)[:line]] * 2)
    Secrets().measure("warm")
    before = time.process_time()
    made = Secrets().measure(text)
    assert time.process_time() - before < 10
    assert line < 1000 or made["num_skipped_lines"] == 4


@pytest.mark.parametrize("tagger", [Gopher(), C4(), Pii(), Lengths(), Code()])
def test_the_version_of_unicode_is_in_the_key_of_what_tells_letters_by_it(tagger, monkeypatch):
    before = digest(tagger)
    monkeypatch.setattr("unicodedata.unidata_version", "99.0.0")
    assert digest(tagger) != before


@pytest.mark.parametrize(
    ("tagger", "package"),
    [
        (Comments("java"), "pygments"),
        (Secrets(), "detect-secrets"),
        (FastText("t", OutsideFile("s3://m.bin", "1"), ("a",), by="sentence"), "blingfire"),
    ],
)
def test_the_version_of_a_package_that_measures_is_in_the_key(tagger, package, monkeypatch):
    versions = {package: "1.0"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    before = digest(tagger)
    versions[package] = "1.1"
    assert digest(tagger) != before


def corpus_graph(tmp_path, **steps):
    (tmp_path / "in.jsonl").write_text('{"id": "a", "text": "one"}\n')
    source = {"type": "jsonl", "path": str(tmp_path / "in.jsonl"), "source": "s"}
    return {"corpus": {"type": "ingest", "source": source}} | steps


@pytest.mark.parametrize("kind", ["near_duplicates", "decontaminate"])
def test_the_version_of_unicode_is_in_the_key_of_what_compares_words(kind, tmp_path, monkeypatch):
    reads = ["documents", "evaluation"] if kind == "decontaminate" else ["documents"]
    step = {"type": kind, **dict.fromkeys(reads, {"type": "ref", "ref": "corpus"})}
    steps = corpus_graph(tmp_path, step=step)
    before = build_steps(steps)["step"].unique_id
    monkeypatch.setattr("unicodedata.unidata_version", "99.0.0")
    after = build_steps(steps)
    assert after["step"].unique_id != before
    assert after["corpus"].unique_id == build_steps(steps)["corpus"].unique_id


@pytest.mark.parametrize(
    ("tagger", "fault"),
    [
        ({"type": "comments", "language": "klingon"}, r"\.language is 'klingon', of which Pyg"),
        ({"type": "language", "languages": ["xx"]}, r"\.languages has 'xx'; the model has af"),
        ({"type": "c4", "naughty_words": "latin.txt"}, r"\.naughty_words is 'latin.txt', .* UTF-8"),
    ],
)
def test_a_value_that_is_wrong_is_told_when_the_graph_is_built(
    tagger, fault, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("schei\u00dfe".encode("latin-1"))
    tag = {"type": "tag", "documents": {"type": "ref", "ref": "corpus"}, "taggers": [tagger]}
    with pytest.raises(WiringError, match=r"steps\.own\.taggers\[0\]" + fault):
        build_steps(corpus_graph(tmp_path, own=tag))


def test_unicode_s_words_have_the_classes_of_characters_in_their_key(monkeypatch):
    before = digest(UnicodeWords())
    other = class_table().copy()
    other[0x1F970] ^= 1
    monkeypatch.setattr("pipeline.data.word_classes.class_table", lambda: other)
    class_table_digest.cache_clear()
    try:
        assert digest(UnicodeWords()) != before
    finally:
        class_table_digest.cache_clear()


def test_a_secret_is_marked_wherever_it_stands():
    pytest.importorskip("detect_secrets")
    key = "AKIA" + "IOSFODNN7EXAMPLE"  # the one that its provider's documentation has
    text = f"x = 1\nid = '{key}'\n# é\nagain = '{key}'\n"
    made = Secrets().measure(text)
    assert [text[start:end] for start, end, _ in made["secrets"]] == [key, key]
    assert made["num_secrets"] == 2 and made["secrets_per_word"] == round(2 / 11, 5)
    key_in_a_long_line = f"{key} {'x' * 1000}\nid = '{key}'"
    found = Secrets().measure(key_in_a_long_line)
    assert found["num_secrets"] == found["num_skipped_lines"] == 1
    assert Secrets().measure("plain words")["secrets"] == []
    assert Secrets().measure("")["secrets_per_word"] == -1
