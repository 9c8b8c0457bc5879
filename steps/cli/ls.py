"""`olmo ls`: runs, or the steps of one: what is there, how large, how old, who needs it."""

from __future__ import annotations

from steps.cli.selecting import EXPERIMENT, ids_of, open_named, parser_of


def main(arguments: list[str]) -> int:
    """List the runs of a workspace, or the steps of a run or an experiment."""
    parser = parser_of("ls", main.__doc__)
    parser.add_argument("what", nargs="?", help="a run, `latest`, or an experiment file")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    from pipeline.browse.listing import list_steps, list_workspace
    from pipeline.browse.terminal import print_view
    from pipeline.core.errors import nearest
    from pipeline.store.survey import Survey

    workspace = open_named(options.workspace)
    survey = Survey(workspace.results)
    if options.what is None:
        view = list_workspace(survey)
    elif options.what.endswith(EXPERIMENT):
        view = list_steps(survey, options.what, ids_of(options.what))
    else:
        name = workspace.latest.name if options.what == "latest" else options.what
        if name not in survey.runs:
            raise ValueError(f"{name!r} is no run{nearest(name, survey.runs)}")
        view = list_steps(survey, f"run {name}", survey.runs[name].steps)
    print_view(view, as_json=options.json)
    return 0
