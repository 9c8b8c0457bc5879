import math
import statistics

import pytest

from pipeline.report.html import write_report
from pipeline.report.seeds import HEADS, seeds_table
from tests.report.conftest import PAIR_ROWS, make_scores, score

RUNS = ["base", "sft"]


def of_seed(root, values):
    """Scores of two models whose answers to four pairs are these."""
    rows, measured = [], []
    for model, wins in values.items():
        for place, win in enumerate(wins):
            row = {"model": model, "step": 1, "task": "pairs", "id": str(place), "value": win}
            rows.append({**row, "margin": win})
        share = statistics.mean(wins)
        error = statistics.stdev(wins) / 2
        measured.append(
            score(model, 1, "pairs", "preferred_per_byte", share, num_items=4, standard_error=error)
        )
        measured.append(score(model, 1, "pairs", "num_pairs", 4.0))
    return make_scores(root, "pairs", measured, rows, PAIR_ROWS)


@pytest.fixture
def seeds(tmp_path):
    answers = [
        {"base": [0.0, 0.0, 0.0, 1.0], "sft": [1.0, 1.0, 0.0, 1.0]},
        {"base": [1.0, 0.0, 0.0, 1.0], "sft": [1.0, 1.0, 0.0, 1.0]},
        {"base": [1.0, 1.0, 0.0, 1.0], "sft": [1.0, 1.0, 1.0, 1.0]},
    ]
    return [of_seed(tmp_path / f"PairScores-001-{n}", each) for n, each in enumerate(answers)]


def others(seeds):
    return dict(zip(("7", "8"), seeds[1:], strict=True))


def test_the_spread_over_seeds_stands_beside_the_error_over_items(seeds):
    table = seeds_table({"pairs": seeds[0]}, {"pairs": others(seeds)}, RUNS)
    base, sft = (dict(zip(HEADS, row, strict=True)) for row in table.rows)
    assert (base["model"], sft["model"], base["seeds"]) == ("base", "sft", 3)
    assert base["mean over seeds"] == pytest.approx(0.5)
    assert base["spread over seeds"] == pytest.approx(0.25)  # of 1/4, 1/2, 3/4
    errors = [statistics.stdev(x) / 2 for x in ([0, 0, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1])]
    assert base["error over items"] == pytest.approx(statistics.mean(errors))
    assert base["change from"] is None


def test_a_change_is_paired_within_each_seed(seeds):
    table = seeds_table({"pairs": seeds[0]}, {"pairs": others(seeds)}, RUNS)
    sft = dict(zip(HEADS, table.rows[1], strict=True))
    assert sft["change from"] == "base"
    assert sft["mean change"] == pytest.approx((0.5 + 0.25 + 0.25) / 3)
    assert sft["its spread over seeds"] == pytest.approx(statistics.stdev([0.5, 0.25, 0.25]))
    gains = ([1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0])
    errors = [statistics.stdev(each) / 2 for each in gains]
    assert sft["its error over items"] == pytest.approx(statistics.mean(errors))


def test_one_seed_has_no_spread(seeds):
    (base, _) = seeds_table({"pairs": seeds[0]}, {"pairs": {}}, RUNS).rows
    assert math.isnan(base[HEADS.index("spread over seeds")])


def test_the_page_has_a_section_on_seeds_where_there_are_several(seeds, tmp_path):
    page = {"title": "t", "corpus": {}, "tokens": {}, "training": {}}
    first = {"held-out pairs": seeds[0]}
    alone = write_report(**page, scores=first, out=tmp_path / "alone")
    several = write_report(
        **page, scores=first, seeds={"held-out pairs": others(seeds)}, out=tmp_path / "several"
    )
    texts = [(each.root / "index.html").read_text(encoding="utf-8") for each in (alone, several)]
    assert ["spread over seeds" in text for text in texts] == [False, True]
    assert "PairScores-001-2" in texts[1]  # where they came from
    assert all(f"held-out pairs, seed {seed}<" in texts[1] for seed in (7, 8))


def test_seeds_of_scores_that_are_not_there_are_refused(seeds, tmp_path):
    with pytest.raises(ValueError, match="seeds has 'others', which is not in scores"):
        write_report(
            title="t",
            corpus={},
            tokens={},
            training={},
            scores={"held-out pairs": seeds[0]},
            seeds={"others": others(seeds)},
            out=tmp_path / "page",
        )
