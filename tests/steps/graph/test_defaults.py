import steps  # noqa: F401  registers every step
from steps.graph.defaults import chosen_arguments
from steps.graph.wiring import build_steps
from tests.steps.made import ref

SOURCE = {"type": "python_install", "part": "code", "source": "code"}


def chosen(config):
    step = build_steps({"corpus": {"type": "ingest", "source": SOURCE}, "x": config})["x"]
    return chosen_arguments(type(step).__name__, step.key()["args"])


def test_what_is_as_it_is_by_default_is_not_named():
    assert chosen(
        {"type": "decontaminate", "documents": ref("corpus"), "evaluation": ref("corpus")}
    ).keys() == {"documents", "evaluation"}
    found = chosen({"type": "ingest", "source": SOURCE, "max_malformed": 3})
    assert found["max_malformed"] == 3 and "shard_bytes" not in found
    assert "licence" not in found["source"] and found["source"]["part"] == "code"


def test_components_are_looked_into():
    taggers = [{"type": "gopher", "variant": "v2"}, {"type": "c4"}]
    found = chosen({"type": "tag", "documents": ref("corpus"), "taggers": taggers})["taggers"]
    assert found[0]["variant"] == "v2" and "variant" not in found[1]


def test_the_arguments_of_a_step_that_is_not_known_any_more_are_given_as_they_are():
    args = {"a": {"is": "Gone", "b": 1}, "c": [None]}
    assert chosen_arguments("Vanished", args) == args
