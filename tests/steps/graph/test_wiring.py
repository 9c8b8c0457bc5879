import pytest

import steps  # noqa: F401  registers every step
from pipeline.data.taggers.gopher import Gopher
from steps.graph.wiring import WiringError, build_steps
from tests.steps import toys  # noqa: F401  registers them

SOURCE = {"type": "python_install", "part": "code", "source": "code"}


def ref(name, **more):
    return {"type": "ref", "ref": name, **more}


def graph(**changes):
    made = {
        "corpus": {"type": "ingest", "source": SOURCE},
        "quality": {"type": "tag", "documents": ref("corpus"), "taggers": [{"type": "gopher"}]},
        "kept": {
            "type": "filter",
            "documents": ref("corpus"),
            "attributes": [ref("quality")],
            "rules": [{"attribute": "gopher.word_count", "at_least": 50}],
        },
    }
    for name, change in changes.items():
        made[name] = {**made.get(name, {}), **change}
    return made


def test_a_graph_is_built_with_typed_components():
    built = build_steps(graph())
    assert list(built) == ["corpus", "quality", "kept"]
    assert built["quality"].kwargs["taggers"] == [Gopher()]
    assert built["kept"].unique_id.startswith("Filter-003-")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept": {"type": "fliter"}}, r"steps\.kept\.type is 'fliter'.*'filter'"),
        ({"kept": {"documents": ref("quality")}}, r"steps\.kept\.documents.*makes Attributes"),
        ({"kept": {"attributes": [ref("corpus")]}}, r"steps\.kept\.attributes\[0\].*Documents"),
        (
            {"kept": {"documents": ref("corpus", key="x")}},
            r"steps\.kept\.documents\.key is 'x'; Documents has no keys: leave it out",
        ),
        (
            {"kept": {"documents": ref("corpus", kye="x")}},
            r"steps\.kept\.documents\.kye: a reference has nothing but ref",
        ),
        ({"kept": {"documents": ref("crpus")}}, r"'crpus', which is no step.*'corpus'"),
        ({"kept": {"rules": "x"}}, r"steps\.kept\.rules is 'x'; it must be of type list"),
        (
            {"kept": {"rules": [{"attribute": "gopher.word_count", "at_least": "5"}]}},
            r"steps\.kept\.rules\[0\]\.at_least is '5'; it must be of type float",
        ),
        (
            {"kept": {"rules": [{"attribute": "gopher.word_count", "at_last": 5}]}},
            r"steps\.kept\.rules\[0\]\.at_last.*'at_least'",
        ),
        (
            {"kept": {"rules": [{"attribute": "gopher.wrd_count", "at_least": 5}]}},
            r"steps\.kept\.rules\[0\]\.attribute is 'gopher\.wrd_count'.*'gopher\.word_count'",
        ),
        ({"quality": {"taggers": [{"type": "gofer"}]}}, r"taggers\[0\]\.type is 'gofer'"),
        ({"quality": {"tagers": []}}, r"steps\.quality\.tagers.*'taggers'"),
        ({"corpus": {"source": {"type": "python_install", "part": "cod", "source": "x"}}}, "cod"),
        ({"other": {"type": "tag", "documents": ref("corpus")}}, r"steps\.other\.taggers is miss"),
        (
            {"corpus": {"source": {"type": "jsonl", "path": "no/such/*.gz", "source": "x"}}},
            r"no/such/\*\.gz",
        ),
        ({"a/b": {"type": "tag"}}, "cannot be the name of a step"),
        ({"kept": {"documents": ref(["corpus"])}}, r"documents\.ref is \['corpus'\]; .* name of"),
        ({"kept": {"type": ["filter"]}}, r"steps\.kept\.type is \['filter'\], which is no step"),
        ({"kept": {"type": {}}}, r"steps\.kept\.type is \{\}, which is no step type"),
        ({"quality": {"taggers": [{"type": ["c4"]}]}}, r"taggers\[0\]\.type is \['c4'\], which"),
        ({"kep": {"documents": ref("corpus")}}, r"steps\.kep has no type; did you mean 'kept'\?"),
        ({"other": {"documents": ref("corpus")}}, r"steps\.other has no type; it must have one"),
        (
            {"kept": {"rules": [{"type": "kep", "attribute": "gopher.word_count", "at_least": 5}]}},
            r"steps\.kept\.rules\[0\]\.type is 'kep'.*'keep'",
        ),
        (
            {"quality": {"taggers": [{"min_words_per_line": 3}]}},
            r"taggers\[0\]\.type is missing; there is c4, .*gopher",
        ),
        ({"kept": {"needs": {"type": "need"}}}, r"steps\.kept\.needs\.type is 'need'.*'needs'"),
        (
            {"kept": {"rules": [{"attribute": "gopher.word_count", "at_least": 9, "at_most": 5}]}},
            r"steps\.kept\.rules\[0\]\.at_least is 9; it must not be above at_most, 5",
        ),
        ({"kept": {"step_resources": {"memory": 12}}}, r"step_resources\.memory is 12; .* str"),
        ({"kept": {"step_resources": {"memory": "12 gigs"}}}, r"memory: '12 gigs' is no size"),
        ({"kept": {"step_resources": {"gpu_count": "many"}}}, r"gpu_count is 'many'; .* int"),
        (
            {"kept": {"step_resources": {"gpus": 1}}},
            r"gpus is no resource; .*gpu_count",
        ),
        ({"kept": {"step_resources": {"cpu_count": -1}}}, r"cpu_count is -1\.0; .* at least 0"),
        ({"kept": {"step_resources": 8}}, r"steps\.kept\.step_resources is 8; .* an object"),
        ({"kept": {"step_metadata": []}}, r"steps\.kept\.step_metadata is \[\]; it must be"),
    ],
)
def test_a_fault_is_one_message_with_its_path(changes, message):
    with pytest.raises(WiringError, match=message) as caught:
        build_steps(graph(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["keep", "Keep"])
def test_a_rule_may_be_named_as_well_as_told_by_its_fields(name):
    named = [{"type": name, "attribute": "gopher.word_count", "at_least": 50}]
    ids = {
        each["kept"].unique_id
        for each in (build_steps(graph()), build_steps(graph(kept={"rules": named})))
    }
    assert len(ids) == 1


@pytest.mark.parametrize("given", [[], "x", None, 3])
def test_steps_that_are_no_object_are_refused(given):
    with pytest.raises(WiringError, match="steps is .*; it must be an object"):
        build_steps(given)


def test_ids_do_not_depend_on_how_the_values_were_written():
    plain = build_steps(graph())["kept"].unique_id
    rules = [{"at_least": 50.0, "attribute": "gopher.word_count"}]
    written_otherwise = graph(
        kept={"rules": rules, "engine": {"type": "local", "workers": 2}},
        quality={"taggers": [{"type": "gopher", "variant": "v1"}]},
    )
    assert build_steps(written_otherwise)["kept"].unique_id == plain


def test_a_changed_value_changes_its_step_and_those_below():
    one, other = (
        build_steps(graph()),
        build_steps(graph(quality={"taggers": [{"type": "gopher", "variant": "v2"}]})),
    )
    assert one["corpus"].unique_id == other["corpus"].unique_id
    assert one["kept"].unique_id != other["kept"].unique_id


def test_a_step_whose_result_cannot_be_stored_is_refused():
    for kind, says in (("toy_stored", "cannot be stored"), ("toy_unstored", "is not CACHEABLE")):
        with pytest.raises(WiringError, match=rf"steps\.a\.type is '{kind}'.* {says}"):
            build_steps({"a": {"type": kind, "value": 1}})
