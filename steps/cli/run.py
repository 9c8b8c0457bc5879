"""`olmo run`: `tango run` with the same options, and faults of an experiment in a line or three."""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.core.stopping import INTERRUPTED, Stopped
from steps.cli.faults import DEBUG, FAULT


def main(arguments: list[str]) -> int:
    """Run an experiment; the exit status is that of `tango run`, with 130 and 75 when stopped."""
    import click

    import steps  # noqa: F401  first: Tango comes without torch then

    try:
        _command().main(arguments, prog_name="olmo run", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as fault:
        fault.show()
        return fault.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAULT
    return 0


def _command() -> Any:
    """Tango's own options, global and of `run`, in one command, and ours."""
    import click
    from tango.__main__ import main as tango

    ours = [
        click.Option(
            ["--executor"],
            metavar="TYPE",
            help="Executor that runs the steps, instead of that of tango.yml: olmo, ray.",
        ),
        click.Option(
            ["--strict"],
            is_flag=True,
            help="Make again what other code made, though its VERSION is the same.",
        ),
        click.Option([DEBUG], is_flag=True, help="Show where an error was raised."),
    ]
    options = []
    for each in [*tango.commands["run"].params, *tango.params]:
        if each.expose_value and each.name not in ("called_by_executor", "workspace_dir"):
            option = copy.copy(each)
            if isinstance(option, click.Option):
                option.help = _OPTIONS.get(str(option.name), option.help)
            options.append(option)
    return click.Command("run", callback=_run, params=[*options, *ours], help=_HELP)


_OPTIONS = {  # where Tango's words are not true of us
    "workspace": "The folder of the results; by default the one that tango.yml names.",
    "parallelism": "Steps that run at once, each in a process of its own.",
}
_HELP = """Run an experiment: every step whose result is not there yet, those that it reads first.

A failed step leaves the others running. The same command goes on where a run was stopped. Exit
status: 0, 1 for a failure, 130 after Ctrl-C, 75 after SIGTERM or SIGUSR1.

Steps run in worker processes, one at a time without -j. With OLMO_IN_PROCESS=1 in the environment
they run in the process of the run, one after the other, where breakpoint() has the terminal.
"""


def _run(
    experiment: str,
    workspace: str | None,
    overrides: str | None,
    include_package: tuple[str, ...],
    parallelism: int | None,
    step_name: tuple[str, ...],
    name: str | None,
    ext_var: tuple[str, ...],
    settings: str | None,
    log_level: str | None,
    file_friendly_logging: bool,
    start_method: str | None,
    executor: str | None,
    strict: bool,
    debug: bool,
) -> None:
    from tango.cli import execute_step_graph, load_settings, prepare_executor, prepare_workspace
    from tango.executor import Executor
    from tango.step_graph import StepGraph

    from pipeline.core.errors import nearest
    from steps.cli.experiment import import_packages, read_settings
    from steps.cli.settings import seen_from_here, settings_file
    from steps.execution.joining import is_task_beside, join_trainings
    from steps.graph.wiring import WiringError

    if settings is None:
        read_settings(experiment)  # a fault in it is a line
    file = settings or settings_file(experiment)
    chosen = load_settings(None if file is None else str(file))
    if settings is None and file is not None:
        chosen.workspace = seen_from_here(chosen.workspace, Path(file))
    os.environ.update(chosen.environment or {})
    if strict:
        os.environ["OLMO_STRICT"] = "1"  # for the processes of steps, too
    multiprocessing.set_start_method(start_method or "spawn", force=True)
    chosen.executor = chosen.executor or {"type": "olmo"}
    chosen.workspace = chosen.workspace or {"type": "local", "dir": "workspace"}
    if executor is not None and executor != chosen.executor.get("type"):
        chosen.executor = {"type": executor}
    with _logged(log_level or chosen.log_level or "warning", file_friendly_logging):
        config = _read(experiment, overrides or "", ext_var)
        packages = [
            *import_packages(list(include_package), "-i"),
            *import_packages(config.pop("include_package", None), experiment),
            *import_packages(chosen.include_package, str(file)),
        ]
        known, wanted = Executor.list_available(), str(chosen.executor.get("type"))
        if wanted not in known and "." not in wanted:
            raise WiringError(f"{wanted!r} is no type of executor{nearest(wanted, known)}")
        graph = StepGraph.from_params(config.pop("steps"))
        if step_name:
            graph = graph.sub_graph(*step_name)
        place = prepare_workspace(chosen, workspace)
        ordered = [graph[each] for each in graph]
        if is_task_beside(ordered):
            with suppress(Stopped):  # the task that leads has the status to end with
                join_trainings(ordered, place)
            return
        runner = prepare_executor(place, chosen, packages, parallelism)
        execute_step_graph(graph, place, runner, name)


def _read(experiment: str, overrides: str, ext_var: tuple[str, ...]) -> Any:
    """The experiment as Tango reads it; raises SyntaxFault with three lines where it does not."""
    from tango.common.params import Params

    from steps.cli.experiment import SyntaxFault, require_parts

    variables = {}
    for each in ext_var:
        name, equals, variables[name] = each.partition("=")
        if not equals:
            raise SyntaxFault(f"--ext-var is {each!r}; it must be NAME=VALUE")
    try:
        config = Params.from_file(experiment, overrides, variables)
    except (RuntimeError, ValueError) as error:
        lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
        raise SyntaxFault(
            _misplaced(experiment, overrides, variables) or "\n".join(lines[:3])
        ) from error
    require_parts(config.params, os.path.relpath(experiment))
    return config


def _misplaced(experiment: str, overrides: str, variables: dict[str, str]) -> str:
    """What an override names that is not there; empty where that is not the fault."""
    from tango.common.params import Params, parse_overrides

    from steps.cli.experiment import misplaced

    with suppress(RuntimeError, ValueError):
        plain = Params.from_file(experiment, "", variables).params
        return misplaced(plain, parse_overrides(overrides, variables))
    return ""


@contextmanager
def _logged(level: str, plain: bool) -> Iterator[None]:
    """Tango's messages as they are, warnings and errors in a line each: no times, no places."""
    import tango.common.logging as tango_logging
    from rich.console import Console

    root, cli = logging.getLogger(), tango_logging.cli_logger

    class Say(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.levelno >= logging.WARNING
            console = Console(stderr=error, soft_wrap=True, highlight=False)
            console.print(record.getMessage(), markup=record.name == cli.name)

    before = (root.handlers, root.level, cli.handlers, cli.disabled)
    root.handlers = cli.handlers = [Say()]
    root.setLevel(level.upper())
    cli.disabled = False
    cli.setLevel(logging.DEBUG)
    logging.captureWarnings(True)
    tango_logging.FILE_FRIENDLY_LOGGING = plain or tango_logging.FILE_FRIENDLY_LOGGING
    try:
        yield
    finally:
        root.handlers, level_before, cli.handlers, cli.disabled = before
        root.setLevel(level_before)
        logging.captureWarnings(False)
