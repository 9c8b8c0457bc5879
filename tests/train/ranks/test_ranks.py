"""Several ranks: their curve, what they write, and who goes on from it. Each rank is a process."""

import os
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint.utils as dcp_utils
import torch.distributed.distributed_c10d as distributed_c10d

from pipeline.core.errors import PipelineError
from pipeline.model.hf import load_checkpoint_model
from pipeline.store.history import history_rows, read_segments, segment_rows
from pipeline.tokens.olmo_order import OlmoShuffle
from pipeline.train import loop
from pipeline.train.config import Conduct, Launch
from pipeline.train.ranks.distributed import Ranks
from pipeline.train.series import saved
from pipeline.train.stages.pretrain import pretrain
from tests.small_disk import small_disk
from tests.train.conftest import SHAPE, config
from tests.train.test_loop import flip, losses, weights

pytestmark = pytest.mark.slow


def of(ranks, microbatch=None):
    return Launch(ranks=ranks, threads=1, microbatch=microbatch, timeout_seconds=120)


def test_ranks_and_accumulation_change_the_curve_by_rounding_only(run):
    """Relative to one rank and one pass, 2e-5 in any of nine steps: sums in another order."""
    plain = losses(run(config(9), series="a" * 64, name="plain"))
    launches = [of(1, 2), of(1, 1), of(2), of(4), of(2, 1)]
    for number, launch in enumerate(launches):
        made = run(config(9), launch, series=f"{number}" * 64, name=f"{number}")
        assert losses(made) == pytest.approx(plain, rel=2e-5), launch


def test_masked_documents_in_the_order_of_olmo_are_trained_on_alike_by_ranks(run):
    hooks = {"order": OlmoShuffle(6198), "mask_documents": True}
    plain = losses(run(config(9), series="a" * 64, name="plain", hooks=hooks))
    made = losses(run(config(9), of(2), series="b" * 64, name="two", hooks=hooks))
    assert made == pytest.approx(plain, rel=2e-5)
    unmasked = losses(
        run(config(9), series="c" * 64, name="three", hooks={**hooks, "mask_documents": False})
    )
    assert plain != pytest.approx(unmasked, rel=2e-5)


@dataclass(frozen=True)
class WithoutObjects:
    """The work of a rank in which what would be pickled between ranks is an error."""

    work: Callable[[Ranks], None]

    def __call__(self, ranks):
        for name in ("all_gather", "gather", "broadcast", "scatter", "send", "recv"):
            for each in (f"{name}_object", f"{name}_object_list"):
                for module in (dist, distributed_c10d, dcp_utils.dist):
                    if hasattr(module, each):
                        setattr(module, each, self.refused)
        self.work(ranks)

    def refused(self, *_, **__):
        raise AssertionError("ranks tell each other objects")


def test_nothing_is_pickled_between_ranks_that_save_and_go_on(run, monkeypatch):
    start = loop.run_ranks
    monkeypatch.setattr(loop, "run_ranks", lambda work, *how: start(WithoutObjects(work), *how))
    run(config(6, stop_at=3), of(2), name="first")
    assert run(config(6), of(2), name="second").latest.step == 6


def test_a_series_goes_on_from_any_number_of_ranks_to_any_other(run):
    whole = run(config(15), series="a" * 64, name="whole")
    for ranks, stop in ((1, 3), (2, 6), (4, 9), (2, 12), (1, 15)):
        made = run(config(15, stop_at=stop), of(ranks), series="b" * 64, name=f"{ranks}-{stop}")
        files = sorted(p.name for p in made.folder(made.latest).glob("model*"))
        assert len(files) == ranks
        load_checkpoint_model(made, made.latest)  # holds it against the digest in the manifest
    assert losses(made) == pytest.approx(losses(whole), rel=1e-4)
    assert [each["ranks"] for each in read_segments(made.series_root)] == [1, 2, 4, 2, 1]
    # what ran on other ranks differs in its last bits, and what was trained before does not
    assert weights(made)[:2] == weights(whole)[:2]


def test_a_replay_over_two_ranks_makes_the_missing_checkpoints_and_keeps_the_rows(run):
    one = run(config(12, save_steps=4), series="b" * 64, name="one")
    two = run(config(12, save_steps=2), of(2), series="b" * 64, name="two")
    assert losses(two) == losses(one)  # the rows of what the series went on from
    assert [each.step for each in two.steps] == [0, 2, 4, 6, 8, 10, 12]
    assert weights(two)[::2] == weights(one)
    segments = read_segments(two.series_root)
    assert [(s["first_step"], s["last_step"], s.get("replay")) for s in segments[1:]] == [
        (0, 6, True),
        (8, 10, True),
    ]
    made = [row["loss"] for row in segment_rows(two.series_root, 2)]
    assert made == pytest.approx(losses(one)[:6], rel=1e-5)
    fine = run(config(12, save_steps=2), series="a" * 64, name="fine")
    for own, known in zip(two.steps, fine.steps, strict=True):
        values = [load_checkpoint_model(*each).state_dict() for each in ((two, own), (fine, known))]
        torch.testing.assert_close(*values, rtol=0, atol=1e-4)
    assert all(each["energy_joules"] > 0 for each in segments)


def test_what_a_rank_wrote_badly_is_refused_and_the_checkpoint_before_it_used(run, caplog):
    run(config(9, stop_at=6), of(2), series="b" * 64, name="part")
    part = run(config(9, stop_at=6), of(2), series="b" * 64, name="again")
    flip(part, 2, "optimizer-00002-of-00002.safetensors")
    whole = run(config(9), of(2), series="a" * 64, name="whole")
    made = run(config(9), of(2), series="b" * 64, name="made")
    assert "optimizer-00002-of-00002.safetensors: its SHA-256" in caplog.text
    assert made.content == whole.content


def test_a_disk_that_is_full_for_one_rank_ends_all_of_them(mix, tmp_path):
    with small_disk(tmp_path / "small", "size=1m") as disk:
        series = disk / "series" / ("a" * 64)
        with pytest.raises(PipelineError, match=r"checkpoint .*step\d+ was not written: .*rank \d"):
            conduct = Conduct(series, tmp_path / "out", of(2))
            pretrain(mix, SHAPE, config(40), conduct=conduct)
        assert saved.find_checkpoints(series)[:2] == [0, 3]
        (segment,) = read_segments(series)
        assert segment["cause"] == "failed" and "was not written" in segment["reason"]


ROOT = Path(__file__).parents[3]

KILLED = """
    import os, time
    from pathlib import Path
    from pipeline.core.artifacts import Artifact
    from pipeline.train.series import checkpoint
    from pipeline.train.config import Conduct, Launch
    from pipeline.train.stages.pretrain import pretrain
    from tests.train.conftest import SHAPE, config
    from tests.train.ranks.test_ranks import slowly

    if __name__ == "__main__":
        root = Path({root!r})
        slowly()
        pretrain(Artifact.load(Path({mix!r})), SHAPE, config(30, save_steps=3),
                 conduct=Conduct(root / "series" / ("b" * 64), root / "cache" / "killed",
                                 Launch(ranks={ranks}, threads=1)))
"""


def slowly():
    """Have this process take its time over updates and over writing."""
    from pipeline.train import loop
    from pipeline.train.series import checkpoint

    update, write_part = loop.Run.update, checkpoint.write_part

    def slow_update(self, number):
        time.sleep(0.02)
        return update(self, number)

    def slow_write(*arguments):
        made = write_part(*arguments)
        time.sleep(0.05)
        return made

    loop.Run.update, checkpoint.write_part = slow_update, slow_write


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_killed_at_random_updates_goes_on_to_the_same_bits(mix, run, tmp_path, ranks):
    whole = run(config(30, save_steps=3), of(ranks), series="a" * 64, name="whole")
    script = tmp_path / "killed.py"
    text = textwrap.dedent(KILLED).format(root=str(tmp_path), mix=str(mix.root), ranks=ranks)
    script.write_text(text)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    series, draw = tmp_path / "series" / ("b" * 64), random.Random(0)
    for _ in range(4):
        before = len(read_segments(series))
        child = subprocess.Popen([sys.executable, script], env=variables)
        while len(read_segments(series)) == before and child.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.05, 0.4))
        child.kill()
        child.wait()
    time.sleep(2)  # until the ranks saw that they have no parent
    made = run(config(30, save_steps=3), of(ranks), series="b" * 64, name="made")
    assert made.content == whole.content
    causes = [each["cause"] for each in read_segments(series)]
    assert causes[-1] == "finished" and causes.count("killed") >= 2


def test_the_norm_of_the_parameters_is_that_of_all_ranks_together(run):
    norms = []
    for ranks in (1, 2):
        made = run(config(9, stop_at=2), of(ranks), series=f"{ranks}" * 64, name=f"{ranks}")
        rows = history_rows(made.series_root)
        norms.append([rows[step]["param_norm"] for step in (1, 2)])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
