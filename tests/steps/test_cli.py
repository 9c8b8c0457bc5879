import json

import pytest

from steps.cli.__main__ import COMMANDS, main


def test_an_unknown_command_is_told_with_the_nearest_one(capsys):
    assert main(["plna"]) == 2
    said = capsys.readouterr()
    assert "did you mean 'plan'" in said.err
    assert all(name in said.out for name in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_the_commands_are_listed(arguments, capsys):
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in COMMANDS)


def test_a_syntax_fault_is_at_most_three_lines(tmp_path, capsys):
    broken = tmp_path / "broken.jsonnet"
    broken.write_text("{ steps: { a: { type: 'ingest', } }\n")
    assert main(["plan", str(broken)]) == 1
    said = capsys.readouterr().err
    assert "broken.jsonnet" in said and len(said.strip().splitlines()) <= 3
    assert main(["run", str(broken)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_what_cannot_be_imported_or_read_is_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for given, says in (
        (["nopkg"], "x.json: include_package has 'nopkg', which cannot be imported"),
        ("nopkg", "x.json: include_package is 'nopkg'; it must be a list"),
    ):
        (tmp_path / "x.json").write_text(json.dumps({"steps": {}, "include_package": given}))
        for command in (["plan", "x.json"], ["why", "x.json:a"], ["run", "x.json"]):
            assert main(command) == 1
            said = capsys.readouterr().err
            assert says in said and len(said.splitlines()) == 1


def test_any_command_shows_where_a_fault_was_raised_when_it_is_asked_to(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # where there is no workspace
    for command in ("plan", "show", "verify", "rm", "lock"):
        given = [] if command == "verify" else [str(tmp_path / "no.json")]
        assert main([command, *given, "--debug"]) == 1
        assert "Traceback" in capsys.readouterr().err
