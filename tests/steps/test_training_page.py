"""The examples of docs/training.md, as a reader would paste them."""

import re
from pathlib import Path

import pytest

from pipeline.tokens.olmo_order import OlmoShuffle
from pipeline.train.config import UPKEEP
from pipeline.train.spikes import SkipRule, SpikeRule
from steps.cli.__main__ import main
from steps.cli.experiment import build_experiment
from tests.fixtures.pasted import pasted

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
SMALL, BASE, KEPT, SKIP, MEASURED = re.findall(r"```jsonnet\n(.*?)```", PAGE, re.DOTALL)
REF = "local ref = function(name) { type: 'ref', ref: name };\n"


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder that stands for the repository's root, with `small.jsonnet` in it."""
    monkeypatch.chdir(tmp_path)
    for folder in ("tests", "experiments"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "small.jsonnet").write_text(SMALL)
    return tmp_path


def changed(reader, steps="", size=""):
    """An experiment of the page's, with fields that it shows for some steps or for a size."""
    text = (
        REF
        + SMALL.replace("small { root", f"small {{ {size} root")
        + f"+ {{ steps+: {{ {steps} }} }}"
    )
    (reader / "changed.jsonnet").write_text(text)
    return build_experiment("changed.jsonnet")


def test_the_first_lines_are_the_experiment_that_the_page_is_about(reader):
    base = build_experiment("small.jsonnet")["base"]
    said = re.search(r"It has ([\d,]+) parameters, and makes (\d+) updates", PAGE)
    assert said[1] == f"{base.shape().num_parameters():,}"
    assert said[2] == str(base.kwargs["train"].schedule.total_steps)


def test_what_the_page_shows_of_a_step_or_a_size_is_what_it_gets(reader):
    base = changed(reader, steps=BASE)["base"].kwargs
    assert (base["order"], base["mask_documents"], base["launch"].ranks) == (
        OlmoShuffle(6198),
        True,
        2,
    )
    rule = changed(reader, steps=f"base+: {{ train+: {{ {SKIP} }} }}")["base"].kwargs["train"].skip
    assert rule == SkipRule(spike_factor=2, window=1, max_in_a_row=2)
    graph = changed(reader, size=KEPT)
    for name in ("base", "sft", "dpo"):
        kept = graph[name].kwargs
        assert (kept["retention"], kept["stop_on"]) == (3, SpikeRule(spike_factor=3, window=50))
    assert changed(reader)["base"].kwargs["retention"] == UPKEEP.retention
    monitors, *_ = re.findall(r"`(monitors: \[.*?\])`", PAGE)
    told = changed(reader, steps=f"base+: {{ {monitors} }}")["base"].kwargs["monitors"]
    assert [each.TYPE for each in told] == ["tensorboard", "wandb"]


@pytest.mark.slow
def test_the_commands_print_what_the_page_shows(reader, capfd):
    changed(reader, size=f"upkeep: {{ {MEASURED} }},")
    assert main(["run", "changed.jsonnet", "-s", "base"]) == 0
    (run, diverged), (show, table) = pasted(PAGE)
    capfd.readouterr()
    main(show[1:])
    said = "\n".join(line.rstrip() for line in capfd.readouterr().out.splitlines())
    told = without_times(said)
    assert all(row in told for row in without_times(table))
    assert main(run[1:]) == 1
    took = re.compile(r" after [\d.]+ s")  # what takes no time is told without it
    shown = re.escape(took.sub("", " ".join(diverged.split()))).replace("…", ".*")
    assert re.search(shown, took.sub("", " ".join(capfd.readouterr().out.split())))
    (listing,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(listing, {})  # what the page has for its reader to run
    assert re.search(r"^[0-9a-f]{12} 12 \S+ finished$", capfd.readouterr().out, re.MULTILINE)


def without_times(table):
    """The lines of a table without their last column, which are seconds."""
    return [line.split()[:-1] for line in table.splitlines() if line.strip()]
