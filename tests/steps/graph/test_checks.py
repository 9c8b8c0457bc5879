"""What can be known to fail from the values of an experiment fails before any work."""

import json

import pytest

from steps.graph.wiring import WiringError, build_steps
from tests.steps.lab import ref

MODEL = {
    "d_model": 8,
    "n_layers": 1,
    "n_heads": 1,
    "mlp_hidden_size": 16,
    "vocab_size": 384,
    "max_sequence_length": 16,
}
TRAIN = {
    "batch_size": 4,
    "schedule": {"type": "linear", "peak_lr": 1e-3, "warmup_steps": 10, "total_steps": 300},
    "save_steps": 100,
    "stop_at": 250,
}


@pytest.fixture
def graph(bench):
    """Every kind of step whose values may fail, over the small corpus."""
    documents, tokenizer = ref("kept"), ref("tokenizer")
    prepared = {"documents": documents, "tokenizer": tokenizer, "max_length": 16}
    scored = {"models": {"base": ref("base")}, "tokenizer": tokenizer}
    trained = {"train": TRAIN, "launch": {"ranks": 2, "microbatch": 3}}
    return {
        **bench.config(),
        "marks": {"type": "dedup", "documents": documents, "by": ["document"]},
        "near": {"type": "near_duplicates", "documents": documents},
        "once": {
            "type": "filter",
            "documents": documents,
            "attributes": [ref("near")],
            "rules": [{"attribute": "near_duplicates.duplicate_near", "at_most": 0}],
        },
        "overlaps": {"type": "decontaminate", "documents": documents, "evaluation": documents},
        "all": {"type": "concat", "documents": [documents]},
        "mix": {
            "type": "mix",
            "tokens": {"code": ref("tokens"), "prose": ref("tokens")},
            "sequence_length": 16,
            "proportions": {"code": 0.5, "prose": 1},
        },
        "base": {"type": "pretrain", "mix": ref("mix"), "model": MODEL, **trained},
        "examples": {"type": "prepare_examples", **prepared},
        "pairs": {"type": "prepare_pairs", **prepared},
        "sft": {"type": "sft", "checkpoints": ref("base"), "examples": ref("examples"), **trained},
        "reference": {
            "type": "reference_logprobs",
            "checkpoints": ref("sft"),
            "pairs": ref("pairs"),
        },
        "dpo": {"type": "dpo", "checkpoints": ref("sft"), "pairs": ref("reference"), **trained},
        "questions": {"type": "function_questions", "documents": documents},
        "ranks": {"type": "rank_eval", **scored, "questions": ref("questions"), "steps": [0, 100]},
        "text": {"type": "perplexity", **scored, "documents": {"d": documents}, "steps": "all"},
        "answers": {
            "type": "answer_scores",
            "models": {"b": ref("base")},
            "examples": ref("examples"),
        },
        "preferred": {
            "type": "pair_scores",
            "models": {"b": ref("base")},
            "pairs": ref("reference"),
        },
        "says": {
            "type": "generate",
            "checkpoints": ref("dpo"),
            "tokenizer": tokenizer,
            "prompts": ["x"],
        },
    }


def changed(graph, path, value):
    """A copy of a graph in which one value, by its path below `steps`, is another."""
    made = json.loads(json.dumps(graph))
    *way, last = path.split(".")
    place = made
    for each in way:
        place = place.setdefault(each, {})
    place[last] = value
    return made


def fault(graph):
    with pytest.raises(WiringError) as caught:
        build_steps(graph)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_graph_as_it_stands_is_built(graph):
    assert set(build_steps(graph)) == set(graph)


@pytest.mark.parametrize(
    ("path", "value", "must"),
    [
        ("corpus.shard_bytes", 0, "at least 1"),
        ("corpus.max_malformed", -1, "at least 0"),
        ("overlaps.min_words", 0, "at least 1"),
        ("near.num_bands", 0, "at least 1"),
        ("near.ngram_words", 0, "at least 1"),
        ("near.seed", -1, "from 0 to 4294967295"),
        ("tokenizer.vocab_size", 257, "at least 258"),
        ("tokenizer.sample_fraction", 0, "above 0 and at most 1"),
        ("tokenizer.sample_fraction", 1.5, "above 0 and at most 1"),
        ("mix.sequence_length", 0, "at least 1"),
        ("mix.num_instances", 0, "at least 1"),
        ("mix.proportions.code", -1, "finite and at least 0"),
        ("order.batch_size", 0, "from 1 to 1048576"),
        ("order.batch_size", 10**15, "from 1 to 1048576"),
        ("order.seed", -1, r"from 0 to 2**53 - 1"),
        ("order.num_steps", 0, "from 1 to"),
        ("order.first_step", 0, "from 1 to"),
        ("order.first_step", 10**18, "from 1 to 1099511627776"),
        ("order.world_size", 0, "at least 1"),
        ("examples.max_length", 1, "at least 2"),
        ("pairs.max_length", 1, "at least 2"),
        ("base.train.batch_size", 10**15, "at most 1048576"),
        ("sft.train.batch_size", 10**15, "at most 1048576"),
        ("base.train.seed", -1, r"from 0 to 2**53 - 1"),
        ("base.train.batch_size", 5, "a multiple of ranks, 2"),
        ("sft.train.batch_size", 5, "a multiple of ranks, 2"),
        ("dpo.train.batch_size", 5, "a multiple of ranks, 2"),
        ("dpo.train.z_loss", 0.1, "it must be 0 for preferences"),
        ("base.train.schedule.warmup_steps", 300, "below total_steps, 300"),
        ("base.model.rope_theta", 0, "positive"),
        ("base.launch.ranks", 0, "at least 1"),
        ("base.launch.threads", 10**9, "at most 4096"),
        ("base.launch.timeout_seconds", 10**18, "at most 604800"),
        ("dpo.beta", -0.1, "above 0"),
        ("questions.num_choices", 1, "at least 2"),
        ("questions.limit", 0, "at least 1"),
        ("questions.seed", -1, "from 0 to"),
        ("text.max_documents", 0, "at least 1"),
        ("answers.limit", 0, "at least 1"),
        ("preferred.limit", 0, "at least 1"),
        ("says.max_new_tokens", 0, "at least 1"),
        ("says.temperature", -1, "at least 0"),
        ("says.seed", -1, "from 0 to"),
    ],
)
def test_a_number_outside_its_range_is_told_with_its_path(graph, path, value, must):
    text = fault(changed(graph, path, value))
    assert text.startswith(f"steps.{path} is {value}") and must in text


@pytest.mark.parametrize(
    "path",
    [
        "quality.taggers",
        "marks.by",
        "all.documents",
        "mix.tokens",
        "ranks.models",
        "ranks.steps",
        "text.models",
        "text.documents",
        "answers.models",
        "preferred.models",
    ],
)
def test_what_must_hold_something_is_not_empty(graph, path):
    empty = {} if path.split(".")[1] in ("models", "tokens") or path == "text.documents" else []
    assert fault(changed(graph, path, empty)).startswith(f"steps.{path} is empty")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (
            "mix.proportions",
            {"code": 1, "pros": 1},
            "mix.proportions.pros is of no part; did you mean 'prose'?",
        ),
        ("mix.proportions", {"code": 1}, "mix.proportions.prose is missing"),
        ("mix.repeats", {"code": 2}, "mix.repeats and proportions are both given"),
        ("mix.proportions", {"code": 0, "prose": 0}, "mix.proportions are 0 for every part"),
        (
            "quality.taggers",
            ["lengths", "c4", "lengths"],
            "quality.taggers[2] writes the table 'lengths', as steps.quality.taggers[0] does",
        ),
        (
            "once.rules",
            [{"attribute": "near_duplicates.duplicate", "at_most": 0}],
            "once.rules[0].attribute is 'near_duplicates.duplicate', which nothing measures; "
            "did you mean 'near_duplicates.duplicate_near'?",
        ),
        (
            "base.order",
            {"type": "olmo"},
            "base.order is one of ai2-olmo, which reads each part of a mix once; "
            "steps.mix.proportions must be left out",
        ),
        (
            "ranks.steps",
            [100, 150],
            "ranks.steps[1] is 150, which 'base' does not save; it must be one of the 4 that it "
            "saves, of which 0, 100, 200, 250 are the nearest",
        ),
        ("text.steps", [300], "text.steps[0] is 300, which 'base' does not save"),
        ("text.steps", "al", "text.steps is 'al'; it must be of type list[int] | Literal['all']"),
        ("ranks.steps", [-1], "ranks.steps[0] is -1; it must be at least 0"),
        (
            "base.train.schedule",
            TRAIN["schedule"] | {"type": "warmup_stable_decay", "decay_steps": 291},
            "base.train.schedule.decay_steps is 291; it must be at least 1 and at most 290",
        ),
        ("base.retention", "all", "base.retention is 'all'; it must be of type int, or null"),
        ("base.retention", 0, "base.retention is 0; it must be at least 1, or null"),
        ("base.stop_on", 3, "base.stop_on is 3; it must be an object (SpikeRule), or null"),
        ("base.stop_on", {"window": "3"}, "base.stop_on.window is '3'; it must be of type int"),
        ("ranks.steps", ["0"], "ranks.steps[0] is '0'; it must be of type int"),
        (
            "mix.sequence_length",
            17,
            "mix.sequence_length is 17; it must be at most the model's max_sequence_length, 16",
        ),
        ("examples.max_length", 17, "examples.max_length is 17; it must be at most the model's"),
        ("pairs.max_length", 17, "pairs.max_length is 17; it must be at most the model's"),
        ("tokenizer.vocab_size", "many", "tokenizer.vocab_size is 'many'; it must be of type int"),
    ],
)
def test_values_that_do_not_go_together_are_told_with_their_path(graph, path, value, says):
    assert fault(changed(graph, path, value)).startswith(f"steps.{says}")


def test_what_is_not_optional_is_not_said_to_be(graph):
    said = fault(changed(graph, "base.stop_on", {"window": "3"}))
    assert said.endswith("must be of type int")


@pytest.mark.parametrize(
    ("path", "field", "value", "must"),
    [
        ("indices.path", "path", "/no/i.npy", ", which does not exist"),
        ("indices.path", "path", "ftp://i.npy", "; a URL must be one of"),
        ("examples.group_by", "name", "url", "; it must be metadata.<name>"),
    ],
)
def test_a_value_written_as_plain_text_is_told_without_the_field_it_stands_for(
    graph, path, field, value, must
):
    graph["indices"] = {"type": "import_order", "path": __file__}
    assert fault(changed(graph, path, value)).startswith(f"steps.{path} is {value!r}{must}")
    told = fault(changed(graph, path, {field: value}))
    assert told.startswith(f"steps.{path}.{field} is {value!r}{must}")


@pytest.mark.parametrize("reader", ["base", "order"])
def test_repeats_are_refused_by_an_order_of_olmo_and_a_repeat_of_one_is_none(graph, reader):
    graph["indices"] = {"type": "import_order", "path": __file__}
    for order in ({"type": "olmo"}, ref("indices")):
        ordered = changed(changed(graph, "mix.proportions", None), f"{reader}.order", order)
        assert build_steps(changed(ordered, "mix.repeats", {"code": 1.0}))
        said = fault(changed(ordered, "mix.repeats", {"code": 2.0}))
        assert said.startswith(f"steps.{reader}.order is") and "steps.mix.repeats must be" in said


@pytest.mark.parametrize(
    ("path", "value", "least", "says"),
    [
        ("base.train.stop_at", 250, 1000, "base.train.stop_at is 250"),
        ("base.train.stop_at", None, 1200, "base.train.schedule.total_steps is 300"),
        ("order.num_steps", 9, 18, "order.num_steps is 9"),
        ("order.first_step", 249, 500, "order.num_steps is 2 from first_step 249"),
    ],
)
def test_a_file_of_indices_that_ends_too_early_is_refused(
    graph, tmp_path, path, value, least, says
):
    file, reader = tmp_path / "i.npy", path.partition(".")[0]
    graph["indices"] = {"type": "import_order", "path": str(file)}
    graph = changed(changed(graph, "mix.proportions", None), path, value)
    graph[reader]["order"] = ref("indices")
    file.write_bytes(bytes(4 * least))
    assert build_steps(graph)
    file.write_bytes(bytes(4 * (least - 1)))
    told = f"steps.{says}; steps.indices.path has {least - 1} instances, which is "
    assert fault(graph).startswith(told)
