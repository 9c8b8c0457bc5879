"""The commands that look at results and clean up, from the arguments to the exit status."""

import json
import shutil

import pytest

from steps.cli.__main__ import main
from tests.fixtures.kept_from import forbid
from tests.store.conftest import Maker, flip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    from tests.steps.conftest import Bench

    bench = Bench(tmp_path_factory.mktemp("looking"))
    bench.run()
    return bench


@pytest.fixture
def fresh(done, tmp_path):
    """A copy of the finished workspace that a test may change."""
    shutil.copytree(done.results.root, tmp_path / "workspace", symlinks=True)
    return tmp_path / "workspace"


@pytest.fixture
def olmo(capsys):
    def run(*arguments, workspace):
        status = main([arguments[0], "-w", str(workspace), *arguments[1:]])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return run


def cache(workspace):
    return sorted(each.name for each in (workspace / "cache").iterdir())


def folder(workspace, kind):
    return next(each for each in (workspace / "cache").iterdir() if each.name.startswith(kind))


def test_ls_lists_runs_then_steps_and_an_experiment(done, olmo, tmp_path):
    status, out, _ = olmo("ls", workspace=done.results.root)
    assert status == 0 and "7 of 7" in out and "first" in out
    status, out, _ = olmo("ls", "latest", "--json", workspace=done.results.root)
    rows = {row["step"]: row for row in json.loads(out)["steps"]}
    assert rows["kept"]["state"] == "there" and rows["kept"]["kind"] == "Documents"
    assert set(rows["kept"]["needed by"].split(", ")) == {"tokenizer", "tokens", "run first"}
    experiment = tmp_path / "x.jsonnet"
    experiment.write_text(json.dumps({"steps": done.config(at_least=3)}))
    status, out, _ = olmo("ls", str(experiment), "--json", workspace=done.results.root)
    rows = {row["step"]: row for row in json.loads(out)["steps"]}
    assert (rows["corpus"]["state"], rows["kept"]["state"]) == ("there", "not there")


def test_show_takes_an_experiment_and_its_step(done, olmo, tmp_path):
    experiment = tmp_path / "x.jsonnet"
    experiment.write_text(json.dumps({"steps": done.config()}))
    status, out, _ = olmo("show", f"{experiment}:kept", "-n", "1", workspace=done.results.root)
    assert status == 0 and "Document 1" in out and "11 more" in out
    status, _, err = olmo("show", f"{experiment}:kpet", workspace=done.results.root)
    assert status == 1 and "did you mean 'kept'" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "nothing"], "no step of the latest run"),
        (["ls", "nothing"], "no run"),
        (["show", "x.jsonnet:kept"], "no such file"),
        (["rm", "run:nothing"], "no run"),
        (["rm", "0" * 40], "no step"),
        (["verify", "nothing"], "no step"),
        (["discard", "mix"], "no data of its own"),
    ],
)
def test_a_wrong_name_is_one_line_and_the_status_one(done, olmo, arguments, says):
    status, _, err = olmo(*arguments, workspace=done.results.root)
    assert status == 1 and says in err and err.count("\n") == 1


def test_without_a_workspace_that_is_said(tmp_path, olmo):
    for command in (["ls"], ["show", "x"], ["gc"], ["verify"]):
        status, _, err = olmo(*command, workspace=tmp_path / "none")
        assert status == 1 and "nothing was run yet" in err
    assert not (tmp_path / "none").exists()


def test_diff_has_the_status_of_equality(fresh, olmo):
    assert olmo("diff", "kept", "kept", workspace=fresh)[0] == 0
    status, out, _ = olmo("diff", "corpus", "kept", workspace=fresh)
    assert status == 2 and "removed" in out


def test_verify_names_what_is_damaged_and_how_to_mend_it(fresh, olmo):
    status, out, _ = olmo("verify", "--content", workspace=fresh)
    assert status == 0 and "all is whole: 7 results" in out
    path = folder(fresh, "Tokenize") / "00000.npy"
    flip(path)
    status, out, err = olmo("verify", workspace=fresh)
    assert status == 1 and "00000.npy" in out and "SHA-256" in out and "again" in err
    assert olmo("verify", "kept", workspace=fresh)[0] == 0
    assert olmo("verify", "tokens", workspace=fresh)[0] == 1
    status, out, _ = olmo("ls", "latest", workspace=fresh)
    assert "damaged" in out
    status, _, err = olmo("show", "tokens", workspace=fresh)
    assert status == 1 and "00000.npy" in err


def test_verify_tells_apart_what_it_may_not_read(fresh, olmo, monkeypatch):
    with monkeypatch.context() as patch:
        forbid(patch, folder(fresh, "Tokenize") / "00000.npy")
        status, out, err = olmo("verify", workspace=fresh)
        assert status == 1 and "00000.npy cannot be read (Permission denied)" in out
        assert "not read: 1 result" in err and "damaged" not in err
    assert olmo("verify", workspace=fresh)[0] == 0


def test_a_result_that_may_not_be_looked_at_stops_what_removes_and_not_what_looks(
    fresh, olmo, monkeypatch
):
    before = cache(fresh)
    with monkeypatch.context() as patch:
        forbid(patch, folder(fresh, "Tokenize") / "files.json")
        status, out, _ = olmo("ls", "latest", workspace=fresh)
        assert status == 0 and "unknown: " in out and out.count("there") > 3
        assert olmo("verify", "kept", workspace=fresh)[0] == 0
        assert "files.json cannot be read" in olmo("verify", workspace=fresh)[1]
        status, _, err = olmo("gc", "--yes", workspace=fresh)
        assert status == 1 and "as what it needs is not known, nothing is removed" in err
        status, _, err = olmo("rm", "order", workspace=fresh)
        assert status == 1 and "--force removes it" in err
    assert cache(fresh) == before and olmo("verify", workspace=fresh)[0] == 0


def test_discard_frees_the_data_and_ls_says_so(fresh, olmo):
    status, out, _ = olmo("discard", "corpus", "quality", workspace=fresh)
    assert status == 0 and out.count("came free") == 2
    assert "discarded already" in olmo("discard", "corpus", workspace=fresh)[1]
    status, out, _ = olmo("ls", "latest", "--json", workspace=fresh)
    states = {row["step"]: row["state"] for row in json.loads(out)["steps"]}
    assert states["corpus"] == states["quality"] == "discarded" and states["kept"] == "there"
    assert olmo("verify", workspace=fresh)[0] == 0


def test_rm_says_who_needs_a_result_and_removes_it_when_forced(fresh, olmo):
    before = cache(fresh)
    status, _, err = olmo("rm", "kept", workspace=fresh)
    assert status == 1 and "Tokenize-001-" in err and "--force" in err and cache(fresh) == before
    status, out, _ = olmo("rm", "--force", "kept", workspace=fresh)
    assert status == 0 and "run again makes it anew: first:kept" in out
    assert [each for each in before if each not in cache(fresh)] == [
        each for each in before if each.startswith("Filter")
    ]
    assert olmo("rm", "order", workspace=fresh)[0] == 0


def test_rm_of_an_early_view_leaves_the_series_to_a_killed_training(tmp_path, olmo):
    maker = Maker(tmp_path / "workspace")
    results, name = maker.results, "a" * 64
    view, longer = maker.checkpoints(1), maker.id("Train", 2)
    series = results.series(name, user=longer)
    results.work(longer)
    maker.run("one", early=view, base=longer)
    status, out, _ = olmo("rm", "early", workspace=results.root)
    assert status == 0 and f"the series {name} stays" in out and f"`olmo rm {longer}`" in out
    assert (series / "step000004").exists()
    status, out, _ = olmo("rm", longer, workspace=results.root)
    assert status == 0 and f"{longer} is removed" in out and not series.exists()
    status, _, err = olmo("rm", longer, workspace=results.root)
    assert status == 1 and "is not there" in err


def test_gc_says_how_much_asks_and_removes(fresh, olmo, monkeypatch):
    assert "nothing to remove" in olmo("gc", workspace=fresh)[1]
    assert olmo("rm", "run:f*", workspace=fresh)[0] == 0
    status, out, _ = olmo("gc", "--dry-run", "--list", workspace=fresh)
    assert status == 0 and "7 results" in out and "cache/Filter-003-" in out
    assert len(cache(fresh)) == 7
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    status, _, err = olmo("gc", workspace=fresh)
    assert status == 1 and "--yes" in err and len(cache(fresh)) == 7
    status, out, _ = olmo("gc", "--yes", workspace=fresh)
    assert status == 0 and "came free" in out and cache(fresh) == []
