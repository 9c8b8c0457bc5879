"""`olmo rm`: remove a result, or let a run go."""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase

from steps.cli.selecting import find, open_to_change, parser_of

RUN = "run:"


def main(arguments: list[str]) -> int:
    """Remove the result of a step, or a run (`run:NAME`, where * stands for any characters).

    The results of a run stay until `olmo gc`; a result that is removed is made again when a run
    needs it. Of a step that is not finished, what it has made so far is removed. A training series
    goes with the last step that has it.
    """
    parser = parser_of("rm", main.__doc__)
    parser.add_argument("what", nargs="+", help="step, run:step, the start of an id, or run:NAME")
    parser.add_argument("-f", "--force", action="store_true", help="though other results need it")
    options = parser.parse_args(arguments)
    from pipeline.core.terminal import size, visible
    from pipeline.store.cleaning import InUse, came_free, plan_removal, remove, remove_run
    from pipeline.store.series import series_of
    from pipeline.store.survey import Survey

    workspace = open_to_change(options.workspace)
    results, status = workspace.results, 0
    for what in options.what:
        if what.startswith(RUN) and "run" not in workspace.runs:
            pattern = what.removeprefix(RUN)
            names = [name for name in workspace.runs if fnmatchcase(name, pattern)]
            if not names:
                raise ValueError(f"{pattern!r} is no run of this workspace")
            for name in names:
                remove_run(results, name)
                print(f"run {visible(name)} is removed; `olmo gc` removes what it alone needed")
            continue
        id = find(workspace, what)
        survey = Survey(results)
        begun = survey.place("work", id) or series_of(results.series_root, id)
        if id not in survey.results_by_id and not begun:
            raise ValueError(f"{id} is not there")
        if id in survey.in_use():
            raise InUse(f"{id} is in use now; it is not removed")
        readers, runs = survey.used_by_results(id), survey.named_by_runs(id)
        if readers and not options.force:
            print(f"{id} is needed by {', '.join(readers)}", file=sys.stderr)
            drawing = [each for each in readers if id in survey.results_by_id[each].references]
            if drawing:
                lost = f"{', '.join(drawing)} read its files, and are made again after it"
                print(f"{lost}; --force removes it", file=sys.stderr)
            else:
                print("They stay valid without it; --force removes it", file=sys.stderr)
            status = 1
            continue
        if survey.unknown and not options.force:
            print(f"{survey.unknown[0]}; it may need {id}; --force removes it", file=sys.stderr)
            status = 1
            continue
        removal = plan_removal(survey, [id])
        for refused in remove(results, removal):
            print(refused, file=sys.stderr)
            status = 1
        if not any((results.root / name / id).exists() for name in ("cache", "work")):
            print(f"{id} is removed; {size(came_free(survey, removal))} came free")
            for name, why in removal.staying.items():
                print(f"  the series {visible(name)} stays: {visible(why)}")
            if runs:
                print(f"  run again makes it anew: {visible(', '.join(runs))}")
    return status
