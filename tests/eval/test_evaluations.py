"""What is measured of a model in training is what the steps measure of its checkpoint."""

import dataclasses

import pytest

from pipeline.core.errors import MismatchedInputs
from pipeline.core.shards import read_shard
from pipeline.eval.evaluations import (
    AnswerScoresEvery,
    PairScoresEvery,
    PerplexityEvery,
    RankEvalEvery,
)
from pipeline.eval.perplexity import answer_scores, pair_scores, perplexity
from pipeline.eval.ranking import rank_eval
from pipeline.eval.tasks import ingest_tasks
from pipeline.model.scoring import Scorer
from pipeline.tokens.chat import prepare_examples, prepare_pairs
from tests.eval.conftest import conversations, sentence, write_documents
from tests.eval.test_measures import Asked
from tests.model.fakes import TINY, tiny_model


@pytest.fixture
def pairs(tmp_path, tokenizer):
    talks = conversations(8)
    metadata = [
        {"prompt": t["messages"][:1], "chosen": sentence(n, 4), "rejected": sentence(n + 1, 6)}
        for n, t in enumerate(talks)
    ]
    documents = write_documents(tmp_path / "pd", [str(n) for n in range(8)], metadata)
    return prepare_pairs(documents, tokenizer, max_length=48, out=tmp_path / "pairs")


@pytest.fixture
def examples(tmp_path, tokenizer):
    talks = conversations(8)
    documents = write_documents(tmp_path / "ed", [str(n) for n in range(8)], talks)
    return prepare_examples(documents, tokenizer, max_length=48, out=tmp_path / "examples")


@pytest.fixture
def both(tmp_path, documents, tokenizer, checkpoints, examples, pairs):
    """Kind -> the evaluation, and the scores that its step makes of the latest checkpoint."""
    models, text = {"m": checkpoints}, {"tokenizer": tokenizer}
    words = {"documents": {"words": documents}, "max_documents": 7}
    questions = {"questions": ingest_tasks(Asked(one="fox", two="dog"), out=tmp_path / "asked")}
    return {
        "perplexity": (PerplexityEvery, perplexity, text | words),
        "rank_eval": (RankEvalEvery, rank_eval, text | questions),
        "answer_scores": (AnswerScoresEvery, answer_scores, {"examples": examples, "limit": 5}),
        "pair_scores": (PairScoresEvery, pair_scores, {"pairs": pairs, "limit": 5}),
    }, models


@pytest.mark.parametrize("kind", ["perplexity", "rank_eval", "answer_scores", "pair_scores"])
def test_every_kind_gives_the_rows_of_its_step(kind, both, tmp_path):
    kinds, models = both
    evaluation, step, reads = kinds[kind]
    scores = step(models, **reads, out=tmp_path / "scores")
    rows = read_shard(scores.root, scores.scores).to_pylist()
    wanted = [{n: each for n, each in row.items() if n not in ("model", "step")} for row in rows]
    made = evaluation(every=1, **reads)
    assert made.name == kind
    assert made.begin()(Scorer(tiny_model(1))) == wanted != []


def test_one_with_other_ids_or_too_many_of_them_is_refused(tokenizer, documents, pairs, examples):
    text = PerplexityEvery(every=1, tokenizer=tokenizer, documents={"words": documents})
    for each in (
        text,
        AnswerScoresEvery(every=1, examples=examples, name="mine"),
        PairScoresEvery(every=1, pairs=pairs),
    ):
        each.require(TINY, tokenizer.content)
        each.require(TINY, "")
        with pytest.raises(MismatchedInputs, match=f"'{each.name}'.*reads the ids of {'f' * 12}"):
            each.require(TINY, "f" * 64)
    with pytest.raises(MismatchedInputs, match=r"ids, the model 64 rows of the vocabulary"):
        text.require(dataclasses.replace(TINY, vocab_size=64), "")
