"""`olmo plan`: what a run would do, step by step, and why."""

from __future__ import annotations

import argparse


def main(arguments: list[str]) -> int:
    """Say what a run would do; 0 when nothing would run, 2 when something would, 1 on a fault."""
    parser = argparse.ArgumentParser(prog="olmo plan", description=main.__doc__)
    parser.add_argument("experiment")
    parser.add_argument("-w", "--workspace", help="a folder; as tango.yml says if left out")
    parser.add_argument("-o", "--overrides", default="", help="JSON, as for tango run")
    parser.add_argument("-s", "--step", action="append", help="only this step and what it reads")
    parser.add_argument(
        "--strict", action="store_true", help="a result that other code made counts as missing"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="ask whether outside data has moved, and what the remote has",
    )
    parser.add_argument(
        "--costs", action="store_true", help="only what training costs, of steps that are made too"
    )
    parser.add_argument("--gpu", help="card that costs are of, as 'H100' or 'A100 40GB'")
    parser.add_argument("--mfu", type=float, help="share of its operations that is used; 0.5")
    parser.add_argument("--pue", type=float, help="power usage effectiveness; 1.1")
    parser.add_argument("--intensity", type=float, help="kg of CO2 a kWh of the grid; 0.61")
    parser.add_argument(
        "--network-gbps",
        type=float,
        help="Gb/s out of a node, each way; by default as machines with the card have",
    )
    form = parser.add_mutually_exclusive_group()
    for each in ("json", "dot", "mermaid"):
        form.add_argument(f"--{each}", action="store_const", const=each, dest="form")
    options = parser.parse_args(arguments)
    from steps.cli.experiment import SyntaxFault, build_experiment, open_results, with_inputs
    from steps.plan.costs import Assumptions, as_form, as_table, foretell

    names = ("gpu", "mfu", "pue", "intensity", "network_gbps")
    said = {name: getattr(options, name) for name in names}
    try:
        assumed = Assumptions(**{name: each for name, each in said.items() if each is not None})
    except ValueError as fault:
        raise SyntaxFault(f"--{fault}".replace("network_gbps", "network-gbps")) from fault
    steps = build_experiment(options.experiment, options.overrides)
    steps = with_inputs(steps, options.step) if options.step else steps
    results = open_results(options.workspace, options.strict, options.experiment)
    from pipeline.store.remote import Remote
    from steps.cli.settings import workspace_settings
    from steps.graph import locking
    from steps.plan.drawing import as_dot, as_json, as_mermaid, as_text
    from steps.plan.planning import plan_steps, summary

    url = None if options.workspace else workspace_settings(options.experiment).get("remote")
    remote = Remote(url) if url and options.check else None
    planned = plan_steps(steps.values(), results, remote)
    left = {each.name: each.updates.left for each in planned if each.updates}
    foretold = foretell((steps[each.name] for each in planned), assumed, left)
    outside = locking.outside_of(steps.values())
    outside = locking.looked_at(outside) if options.check else outside
    if options.form == "json":
        print(
            as_json(
                planned,
                summary=summary(planned),
                training={each.name: as_form(each) for each in foretold},
                outside=locking.as_forms(outside),
            )
        )
    elif options.form:
        print("\n".join((as_dot if options.form == "dot" else as_mermaid)(planned)))
    elif options.costs:
        print("\n".join(as_table(foretold) if foretold else ["no training step of known shape"]))
    else:
        running = {each.name for each in planned if each.runs}
        trained = [each for each in foretold if each.name in running]
        costs = ["", *as_table(trained, full=False), ""] if trained else []
        lines = [
            *as_text(planned),
            *costs,
            summary(planned),
            *locking.told(outside, options.experiment),
        ]
        if url and not options.check:
            lines.append(
                f"the remote {url} was not asked for what is missing here; --check asks it"
            )
        print("\n".join(lines))
    return 2 if any(each.runs for each in planned) else 0
