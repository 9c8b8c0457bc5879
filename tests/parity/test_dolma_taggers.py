"""Attributes equal those of the package `dolma` itself, to its own five decimals."""

import gzip
import itertools
import json
import os
import random
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.fingerprints import OutsideFile
from pipeline.data.batch import BatchTagger, Texts, as_array
from pipeline.data.made_up import write_fasttext
from pipeline.data.taggers.c4 import C4
from pipeline.data.taggers.code import Code
from pipeline.data.taggers.comments import Comments
from pipeline.data.taggers.fasttext_model import FastText
from pipeline.data.taggers.gopher import Gopher
from pipeline.data.taggers.language import Language, LanguageParagraphs, model_path
from pipeline.data.taggers.pii import Pii
from pipeline.data.taggers.secrets import Secrets
from pipeline.data.taggers.unicode_words import UnicodeWords

SCRIPT = Path(__file__).with_name("dolma_tags.py")
PIECES = [
    *"abcABC019 \n\n\n\t .,;:?!\"'()[]{}#*-_@/\\…•éßñ",
    *"İıſﬁ中文字🙂\u200b\u0301\u2028\x00\r\x0b\x85\xa0",
    "the ",
    "and ",
    "lorem ipsum ",
    "JavaScript ",
    "a.b@c.org ",
    "a@b@c.org\n",
    " (206) 555-0123",
    " 2065550123",
    "192.168.1.254",
    "999.1.1.1",
    "/* Copyright */",
    "/* a */",
    "\n- ",
    "\n* ",
    "…\n",
    "same line\n",
    "one two three four five six seven ",
]
# where we mean to differ: C4's docstring says how
DIFFERS = {("c4_v2", "lines_with_no_ending_punctuation"), ("c4_v2", "lines_with_too_few_words")}
CODE = {  # each is a part of our one table
    "code_redpajama_taggers_v1": [
        "max_line_length",
        "avg_line_length",
        "alnum_prop",
        "alpha_token_prop",
    ],
    "code_copyright_comments_v1": ["copyright_notice"],  # the block ends otherwise
}
TAGGERS = ("gopher_v1", "gopher_v2", "c4_v1", "c4_v2", "pii_regex_with_counts_fast_v2", *CODE)
pytestmark = pytest.mark.parity


def hostile(seed, count):
    rng = random.Random(seed)
    return ["".join(rng.choices(PIECES, k=rng.randint(0, 120))) for _ in range(count)]


def column_of(name):
    return name.lower().removesuffix("_doc")


def tags_of(python, texts, folder, taggers=TAGGERS):
    source, target = folder / "texts.jsonl", folder / "tags.jsonl"
    source.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    environment = {**os.environ, "NLTK_DATA": str(folder)}
    done = subprocess.run(
        [python, SCRIPT, source, target, *taggers], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def ours(python):
    code = "import importlib.util as i; print(i.find_spec('dolma').submodule_search_locations[0])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    words = str(Path(done.stdout.strip()) / "data" / "naughty_words_en.txt")
    return {
        "gopher_v1": Gopher(),
        "gopher_v2": Gopher("v2"),
        "c4_v1": C4("v1", words),
        "c4_v2": C4("v2", words),
        "pii_regex_with_counts_fast_v2": Pii(),
        "code_redpajama_taggers_v1": Code(),
        "code_copyright_comments_v1": Code(),
    }


def measured(tagger, texts):
    """Column -> a value for each text, as `tag` would store them."""
    if not isinstance(tagger, BatchTagger):
        rows = [tagger.measure(text) for text in texts]
        return {name: [row[name] for row in rows] for name in tagger.COLUMNS}
    made = tagger.measure_all(Texts.of(pa.array(texts, pa.string())))
    columns = {name: as_array(column).to_pylist() for name, column in made.items()}
    for name, values in columns.items():
        if tagger.COLUMNS[name] == "spans":
            columns[name] = [[tuple(span.values()) for span in spans] for spans in values]
    return columns


def unequal(taggers, texts, tags):
    """Tagger, column, place and both values of everything that is not equal."""
    for name, tagger in taggers.items():
        columns = measured(tagger, texts)
        wanted = CODE.get(name, tagger.COLUMNS)
        for place, (text, every) in enumerate(zip(texts, tags, strict=True)):
            if every[name] is None:
                continue
            found = {column_of(column): spans for column, spans in every[name].items()}
            assert found.keys() - {"doc"} <= tagger.COLUMNS.keys(), name
            for column in wanted:
                kind = tagger.COLUMNS[column]
                own, their = columns[column][place], found.get(column)
                if kind == "spans":
                    same = [list(each) for each in own] == (their or [])
                elif their is None:  # a measure that is 0 or not defined is left out there
                    same = not own
                else:
                    same = own is not None and abs(own - their[0][2]) <= 1e-5
                if not same and not ((name, column) in DIFFERS and len(text.lower()) != len(text)):
                    yield name, column, place, own, their


def real(paths, count):
    """So many of the documents of each file, as many as there are."""
    texts = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in itertools.islice(lines, count)]
    return texts


def near(own, their, tolerance=2e-5):
    """Whether spans are at the same places, and their scores nearly the same."""
    return len(own) == len(their) and all(
        a[:2] == tuple(b[:2]) and abs(a[2] - b[2]) <= tolerance
        for a, b in zip(own, their, strict=True)
    )


def test_every_attribute_of_hostile_text_is_equal(dolma, tmp_path):
    texts = hostile(1, 4000)
    tags = tags_of(dolma, texts, tmp_path)
    assert list(itertools.islice(unequal(ours(dolma), texts, tags), 5)) == []
    failed = {name: sum(each[name] is None for each in tags) for name in tags[0]}
    assert max(failed.values()) < len(texts) / 10, failed


def test_every_attribute_of_real_documents_is_equal(dolma, real_texts, tmp_path):
    texts = real(real_texts, 300)
    assert len(texts) >= 2000
    tags = tags_of(dolma, texts, tmp_path)
    assert list(itertools.islice(unequal(ours(dolma), texts, tags), 5)) == []


def test_words_of_paragraphs_are_those_that_uniseg_counts(dolma, real_texts, tmp_path):
    name = "uniseg_length_paragraphs_with_doc_length_v1"
    more = "\u05d0\u05d1\u30ab\U0001f1e6\U0001f468\u200d\u2764\ufe0f\u00ad\u3000\xb7\u0663"
    rng = random.Random(5)
    texts = hostile(3, 1000) + [text[:3000] for text in real(real_texts, 60)]
    texts += ["".join(rng.choices([*PIECES, *more], k=20)) for _ in range(3000)]
    columns = measured(UnicodeWords(), texts)
    for place, tags in enumerate(tags_of(dolma, texts, tmp_path, [name])):
        theirs = tags[name]
        own = columns["paragraphs"][place]
        assert [list(each) for each in own] == theirs.get("paragraph", []), texts[place]
        assert columns["num_words"][place] == theirs["document"][0][2]


def test_languages_are_those_of_the_same_model(dolma, real_texts, tmp_path):
    model = model_path()
    taggers = ["ft_lang_id_en_doc_v2", "ft_lang_id_en_paragraph_with_doc_score_v2"]
    texts = [text[:2000] for text in real(real_texts, 60)]
    whole, parts = Language(), LanguageParagraphs()
    tags = tags_of(dolma, texts, tmp_path, [f"{each}={model}" for each in taggers])
    for text, found in zip(texts, tags, strict=True):
        one, many = found[taggers[0]], found[taggers[1]]
        own = whole.measure(text)
        assert [own["en"], own["not_en"]] == pytest.approx(
            [one["en"][0][2], one["not_en"][0][2]], abs=2e-5
        )
        own = parts.measure(text)
        assert near(own["en_paragraphs"], many.get("en", []))
        assert near(own["not_en_paragraphs"], many.get("not_en", []))
        assert own["doc_en"] == pytest.approx(many["doc_en"][0][2], abs=2e-5)
        assert own["doc_not_en"] == pytest.approx(many["doc_not_en"][0][2], abs=2e-5)


def test_sentences_and_their_scores_are_those_of_the_same_model(dolma, real_texts, tmp_path):
    pytest.importorskip("blingfire")
    words = {"</s>": [-1.0], "the": [1.5], "of": [-2.0], "you": [3.0], "is": [0.5]}
    model = tmp_path / "model.bin"
    write_fasttext(model, words, {"toxic": [2.0], "nontoxic": [-2.0]})
    tagger = FastText("t", OutsideFile(str(model)), ("toxic", "nontoxic"), by="sentence")
    texts = [text[:3000] for text in real(real_texts, 100)] + hostile(4, 1000)
    name = "jigsaw_hatespeech_sentence_v2"
    for text, found in zip(
        texts, tags_of(dolma, texts, tmp_path, [f"{name}={model}"]), strict=True
    ):
        own = tagger.measure(text)
        for label in ("toxic", "nontoxic"):
            theirs = found[name].get(f"__label__{label}", [])
            theirs = [each for each in theirs if text[each[0] : each[1]].strip()]
            assert near(own[f"{label}_sentences"], theirs), text


def programs(count):
    """Sources of the Python installation, and copies that were cut in the middle."""
    paths = sorted(Path(os.__file__).parent.glob("*.py"))[:count]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return texts + [text[: len(text) // 2] for text in texts]


@pytest.mark.parametrize(("language", "extension"), [("python", "py"), ("java", "java")])
def test_comments_are_as_long(dolma, tmp_path, language, extension):
    name, texts = "code_starcoder_taggers_v2", [*programs(60), "/* a */ int b; // c\n/** d */"]
    tags = tags_of(dolma, texts, tmp_path, [f"{name}@{extension}"])
    for text, found in zip(texts, tags, strict=True):
        own = Comments(language).measure(text)["comment_ratio"]
        assert own == pytest.approx(found[name]["code_to_comment_ratio_doc"][0][2], abs=2e-5)


def test_secrets_are_found_where_dolma_finds_them(dolma, tmp_path):
    pytest.importorskip("detect_secrets")
    rng = random.Random(6)
    words = ["x = 1", "password = 'hunter2hunter'", "key: AKIA" + "IOSFODNN7EXAMPLE", "é", "# no"]
    words += [
        "url = 'https://me:secretword@host.org'",
        "token = 'ghp_" + "a1B2c3D4e5" * 3 + "123456'",
    ]
    texts = ["\n".join(rng.sample(words, k=rng.randint(1, 6))) for _ in range(200)] + programs(20)
    name, several = "code_secrets_v1", 0
    for text, found in zip(texts, tags_of(dolma, texts, tmp_path, [name]), strict=True):
        if found[name] is None:
            continue
        theirs = {
            text[start:end]
            for kind, spans in found[name].items()
            if kind != "doc"
            for start, end, _ in spans
        }
        own = Secrets().measure(text)
        assert {text[start:end] for start, end, _ in own["secrets"]} == theirs
        several += len(theirs) > 1
    assert several > 50
