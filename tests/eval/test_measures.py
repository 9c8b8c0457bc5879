import math

import pytest
import torch

from pipeline.core.errors import CorruptShard
from pipeline.core.shards import read_shard
from pipeline.data.document import MetadataField
from pipeline.eval import ranking
from pipeline.eval.generate import generate_text
from pipeline.eval.perplexity import answer_scores, pair_scores, perplexity, windows
from pipeline.eval.ranking import chosen_by, rank_eval
from pipeline.eval.scoring import Likelihood, loglikelihoods
from pipeline.eval.tasks import Question, function_questions, ingest_tasks
from pipeline.model.hf import export_hf
from pipeline.model.scoring import score_rows
from pipeline.store.memo import FileMemo
from pipeline.tokens.chat import prepare_examples, prepare_pairs
from tests.eval.conftest import conversations, sentence, write_documents
from tests.model.fakes import TINY, tiny_model, write_checkpoints


def scores_of(made):
    return read_shard(made.root, made.scores).to_pylist()


def answers_of(made):
    return read_shard(made.root, made.answers).to_pylist()


def uniform_model():
    model = tiny_model()
    with torch.no_grad():
        model.head.weight.zero_()
    return model


def test_a_uniform_model_has_perplexity_equal_to_its_vocabulary(tmp_path, documents, tokenizer):
    checkpoints = write_checkpoints(tmp_path, [uniform_model()], tokenizer.content)
    made = perplexity({"flat": checkpoints}, tokenizer, {"words": documents}, out=tmp_path / "s")
    found = {row["metric"]: row for row in scores_of(made)}
    assert found["perplexity"]["value"] == pytest.approx(TINY.vocab_size, rel=1e-5)
    assert found["perplexity"]["standard_error"] == pytest.approx(0, abs=1e-3)
    assert found["perplexity"]["num_items"] == 24  # the empty document is left out
    bits = found["num_tokens"]["value"] * math.log2(TINY.vocab_size) / found["num_bytes"]["value"]
    assert found["bits_per_byte"]["value"] == pytest.approx(bits, rel=1e-5)
    assert found["num_bytes"]["value"] == documents.num_text_bytes


@pytest.mark.parametrize("count", [1, 2, 47, 48, 49, 50, 96, 97, 131])
def test_windows_score_every_token_once_with_full_context(count):
    ids = list(range(count + 1))
    rows = windows(ids, 48)
    assert [row.ids[place] for row in rows for place in row.scored] == ids[1:]
    assert all(len(row.ids) <= 49 for row in rows)
    assert all(len(row.ids) == 49 for row in rows[1:])


def test_windows_of_a_document_that_fits_are_the_document():
    model = tiny_model()
    (row,) = windows(list(range(30)), 48)
    (scored,) = score_rows(model, [row])
    ids = torch.arange(30)[None]
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(
            model.logits(model(ids[:, :-1]))[0], ids[0, 1:], reduction="sum"
        )
    assert scored.logprobs.sum() == pytest.approx(-losses.item(), rel=1e-5)


def test_perplexity_over_steps_is_of_each_steps_weights(
    tmp_path, documents, tokenizer, checkpoints
):
    models, texts = {"a": checkpoints}, {"words": documents}
    both = perplexity(models, tokenizer, texts, steps="all", max_documents=5, out=tmp_path / "s")
    one = perplexity(models, tokenizer, texts, steps=[2], max_documents=5, out=tmp_path / "t")
    assert len(answers_of(both)) == 10
    assert [row for row in scores_of(both) if row["step"] == 2] == scores_of(one)
    by_step = {r["step"]: r["value"] for r in scores_of(both) if r["metric"] == "perplexity"}
    assert by_step[1] != by_step[2]


def test_an_exported_model_scores_as_its_checkpoint(tmp_path, documents, tokenizer, checkpoints):
    exported = export_hf(checkpoints, tokenizer, out=tmp_path / "hf")
    models = {"own": checkpoints, "exported": exported}
    made = perplexity(models, tokenizer, {"w": documents}, max_documents=4, out=tmp_path / "s")
    values = [row["value"] for row in scores_of(made) if row["metric"] == "perplexity"]
    assert values[0] == values[1]


def test_answers_are_scored_by_their_mask_and_bytes(tmp_path, tokenizer):
    talks = conversations(12)
    documents = write_documents(tmp_path / "d", [str(n) for n in range(12)], talks)
    examples = prepare_examples(documents, tokenizer, max_length=48, out=tmp_path / "e")
    checkpoints = write_checkpoints(tmp_path, [uniform_model()], tokenizer.content)
    made = answer_scores({"flat": checkpoints}, examples, out=tmp_path / "s")
    rows = answers_of(made)
    assert len(rows) == examples.num_examples > 0
    for row in rows:
        answer = talks[int(row["id"][1:])]["messages"][1]["content"]
        assert row["num_bytes"] == len(answer.encode())
        assert row["logprob"] == pytest.approx(-row["num_tokens"] * math.log(384), rel=1e-5)
    assert len(answers_of(answer_scores({"f": checkpoints}, examples, limit=3, out=tmp_path))) == 3


def test_a_pair_turned_round_is_preferred_the_other_way(tmp_path, tokenizer, checkpoints):
    talks = conversations(16)
    sides = [(t["messages"][1]["content"], sentence(n + 1, 6)) for n, t in enumerate(talks)]
    made = []
    for name, (left, right) in {"a": (0, 1), "b": (1, 0)}.items():
        metadata = [
            {"prompt": talk["messages"][:1], "chosen": both[left], "rejected": both[right]}
            for talk, both in zip(talks, sides, strict=True)
        ]
        root = tmp_path / name
        documents = write_documents(root / "d", [str(n) for n in range(16)], metadata)
        pairs = prepare_pairs(documents, tokenizer, max_length=48, out=root / "p")
        made.append(pair_scores({"m": checkpoints}, pairs, out=root / "s"))
    straight, turned = (answers_of(each) for each in made)
    assert len(straight) > 3
    assert [1 - row["value"] for row in straight] == [row["value"] for row in turned]
    preferred, margin = scores_of(made[0])
    assert preferred["metric"] == "preferred_per_byte"
    share = sum(row["value"] for row in straight) / len(straight)
    assert preferred["value"] == pytest.approx(share)
    assert margin["value"] == pytest.approx(-scores_of(made[1])[1]["value"])


def test_every_normalization_can_choose_another():
    texts = ["ab", "abcdefgh", "éééé"]
    question = Question("t", "q", [""] * 3, texts, 0, [""] * 3, "", "MIT")
    own = [Likelihood(p, n, False, 0) for p, n in ((-2.0, 1), (-4.0, 5), (-2.4, 2))]
    alone = [Likelihood(p, 1, False, 0) for p in (-1.0, -9.0, -2.0)]
    assert chosen_by(question, own, alone) == {
        "raw": 0,
        "per_token": 1,
        "per_character": 1,
        "per_byte": 2,
        "unconditional": 1,
    }
    assert "unconditional" not in chosen_by(question, own, None)


def test_ranks_are_recorded_by_item_and_sum_to_the_scores(tmp_path, tokenizer, checkpoints):
    documents = write_documents(tmp_path / "d", [str(n) for n in range(30)], conversations(30))
    questions = function_questions(documents, limit=20, out=tmp_path / "q")
    made = rank_eval({"m": checkpoints}, tokenizer, questions, steps="all", out=tmp_path / "s")
    rows = answers_of(made)
    assert len(rows) == 40
    for step in (1, 2):
        found = {r["metric"]: r for r in scores_of(made) if r["step"] == step}
        right = [r["chosen"] == r["gold"] for r in rows if r["step"] == step]
        assert found["accuracy"]["value"] == pytest.approx(sum(right) / 20)
        assert found["accuracy"]["value"] == found["accuracy_per_byte"]["value"]
        assert found["chance"]["value"] == 0.25


class Asked:
    """Three questions of each task, whose answers begin with a word of their own."""

    def __init__(self, **words):
        self.words = words

    def fingerprint(self):
        return str(self.words)

    def questions(self):
        for task, word in self.words.items():
            for number in range(3):
                choices = [f" {word} {sentence(number + k, 2)}" for k in range(3)]
                contexts = [sentence(number, 6)] * 3
                yield Question(task, str(number), contexts, choices, 1, [""] * 3, "", "MIT")


def test_a_changed_task_costs_only_its_own_scores(tmp_path, tokenizer, checkpoints, monkeypatch):
    memo, asked = FileMemo(tmp_path / "memo"), []

    def counted(scorer, tokenizer, requests):
        asked.extend(requests)
        return loglikelihoods(scorer, tokenizer, requests)

    monkeypatch.setattr(ranking, "loglikelihoods", counted)

    def ranked(name, memo, **words):
        questions = ingest_tasks(Asked(**words), out=tmp_path / f"{name} questions")
        asked.clear()
        models, out = {"m": checkpoints}, tmp_path / name
        return rank_eval(models, tokenizer, questions, out=out, memo=memo), len(asked)

    first, num_first = ranked("first", memo, one="fox", two="dog")
    _, num_changed = ranked("changed", memo, one="fox", two="dawn")
    assert (num_first, num_changed) == (36, 18)
    alone, num_alone = ranked("alone", memo, two="dog")
    again, num_again = ranked("again", memo, one="fox", two="dog")
    plain, num_plain = ranked("plain", None, one="fox", two="dog")
    assert (num_alone, num_again, num_plain) == (0, 0, 36)
    assert first.content == again.content == plain.content
    assert answers_of(alone) == [row for row in answers_of(first) if row["task"] == "two"]
    assert sorted(each.name for each in again.root.iterdir()) == [
        "answers.parquet",
        "manifest.json",
        "scores.parquet",
    ]
    other = rank_eval(
        {"m": checkpoints},
        tokenizer,
        ingest_tasks(Asked(one="fox"), out=tmp_path / "q"),
        steps=[1],
        out=tmp_path / "other",
        memo=memo,
    )
    assert len(asked) == 36 + 18 and answers_of(other) != answers_of(first)[:3]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generation_is_a_function_of_its_seed(tmp_path, tokenizer, checkpoints, temperature):
    prompts = ["the quick", "", " ".join(sentence(n, 9) for n in range(9))]

    def written(seed, name):
        made = generate_text(
            checkpoints,
            tokenizer,
            prompts,
            max_new_tokens=12,
            temperature=temperature,
            seed=seed,
            out=tmp_path / name,
        )
        return read_shard(made.root, made.shards[0]).to_pylist()

    first, again, other = written(0, "a"), written(0, "b"), written(1, "c")
    assert first == again
    assert [row["prompt"] for row in first] == prompts
    assert all(max(row["tokens"], default=0) < tokenizer.vocab_size for row in first)
    same = [row["tokens"] for row in first] == [row["tokens"] for row in other]
    assert same == (temperature == 0)


GROUPED = MetadataField("metadata.module")


def test_what_is_from_one_module_is_one_draw_in_every_error(tmp_path, tokenizer, checkpoints):
    talks = [{**talk, "module": f"m{n // 4}"} for n, talk in enumerate(conversations(16))]
    for n, talk in enumerate(talks):
        prompt = talk["messages"][:1]
        talk |= {"prompt": prompt, "chosen": sentence(n, 5), "rejected": sentence(n + 1, 6)}
    documents = write_documents(tmp_path / "d", [sentence(n, 9) for n in range(16)], talks)
    made = {"max_length": 64, "group_by": GROUPED}
    examples = prepare_examples(documents, tokenizer, out=tmp_path / "e", **made)
    pairs = prepare_pairs(documents, tokenizer, out=tmp_path / "p", **made)
    asked = function_questions(documents, group_by=GROUPED, out=tmp_path / "q")
    models, texts = {"m": checkpoints}, {"w": documents}
    scores = [
        perplexity(models, tokenizer, texts, group_by=GROUPED, out=tmp_path / "s0"),
        answer_scores(models, examples, out=tmp_path / "s1"),
        pair_scores(models, pairs, out=tmp_path / "s2"),
        rank_eval(models, tokenizer, asked, out=tmp_path / "s3"),
    ]
    for each in scores:
        assert {row["group"] for row in answers_of(each)} == {"m0", "m1", "m2", "m3"}
        assert {row["num_groups"] for row in scores_of(each)} == {4}
        assert {row["num_items"] for row in scores_of(each)} == {16}
        assert not any(math.isnan(row["standard_error"]) for row in scores_of(each))


def test_a_document_without_what_it_is_grouped_by_is_named(tmp_path, tokenizer, checkpoints):
    documents = write_documents(tmp_path / "d", ["a b"], conversations(1))
    texts = {"w": documents}
    for make in (
        lambda: perplexity({"m": checkpoints}, tokenizer, texts, group_by=GROUPED, out=tmp_path),
        lambda: prepare_examples(
            documents, tokenizer, max_length=64, group_by=GROUPED, out=tmp_path / "e"
        ),
        lambda: function_questions(documents, num_choices=2, group_by=GROUPED, out=tmp_path),
    ):
        with pytest.raises(CorruptShard, match="record d0: .*has no metadata.module"):
            make()
    with pytest.raises(ValueError, match="name is 'module'; it must be metadata.<name>"):
        MetadataField("module")
