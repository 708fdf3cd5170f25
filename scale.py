"""Print the architectures that compound scaling gives, stage by stage.

python scale.py --phi 3                        Equation 3 on B0 at phi = 3
python scale.py --phi 1 --alpha 1.3            other bases
python scale.py --variant b3                   a released model
python scale.py --depth 4                      one dimension alone, as in Figure 3
python scale.py --baseline resnet50 --phi 2    another baseline (also for factors, searches and --plot)
python scale.py --baseline mine.json           a baseline in a file, as --json prints it
python scale.py --table                        B0-B7 against the paper's Table 2
python scale.py --fit                          why the released coefficients do not follow Equation 3
python scale.py --paper table3                 the paper's Table 3 (or table7) beside its own rules
python scale.py --search --step 0.05           the grid of STEP 1 by true multiply-adds: the best 15 and the paper's
python scale.py --search --all                 the whole grid
python scale.py --budget 1.5G                  the largest phi within a budget of multiply-adds
python scale.py --max-parameters 10M           the same for parameters
python scale.py --plot family.png              accuracy and cost as a picture
python scale.py --phi 3 --json                 JSON for programs, with any of the above
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from efficientnet.analysis.paper_tables import TABLES, reproduce
from efficientnet.analysis.plot import plot
from efficientnet.analysis.rows import architecture_row, budget_rows, fit_rows, paper_rows, search_rows, table_rows
from efficientnet.analysis.search import grid_search, largest_coefficients
from efficientnet.analysis.text import (
    SHORT_SEARCH,
    architecture_text,
    budget_text,
    fit_text,
    paper_text,
    search_text,
    table_text,
)
from efficientnet.architecture import (
    BY_PHI,
    add_arguments,
    chosen_architecture,
    chosen_baseline,
    chosen_bases,
    chosen_way,
    constraint_warning,
    derive,
    is_given,
)
from efficientnet.common.command_line import Parser, command, leave, number, output_file, program_name

PROGRAM = program_name("scale.py")
BY_BUDGET = "--budget/--max-parameters"


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog=PROGRAM, usage="%(prog)s [options]", description=__doc__)
    add_arguments(parser, default="--phi 0, the baseline itself")
    tables = parser.add_argument_group("tables of the paper")
    tables.add_argument("--table", action="store_true", help="B0-B7 beside the paper's Table 2; B8 and L2")
    tables.add_argument("--fit", action="store_true", help="each released variant beside Equation 3 at its best phi")
    tables.add_argument("--paper", metavar="TABLE", help=f"a table beside its own rules: {', '.join(TABLES)}")
    search = parser.add_argument_group("searches")
    search.add_argument("--search", action="store_true", help="STEP 1: alpha, beta, gamma that about double the cost")
    search.add_argument("--step", type=float, metavar="X", help="step of the grid (default: 0.05)")
    search.add_argument(
        "--tolerance", type=float, metavar="X", help="largest distance of the product from 2 (default: 0.1)"
    )
    search.add_argument(
        "--all", action="store_true", help=f"the whole grid, not only the best {SHORT_SEARCH} (--json: always)"
    )
    search.add_argument("--budget", type=count, metavar="N", help="phi for at most N multiply-adds, such as 1.5G")
    search.add_argument("--max-parameters", type=count, metavar="N", help="phi for at most N parameters, such as 10M")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--plot", type=output_file, metavar="FILE.png", help="draw accuracy and cost; .svg and .pdf too (matplotlib)"
    )
    output.add_argument("--json", action="store_true", help="one JSON object instead of text")
    arguments = parser.parse_args(argv)
    others = {
        "--table": arguments.table,
        "--fit": arguments.fit,
        "--paper": is_given(arguments, "paper"),
        "--search": arguments.search,
        "--plot": is_given(arguments, "plot"),
        BY_BUDGET: is_given(arguments, "budget", "max_parameters"),
    }
    try:
        with_bases = ("--plot", BY_BUDGET)
        arguments.way = chosen_way(arguments, others, with_bases, (*with_bases, "--search")) or BY_PHI
        if (arguments.all or is_given(arguments, "step", "tolerance")) and arguments.way != "--search":
            raise ValueError("--all, --step and --tolerance need --search")
        arguments.answer = prepare(arguments)
        warning = constraint_warning(arguments) if arguments.way in (BY_PHI, *with_bases) else None
    except ValueError as error:
        parser.error(str(error))
    if warning:
        print(f"{PROGRAM}: warning: {warning}", file=sys.stderr)
    return arguments


def count(text: str) -> float:
    """An argparse type: a positive number with an optional suffix K, M, G (or B) or T."""
    scales = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
    unit = scales.get(text[-1:].upper())
    try:
        return number(float, above=0)(text[:-1] if unit else text) * (unit or 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number such as 1.5G or 400M") from None


def prepare(arguments: argparse.Namespace) -> dict | str:
    """Compute the answer: a dict for --json, text otherwise. Raises ValueError if there is none."""
    way, baseline = arguments.way, chosen_baseline(arguments)
    if way == "--table":
        return {"rows": table_rows()} if arguments.json else table_text()
    if way == "--fit":
        return {"rows": fit_rows()} if arguments.json else fit_text()
    if way == "--paper":
        rows = reproduce(arguments.paper)
        return {"rows": paper_rows(rows)} if arguments.json else paper_text(arguments.paper, rows)
    if way == "--search":
        step = 0.05 if arguments.step is None else arguments.step
        candidates = grid_search(baseline, step, 0.1 if arguments.tolerance is None else arguments.tolerance)
        if arguments.json:
            return {"rows": search_rows(baseline, candidates)}
        return search_text(baseline, candidates, None if arguments.all else SHORT_SEARCH)
    if way == "--plot":
        drawn = plot(arguments.plot, baseline, **chosen_bases(arguments))
        return drawn if arguments.json else f"wrote {arguments.plot}"
    if way == BY_BUDGET:
        most = (arguments.budget, arguments.max_parameters)
        derived = derive(baseline, largest_coefficients(baseline, *most, **chosen_bases(arguments)))
        budgets = budget_rows(derived, *most)
        if arguments.json:
            return architecture_row(derived) | budgets
        return f"{budget_text(budgets)}\n{architecture_text(derived)}"
    derived = chosen_architecture(arguments, way)
    return architecture_row(derived) if arguments.json else architecture_text(derived)


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    print(json.dumps(arguments.answer, indent=2) if arguments.json else arguments.answer)


if __name__ == "__main__":
    leave(main())
