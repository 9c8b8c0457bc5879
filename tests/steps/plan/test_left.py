"""What a plan says of a training that stands in part."""

import json
import re
import signal

import pytest

from pipeline.core.errors import PipelineError
from pipeline.core.stopping import Stopped
from pipeline.train import loop
from steps.cli.__main__ import main
from steps.graph.wiring import build_steps
from steps.plan.costs import Assumptions, as_table, foretell
from steps.plan.drawing import as_text
from steps.plan.planning import plan_steps, short_plan
from tests.steps.test_training import graph


def trained(bench, train, **more):
    return build_steps(graph(bench, train, **more))["base"].result(bench.workspace)


def base(bench, train=(), **more):
    planned = plan_steps(build_steps(graph(bench, train, **more)).values(), bench.results)
    return next(each for each in planned if each.name == "base")


@pytest.fixture
def begun(bench):
    """A series of six updates, with checkpoints at 0, 3 and 6."""
    bench.run()
    trained(bench, {"stop_at": 6})
    return bench


def test_of_a_longer_training_the_rest_is_left(begun):
    planned = base(begun)
    assert (planned.state, planned.updates) == ("will run", (3, 9, None))
    assert "3 of 9 updates are left" in "\n".join(as_text([planned]))
    built = build_steps(graph(begun))
    assert "first base: train.stop_at: 6 -> null; 3 of 9" in short_plan(built, begun.results)[1]


def test_a_stop_that_training_will_refuse_is_told(begun):
    planned = base(begun, {"stop_at": 5})
    assert "it will be refused: stop_at is 5; the series has gone on to step 6 and did not" in (
        "\n".join(as_text([planned]))
    )
    with pytest.raises(PipelineError, match="gone on to step 6 and did not save that one, but 3"):
        trained(begun, {"stop_at": 5})


def test_a_view_leaves_nothing_and_another_spacing_what_it_lacks(begun):
    assert base(begun, {"stop_at": 3}).updates == (0, 3, None)
    assert base(begun, {"save_steps": 2, "stop_at": 6}).updates == (3, 6, None)  # 2, and 4 after 3
    assert base(begun, {"stop_at": 6}).updates == (0, 6, None)  # it is there


def test_a_stopped_training_goes_on_where_it_stopped(bench, monkeypatch):
    update = loop.Run.update

    def stop(run, number):
        row = update(run, number)
        run.stopping = number == 5
        return row

    monkeypatch.setattr(loop.Run, "update", stop)
    with pytest.raises(Stopped):
        trained(bench, ())
    monkeypatch.undo()
    planned = base(bench)
    assert planned.updates == (4, 9, None)
    assert f"was stopped ({signal.SIGTERM.name})" in str(planned.reasons[0])
    trained(bench, ())
    assert base(bench).updates == (0, 9, None)


def test_a_rule_from_a_step_leaves_what_comes_after_what_it_takes_over(begun):
    assert base(begun, {"skip": {"window": 2, "from_step": 4}}).updates == (6, 9, None)


def test_of_a_training_whose_mix_is_not_made_nothing_is_known_and_all_is_left_of_a_fresh_one(bench):
    assert base(bench).updates is None
    bench.run()
    planned = base(bench)
    assert planned.updates == (9, 9, None) and not planned.goes_on
    assert "are left" not in "\n".join(as_text([planned]))


def cells(bench, left):
    step = build_steps(graph(bench, step_resources={"gpu_count": 1}))["base"]
    lines = list(as_table(foretell([step], Assumptions(), left)))
    return [tuple(line.rsplit(maxsplit=1)) for line in lines], lines


def test_costs_say_what_is_left_of_them(bench):
    rows, lines = cells(bench, {"base": 3})
    labels = [row[0] for row in rows]
    for above in ("updates", "GPU-hours", "energy, kWh", "CO2-equivalent, kg"):
        assert labels[labels.index(above) + 1] == "  left"
    assert ("  left", "3") in rows and any(line.startswith("left: ") for line in lines)
    assert cells(bench, {"base": 9})[1] == cells(bench, {})[1]
    assert not any("left" in line for line in cells(bench, {})[1])


def test_what_is_left_is_in_proportion_to_the_updates():
    from tests.steps.plan.test_costs import SEVEN, build_experiment

    step = build_experiment(SEVEN, "", with_lock=False)["base"]
    lines = list(as_table(foretell([step], Assumptions(), {"base": 476_838 // 4})))
    hours = next(n for n, line in enumerate(lines) if line.startswith("GPU-hours"))
    assert lines[hours].split()[-1] == "48,662" and lines[hours + 1].split() == ["left", "12,165"]


def test_the_command_tells_it_in_its_table_and_as_json(begun, tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"steps": graph(begun)}))
    place = ("-w", str(begun.results.root))
    assert main(["plan", str(path), *place]) == 2
    assert re.search(r"\nupdates +9\n  left +3\n", capsys.readouterr().out)
    main(["plan", str(path), *place, "--json"])
    assert json.loads(capsys.readouterr().out)["training"]["base"]["updates_left"] == 3
