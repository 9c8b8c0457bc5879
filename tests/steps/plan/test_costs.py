"""What a plan says that training will cost."""

import json
import re
from pathlib import Path

import pytest

from steps.cli.__main__ import main
from steps.cli.experiment import build_experiment
from steps.plan.costs import Assumptions, as_form, as_table, foretell
from tests.fixtures.pasted import pasted

ROOT = Path(__file__).parents[3]
SEVEN = str(ROOT / "experiments" / "olmo7b.jsonnet")
TINY = str(ROOT / "experiments" / "tiny.jsonnet")


def foretold(path, overrides=None, **assumed):
    built = build_experiment(path, json.dumps(overrides or {}), with_lock=False)
    found = foretell(built.values(), Assumptions(**assumed))
    return {each.name: each for each in found}


@pytest.fixture(scope="module")
def seven():
    return foretold(SEVEN)


def test_every_training_step_is_foretold_before_anything_was_made(seven):
    assert list(seven) == ["base", "sft", "dpo"]
    base = as_form(seven["base"])
    assert base["parameters"] == 6_888_095_744
    assert base["updates"] == 476_838
    assert base["tokens"] == 476_838 * 2048 * 2048
    assert base["flops"] == base["tokens"] * 43_313_528_832
    total = base["memory_bytes"].pop("total")
    assert sum(base["memory_bytes"].values()) == total
    assert not seven["base"].warnings


def test_tokens_of_examples_and_pairs_are_a_bound(seven):
    sft, dpo = seven["sft"].job, seven["dpo"].job
    assert sft.num_tokens == 7567 * 128 * 2048
    assert dpo.num_tokens == 5652 * 32 * 2 * 2048  # a chosen and a rejected row
    lines = "\n".join(as_table(list(seven.values())))
    assert re.search(r"tokens +2 trillion +≤ 1.98 billion +≤ 741 million", lines)
    assert "≤: as if every row were as long as the longest may be" in lines


def test_a_row_is_as_long_as_the_step_that_makes_it_says():
    found = foretold(SEVEN, {"steps.mix.sequence_length": 512, "steps.pairs.max_length": 256})
    assert found["base"].job.length == 512 and found["dpo"].job.length == 256


def test_what_does_not_fit_is_said_with_a_launch_that_does():
    large = {"steps.base.launch.nodes": 8, "steps.base.launch.microbatch": 16}
    [warning] = foretold(SEVEN, large)["base"].warnings
    assert re.fullmatch(
        r"base does not fit: a rank takes \d+ GB, one H100 has 80 GB; "
        r"with activation_checkpointing it takes less",
        warning,
    )
    alone = {"steps.base.launch.nodes": 1, "steps.base.launch.ranks": 1}
    [warning, ranks] = foretold(SEVEN, alone)["base"].warnings
    assert warning.endswith("split it over more ranks")
    assert ranks == "base launches 1 rank a machine, and step_resources.gpu_count is 8"


def test_a_series_that_is_larger_than_the_disk_that_was_asked_for_is_said():
    [warning] = foretold(SEVEN, {"steps.base.train.save_steps": 500})["base"].warnings
    assert warning == "base writes 26 TB of checkpoints, and needs.disk is 16TB"


@pytest.mark.parametrize(
    "resources, assumed, card",
    [
        ({"gpu_type": "NVIDIA A100-SXM-80GB"}, {}, "A100"),
        ({"gpu_type": "NVIDIA A100-SXM-80GB"}, {"gpu": "H200"}, "H200"),
        ({}, {}, "H100"),
    ],
)
def test_the_card_is_the_one_asked_for(resources, assumed, card):
    changes = {f"steps.base.step_resources.{name}": each for name, each in resources.items()}
    effort = foretold(SEVEN, changes, **assumed)["base"].effort
    assert effort.card.name == card and effort.mfu == 0.5


def test_a_card_of_unknown_numbers_is_said_and_no_time_told():
    unknown = {"steps.base.step_resources.gpu_type": "T4"}
    base = foretold(SEVEN, unknown)["base"]
    assert base.effort is None
    assert base.warnings == ["base asks for gpu_type 'T4', whose numbers are not known; say --gpu"]


def test_traffic_that_a_network_does_not_carry_in_an_updates_time_is_said():
    assert not foretold(SEVEN, network_gbps=1300)["base"].warnings
    base, sft = (foretold(SEVEN, network_gbps=100)[name] for name in ("base", "sft"))
    assert base.warnings == [
        "base sends for 4.34 s in an update that is to take 0.359 s: at 450 GB a second over a "
        "card's link and 100 Gb/s out of a node, with nothing else on them, the MFU is at most "
        "0.041, and not 0.5"
    ]
    assert not sft.warnings  # within a node
    assert as_form(base)["effort"]["communication_seconds_per_update"] == pytest.approx(4.34, 0.01)


def test_traffic_over_pcie_is_held_against_pcie():
    found = foretold(SEVEN, gpu="H100 PCIe", network_gbps=400)
    assert [each.startswith("sft sends for 5.9") for each in found["sft"].warnings] == [True]
    assert "H100 PCIe" in "".join(as_table(list(found.values())))


def test_a_network_that_is_not_known_is_said_and_not_held_against():
    base = foretold(SEVEN, gpu="H200 NVL")["base"]
    [warning] = base.warnings
    assert warning.startswith("base spans nodes of H200 NVL, whose network is not known")
    assert "not known" in "".join(as_table([base]))


def test_without_gpus_the_table_is_short_and_tells_no_time():
    lines = list(as_table(list(foretold(TINY).values()), full=False))
    assert len(lines) < 14
    assert not any("GPU" in line or "activations" in line for line in lines)
    assert any("  activations" in line for line in as_table(list(foretold(TINY).values())))


@pytest.mark.parametrize(
    "option, says",
    [
        (["--gpu", "T4"], "--gpu is 'T4'; it must be one of H100, H100 PCIe, "),
        (["--gpu", "B200 NVL"], "--gpu is 'B200 NVL'; it must be one of H100, "),
        (["--network-gbps", "0"], "--network-gbps is 0.0; it must be positive and finite"),
        (["--mfu", "0"], "--mfu is 0.0; it must be above 0 and at most 1"),
        (["--pue", "0.5"], "--pue is 0.5; it must be at least 1"),
        (["--pue", "nan"], "--pue is nan; it must be at least 1"),
        (["--intensity", "inf"], "--intensity is inf; it must be finite and not negative"),
        (["--intensity", "-1"], "--intensity is -1.0; it must be finite and not negative"),
    ],
)
def test_a_bad_assumption_is_a_line(option, says, capsys):
    assert main(["plan", SEVEN, *option]) == 1
    assert capsys.readouterr().err.startswith(says)


def test_a_plan_tells_the_costs_of_what_will_run(tmp_path, capsys):
    assert main(["plan", TINY, "-w", str(tmp_path)]) == 2
    assert "\ntraining, foretold " in capsys.readouterr().out
    main(["plan", TINY, "-w", str(tmp_path), "-s", "tokenizer"])
    assert "training, foretold" not in capsys.readouterr().out
    main(["plan", TINY, "-w", str(tmp_path), "--json"])
    said = json.loads(capsys.readouterr().out)["training"]
    assert list(said) == ["base", "sft", "dpo"] and said["base"]["effort"] is None


def test_the_page_shows_what_its_commands_print(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    commands = list(pasted(page))
    assert len(commands) >= 4
    for (program, *arguments), shown in commands:
        assert program == "olmo"
        main(arguments)
        assert capsys.readouterr().out == shown
