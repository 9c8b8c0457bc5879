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
