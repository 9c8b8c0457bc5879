import pytest

from steps.cli.__main__ import main
from steps.cli.settings import workspace_settings
from tests.steps.lab import toy


@pytest.fixture
def repository(lab):
    """A folder with a `tango.yml`, an experiment below it and a folder beside that."""
    (lab.folder / "experiments").mkdir()
    (lab.folder / "docs" / "deep").mkdir(parents=True)
    lab.write("experiments/x.json", first=toy())
    return lab.folder


@pytest.fixture
def elsewhere(tmp_path_factory):
    """A folder below no `tango.yml`."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.mark.parametrize("where", [".", "experiments", "docs/deep", None])
def test_a_run_and_a_plan_find_the_workspace_from_anywhere(
    repository, elsewhere, monkeypatch, capfd, where
):
    monkeypatch.chdir(elsewhere if where is None else repository / where)
    experiment = str(repository / "experiments" / "x.json")
    assert main(["run", experiment, "-n", "one"]) == 0
    assert (repository / "ws" / "runs" / "one" / "first" / "manifest.json").is_file()
    assert list(elsewhere.iterdir()) == []
    capfd.readouterr()
    assert main(["plan", experiment]) == 0
    assert "1 cached" in capfd.readouterr().out


def test_what_only_looks_finds_the_workspace_below_a_tango_yml(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository / "experiments")
    assert main(["run", "x.json", "-n", "one"]) == 0
    monkeypatch.chdir(repository / "docs" / "deep")
    assert workspace_settings()["dir"] == "../../ws"
    capsys.readouterr()
    assert main(["ls"]) == 0
    assert "one" in capsys.readouterr().out


def test_the_settings_here_come_before_those_of_the_experiment(repository, elsewhere, monkeypatch):
    monkeypatch.chdir(elsewhere)
    text = (repository / "tango.yml").read_text().replace("dir: ws", "dir: other")
    (elsewhere / "tango.yml").write_text(text)
    assert main(["run", str(repository / "experiments" / "x.json"), "-n", "one"]) == 0
    assert (elsewhere / "other" / "runs" / "one").is_dir() and not (repository / "ws").exists()


def test_a_folder_that_is_given_is_meant_from_here(repository, monkeypatch):
    monkeypatch.chdir(repository / "docs")
    assert main(["run", "../experiments/x.json", "-w", "mine", "-n", "one"]) == 0
    assert (repository / "docs" / "mine" / "runs" / "one").is_dir()


def test_settings_that_are_no_yaml_are_one_line(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository / "docs")
    (repository / "tango.yml").write_text("workspace: {")
    for command in (["plan", "../experiments/x.json"], ["ls"]):
        assert main(command) == 1
        said = capsys.readouterr().err
        assert "tango.yml is no YAML" in said and len(said.strip().splitlines()) == 1
