"""Print architectures that compound scaling derives, stage by stage.

python scale.py --phi 3                        Equation 3 on B0 at phi = 3
python scale.py --phi 1 --alpha 1.3            other bases
python scale.py --variant b3                   a released model
python scale.py --depth 4                      one dimension alone, as in Figure 3
python scale.py --baseline resnet50 --phi 2    another baseline, for --phi, factors, --search, budgets and --plot
python scale.py --table                        B0-B7 against the paper's Table 2
python scale.py --fit                          why the released coefficients do not follow Equation 3
python scale.py --paper table3                 the paper's Table 3 (or table7) beside its own rules
python scale.py --search --step 0.05           the grid of STEP 1, ranked by true multiply-adds
python scale.py --budget 1.5G                  the phi that uses a budget of multiply-adds best
python scale.py --max-parameters 10M           the same for parameters
python scale.py --plot family.png              the family and Equation 3's curve as a picture
python scale.py --phi 3 --json                 the same for programs, with any of these
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from efficientnet.baselines import BASELINES, get_baseline
from efficientnet.command_line import Parser, number, run
from efficientnet.complexity import grid_search, largest_coefficients
from efficientnet.paper_tables import TABLES, reproduce
from efficientnet.scaling import (
    ALPHA,
    BETA,
    GAMMA,
    LITE_VARIANTS,
    VARIANTS,
    Coefficients,
    compound_coefficients,
    flops_growth,
    get_variant,
)
from efficientnet.scaling_plot import plot
from efficientnet.scaling_rows import (
    FACTORS,
    Derived,
    architecture_row,
    budget_rows,
    derive,
    fit_rows,
    paper_rows,
    search_rows,
    table_rows,
)
from efficientnet.scaling_text import architecture_text, budget_text, fit_text, paper_text, search_text, table_text

# The paper's own product is 1.920; further than this from 2, phi no longer counts doublings of the multiply-adds.
CONSTRAINT_TOLERANCE = 0.2
KNOWN = VARIANTS | LITE_VARIANTS
BASES = {"alpha": ALPHA, "beta": BETA, "gamma": GAMMA}
# The ways to ask, and what may go with each.
WITH_BASES = ("--phi", "--budget/--max-parameters", "--plot")
WITH_BASELINE = (*WITH_BASES, "--depth/--width/--resolution", "--search")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(prog="scale.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phi", type=float, help="compound coefficient, 0 or more, fractions too (default 0)")
    parser.add_argument("--alpha", type=float, help=f"base of the depth, at least 1 (default {ALPHA})")
    parser.add_argument("--beta", type=float, help=f"base of the width, at least 1 (default {BETA})")
    parser.add_argument("--gamma", type=float, help=f"base of the resolution, at least 1 (default {GAMMA})")
    parser.add_argument("--baseline", metavar="NAME", help=f"what is scaled: {', '.join(BASELINES)} (default b0)")
    parser.add_argument("--variant", metavar="NAME", help=f"a released model: {', '.join(KNOWN)}")
    parser.add_argument("--depth", type=float, help="factor on the baseline's depth, instead of phi (default 1)")
    parser.add_argument("--width", type=float, help="factor on the baseline's width, instead of phi (default 1)")
    parser.add_argument("--resolution", type=float, help="factor on its image size, instead of phi (default 1)")
    parser.add_argument("--table", action="store_true", help="B0-B7 beside the paper's Table 2")
    parser.add_argument("--fit", action="store_true", help="each released variant beside Equation 3 at its best phi")
    parser.add_argument("--paper", metavar="TABLE", help=f"rows of the paper beside ours: {', '.join(TABLES)}")
    parser.add_argument("--search", action="store_true", help="alpha, beta, gamma of STEP 1 that about double the cost")
    parser.add_argument("--step", type=float, help="of the search's grid (default 0.05)")
    parser.add_argument("--tolerance", type=float, help="the search's: how far the product may be from 2 (default 0.1)")
    parser.add_argument("--budget", type=count, metavar="N", help="most multiply-adds, such as 1.5G: gives the phi")
    parser.add_argument("--max-parameters", type=count, metavar="N", help="most parameters, such as 10M: gives the phi")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the family (needs matplotlib)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    arguments = parser.parse_args()
    try:
        arguments.way = chosen_way(arguments)
        arguments.scaled = get_baseline(arguments.baseline or "b0")
        arguments.bases = {
            name: default if getattr(arguments, name) is None else getattr(arguments, name)
            for name, default in BASES.items()
        }
        arguments.answer = prepare(arguments)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def count(text: str) -> float:
    """An argparse type: a positive number with K, M, G or T behind it or not."""
    scales = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
    unit = scales.get(text[-1:].upper())
    try:
        return number(float, above=0)(text[:-1] if unit else text) * (unit or 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number such as 1.5G or 400M") from None


def given(arguments: argparse.Namespace, *names: str) -> bool:
    return any(getattr(arguments, name) is not None for name in names)


def chosen_way(arguments: argparse.Namespace) -> str:
    """The one way in which an architecture, or a list of them, is asked for; ValueError where flags contradict."""
    ways = {
        "--table": arguments.table,
        "--fit": arguments.fit,
        "--paper": given(arguments, "paper"),
        "--search": arguments.search,
        "--plot": given(arguments, "plot"),
        "--variant": given(arguments, "variant"),
        "--depth/--width/--resolution": given(arguments, *FACTORS),
        "--phi": given(arguments, "phi"),
        "--budget/--max-parameters": given(arguments, "budget", "max_parameters"),
    }
    chosen = [way for way, used in ways.items() if used] or ["--phi"]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} exclude each other: choose one way to name an architecture")
    (way,) = chosen
    if given(arguments, *BASES) and way not in WITH_BASES:
        raise ValueError(f"--alpha, --beta and --gamma have no part in {way}")
    if given(arguments, "baseline") and way not in WITH_BASELINE:
        raise ValueError(f"--baseline has no part in {way}")
    if given(arguments, "step", "tolerance") and way != "--search":
        raise ValueError("--step and --tolerance belong to --search")
    return way


def prepare(arguments: argparse.Namespace) -> dict | str:
    """The answer: a dict for --json, text otherwise.  ValueError where it cannot be given."""
    way, baseline = arguments.way, arguments.scaled
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
        return {"rows": search_rows(baseline, candidates)} if arguments.json else search_text(baseline, candidates)
    if way == "--plot":
        drawn = plot(arguments.plot, baseline, **arguments.bases)
        return drawn if arguments.json else f"wrote {arguments.plot}"
    derived = architecture(arguments)
    if way == "--budget/--max-parameters":
        budgets = budget_rows(derived, arguments.budget, arguments.max_parameters)
        if arguments.json:
            return architecture_row(derived) | budgets
        return f"{budget_text(budgets)}\n{architecture_text(derived)}"
    return architecture_row(derived) if arguments.json else architecture_text(derived)


def architecture(arguments: argparse.Namespace) -> Derived:
    """The one architecture that the flags ask for."""
    if arguments.way == "--variant":
        variant = get_variant(arguments.variant)
        return derive(variant.baseline, variant.coefficients, variant.name)
    if arguments.way == "--depth/--width/--resolution":
        factors = {name: getattr(arguments, name) for name in FACTORS if getattr(arguments, name) is not None}
        return derive(arguments.scaled, Coefficients(**factors))
    if arguments.way == "--budget/--max-parameters":
        budgets = (arguments.budget, arguments.max_parameters)
        coefficients = largest_coefficients(arguments.scaled, *budgets, **arguments.bases)
    else:
        coefficients = compound_coefficients(arguments.phi or 0.0, **arguments.bases)
    return derive(arguments.scaled, coefficients)


def main() -> None:
    arguments = parse_arguments()
    growth = flops_growth(**arguments.bases)
    if arguments.way in WITH_BASES and abs(growth - 2) > CONSTRAINT_TOLERANCE:
        print(
            f"scale.py: warning: alpha * beta^2 * gamma^2 = {growth:.3f}, far from the 2 of Equation 3: "
            f"multiply-adds grow by about {growth:.2f}^phi, not 2^phi",
            file=sys.stderr,
        )
    print(json.dumps(arguments.answer, indent=2) if arguments.json else arguments.answer)


if __name__ == "__main__":
    run("scale.py", main)
