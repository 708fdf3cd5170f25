"""Print architectures that compound scaling derives, stage by stage.

python scale.py --phi 3                        Equation 3 on B0 at phi = 3
python scale.py --phi 1 --alpha 1.3            other bases
python scale.py --variant b3                   a released model
python scale.py --depth 4                      one dimension alone, as in Figure 3
python scale.py --table                        B0-B7 against the paper's Table 2
python scale.py --fit                          why the released coefficients do not follow Equation 3
python scale.py --search --step 0.05           the grid of STEP 1, ranked by true multiply-adds
python scale.py --budget 1.5G                  the phi that uses a budget of multiply-adds best
python scale.py --max-parameters 10M           the same for parameters
python scale.py --phi 3 --json                 the same for programs
"""

from __future__ import annotations

import argparse
import json
import math
import sys

from efficientnet.command_line import Parser, number, run
from efficientnet.complexity import (
    Candidate,
    Complexity,
    complexity,
    grid_search,
    largest_coefficients,
    stage_complexities,
)
from efficientnet.scaling import (
    ALPHA,
    B0,
    BETA,
    GAMMA,
    SMALLEST_IMAGE,
    VARIANTS,
    Coefficients,
    Stage,
    Variant,
    compound_coefficients,
    fit_phi,
    flops_growth,
    get_variant,
    implied_phi,
    scale,
    scaled_image_size,
)

# The paper's own product is 1.920; further than this from 2, phi no longer counts doublings of the multiply-adds.
CONSTRAINT_TOLERANCE = 0.2
BASED_ON_EQUATION_3 = ("--phi", "--budget/--max-parameters")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(prog="scale.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phi", type=float, help="compound coefficient, 0 or more, fractions too (default 0: B0)")
    parser.add_argument("--alpha", type=float, help=f"base of the depth, at least 1 (default {ALPHA})")
    parser.add_argument("--beta", type=float, help=f"base of the width, at least 1 (default {BETA})")
    parser.add_argument("--gamma", type=float, help=f"base of the resolution, at least 1 (default {GAMMA})")
    parser.add_argument("--variant", help=f"a released model: {', '.join(VARIANTS)}")
    parser.add_argument("--depth", type=float, help="factor on B0's depth, instead of phi (default 1)")
    parser.add_argument("--width", type=float, help="factor on B0's width, instead of phi (default 1)")
    parser.add_argument("--resolution", type=float, help="factor on B0's 224 pixels, instead of phi (default 1)")
    parser.add_argument("--table", action="store_true", help="B0-B7 beside the paper's Table 2")
    parser.add_argument("--fit", action="store_true", help="each released variant beside Equation 3 at its best phi")
    parser.add_argument("--search", action="store_true", help="alpha, beta, gamma of STEP 1 that about double the cost")
    parser.add_argument("--step", type=float, help="of the search's grid (default 0.05)")
    parser.add_argument("--tolerance", type=float, help="the search's: how far the product may be from 2 (default 0.1)")
    parser.add_argument("--budget", type=count, metavar="N", help="most multiply-adds, such as 1.5G: gives the phi")
    parser.add_argument("--max-parameters", type=count, metavar="N", help="most parameters, such as 10M: gives the phi")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    arguments = parser.parse_args()

    ways = {
        "--table": arguments.table,
        "--fit": arguments.fit,
        "--search": arguments.search,
        "--variant": arguments.variant is not None,
        "--depth/--width/--resolution": any(given(arguments, "depth", "width", "resolution")),
        "--phi": arguments.phi is not None,
        "--budget/--max-parameters": any(given(arguments, "budget", "max_parameters")),
    }
    chosen = [way for way, used in ways.items() if used]
    if len(chosen) > 1:
        parser.error(f"{' and '.join(chosen)} exclude each other: choose one way to name an architecture")
    try:
        if any(given(arguments, "alpha", "beta", "gamma")) and chosen and chosen[0] not in BASED_ON_EQUATION_3:
            raise ValueError(f"--alpha, --beta and --gamma have no part in {chosen[0]}")
        if any(given(arguments, "step", "tolerance")) and not arguments.search:
            raise ValueError("--step and --tolerance belong to --search")
        if arguments.search:
            step = 0.05 if arguments.step is None else arguments.step
            arguments.candidates = grid_search(B0, step, 0.1 if arguments.tolerance is None else arguments.tolerance)
        listing = arguments.table or arguments.fit or arguments.search
        arguments.derived = None if listing else derive(arguments)
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


def given(arguments: argparse.Namespace, *names: str) -> list[bool]:
    return [getattr(arguments, name) is not None for name in names]


def derive(arguments: argparse.Namespace) -> tuple[str, Coefficients, tuple[Stage, ...], int]:
    """Name, coefficients, stages and image size of what the flags ask for; ValueError where they cannot."""
    if arguments.variant is not None:
        variant = get_variant(arguments.variant)
        name, coefficients = variant.name, variant.coefficients
    elif any(given(arguments, "depth", "width", "resolution")):
        factors = {name: getattr(arguments, name) for name in ("depth", "width", "resolution")}
        factors = {name: value for name, value in factors.items() if value is not None}
        coefficients = Coefficients(**factors)
        name = "b0 with " + ", ".join(f"{key} {value:g}" for key, value in factors.items())
    else:
        bases = {
            base: default if getattr(arguments, base) is None else getattr(arguments, base)
            for base, default in (("alpha", ALPHA), ("beta", BETA), ("gamma", GAMMA))
        }
        if any(given(arguments, "budget", "max_parameters")):
            coefficients = largest_coefficients(B0, arguments.budget, arguments.max_parameters, **bases)
        else:
            coefficients = compound_coefficients(arguments.phi or 0.0, **bases)
        name = f"b0 at phi {coefficients.phi:g}"
    image_size = scaled_image_size(B0, coefficients)
    if image_size < SMALLEST_IMAGE:
        raise ValueError(f"resolution {coefficients.resolution:g} gives images of {image_size} pixels; 32 is the least")
    return name, coefficients, scale(B0, coefficients), image_size


def closest_variant(multiply_adds: int) -> tuple[Variant, Complexity]:
    """The released variant with the least |log ratio| of multiply-adds, and its counts."""
    counts = {name: complexity(variant.stages, variant.image_size) for name, variant in VARIANTS.items()}
    name = min(counts, key=lambda name: abs(math.log(multiply_adds / counts[name].multiply_adds)))
    return VARIANTS[name], counts[name]


def describe(name: str, coefficients: Coefficients, stages: tuple[Stage, ...], image_size: int) -> dict:
    """The contract of --json."""
    rows = stage_complexities(stages, image_size)
    total = complexity(stages, image_size)
    return {
        "name": name,
        "coefficients": {
            key: getattr(coefficients, key) for key in ("phi", "alpha", "beta", "gamma", "depth", "width", "resolution")
        },
        "image_size": image_size,
        "stages": [
            {
                "operator": row.stage.operator,
                "kernel_size": row.stage.kernel_size,
                "stride": row.stage.stride,
                "expansion": row.stage.expansion,
                "in_channels": row.stage.in_channels,
                "out_channels": row.stage.out_channels,
                "layers": row.stage.layers,
                "input_resolution": row.input_resolution[0],
                "parameters": row.counts.parameters,
                "multiply_adds": row.counts.multiply_adds,
            }
            for row in rows
        ],
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "closest_variant": closest_variant(total.multiply_adds)[0].name,
    }


def print_architecture(name: str, coefficients: Coefficients, stages: tuple[Stage, ...], image_size: int) -> None:
    print(f"EfficientNet {name.upper() if name in VARIANTS else name}")
    if coefficients.phi is not None:
        bases = (coefficients.alpha, coefficients.beta, coefficients.gamma)
        powers = " * ".join(f"{base:g}^{power}" for base, power in zip(bases, (1, 2, 2), strict=True)).replace(
            "^1 ", " "
        )
        print(
            "Equation 3: "
            + ", ".join(
                f"{kind} {base:g}^{coefficients.phi:g} = {factor:.4f}"
                for kind, base, factor in zip(
                    ("depth", "width", "resolution"),
                    bases,
                    (coefficients.depth, coefficients.width, coefficients.resolution),
                    strict=True,
                )
            )
            + f"; {powers} = {flops_growth(*bases):.3f}"
        )
    else:
        print(
            f"depth {coefficients.depth:g}, width {coefficients.width:g}, resolution {coefficients.resolution:.4f}; "
            "solved for phi in Equation 3 these are " + ", ".join(f"{phi:.2f}" for phi in implied_phi(coefficients))
        )
    print(f"image size {image_size} x {image_size} pixels ({B0.image_size} * {coefficients.resolution:.4f}, rounded)\n")

    header = ("stage", "operator", "kernel", "stride", "expansion", "channels", "layers", "input", "parameters")
    line = "{:>5}  {:<18} {:>6} {:>6} {:>9}  {:>11} {:>6}  {:>9} {:>13} {:>15}"
    print(line.format(*header, "multiply-adds"))
    for place, row in enumerate(stage_complexities(stages, image_size), start=1):
        stage = row.stage
        print(
            line.format(
                place,
                stage.label,
                f"{stage.kernel_size}x{stage.kernel_size}",
                stage.stride,
                stage.expansion if stage.operator == "mbconv" else "-",
                f"{stage.in_channels} > {stage.out_channels}",
                stage.layers,
                "{}x{}".format(*row.input_resolution),
                f"{row.counts.parameters:,}",
                f"{row.counts.multiply_adds:,}",
            )
        )
    total = complexity(stages, image_size)
    layers = sum(stage.layers for stage in stages)
    print(line.format("", "total", "", "", "", "", layers, "", f"{total.parameters:,}", f"{total.multiply_adds:,}"))

    variant, counts = closest_variant(total.multiply_adds)
    if name == variant.name:
        return
    print(
        f"\nclosest released variant by multiply-adds: {variant.name.upper()} (depth {variant.depth}, width "
        f"{variant.width}, {variant.image_size} pixels; {counts.parameters:,} parameters, "
        f"{counts.multiply_adds / 1e9:.3f} G multiply-adds).\nThis one has "
        f"{percent(total.parameters, counts.parameters)} of its parameters and "
        f"{percent(total.multiply_adds, counts.multiply_adds)} of its multiply-adds. Released coefficients are "
        "rounded by hand:\nthe number in a variant's name is not phi (phi 1 is about B2, phi 2 about B3, phi 3 "
        "lies between B3 and B4)."
    )


def percent(ours: float, theirs: float) -> str:
    return f"{100 * ours / theirs:.1f} %"


def print_table() -> None:
    print("B0-B7 from their released coefficients, beside Table 2 of the paper (1000 classes, 3 input channels);")
    print("B8 and L2 are in the released code only. The paper's FLOPs are multiply-adds.")
    print("phi: Equation 3 solved for depth / width / resolution.\n")
    line = "{:<7} {:>5} {:>5} {:>5} {:>7}  {:>11} {:>8} {:>7}  {:>13} {:>7} {:>7}   {}"
    print(
        line.format(
            "variant", "depth", "width", "size", "dropout", "parameters", "paper M", "differ", "multiply-adds",
            "paper B", "differ", "phi by d / w / r",
        )
    )  # fmt: skip
    for variant in VARIANTS.values():
        counts = complexity(variant.stages, variant.image_size)
        print(
            line.format(
                variant.name,
                variant.depth,
                variant.width,
                variant.image_size,
                variant.dropout,
                f"{counts.parameters:,}",
                variant.paper_parameters or "-",
                difference(counts.parameters / 1e6, variant.paper_parameters),
                f"{counts.multiply_adds / 1e9:.3f} G",
                variant.paper_flops or "-",
                difference(counts.multiply_adds / 1e9, variant.paper_flops),
                " / ".join(f"{phi:.2f}" for phi in implied_phi(variant.coefficients)),
            )
        )


def difference(ours: float, paper: float | None) -> str:
    return "-" if paper is None else f"{100 * (ours / paper - 1):+.1f}%"


def fit_rows() -> list[dict]:
    """Each of B0-B7, B8 and L2 beside Equation 3 at the phi that fits its coefficients best."""
    rows = []
    for variant in VARIANTS.values():
        fitted = compound_coefficients(max(0.0, fit_phi(variant.coefficients)))
        image_size, stages = scaled_image_size(B0, fitted), scale(B0, fitted)
        row = describe(f"b0 at phi {fitted.phi:.4g}", fitted, stages, image_size)
        released = complexity(variant.stages, variant.image_size)
        row["variant"] = variant.name
        row["implied_phi"] = dict(zip(("depth", "width", "resolution"), implied_phi(variant.coefficients), strict=True))
        row["variant_parameters"] = released.parameters
        row["variant_multiply_adds"] = released.multiply_adds
        rows.append(row)
    return rows


def print_fit() -> None:
    print("Each released variant beside Equation 3 (1.2, 1.1, 1.15) at the one phi that fits its coefficients best.")
    print("phi by d / w / r: the phi that depth, width and resolution each ask for. best: least squares of the")
    print("logarithms. differ: Equation 3's architecture over the released one.\n")
    line = "{:<7} {:>20} {:>6} {:>5} {:>5}  {:>13} {:>13} {:>7}  {:>9} {:>9} {:>7}"
    names = ("variant", "phi by d / w / r", "best", "size", "Eq. 3", "parameters", "Eq. 3", "differ", "MACs", "Eq. 3")
    print(line.format(*names, "differ"))
    for row in fit_rows():
        print(
            line.format(
                row["variant"],
                " / ".join(f"{phi:.2f}" for phi in row["implied_phi"].values()),
                f"{row['coefficients']['phi']:.2f}",
                VARIANTS[row["variant"]].image_size,
                row["image_size"],
                f"{row['variant_parameters']:,}",
                f"{row['parameters']:,}",
                f"{100 * (row['parameters'] / row['variant_parameters'] - 1):+.1f}%",
                f"{row['variant_multiply_adds'] / 1e9:.3f} G",
                f"{row['multiply_adds'] / 1e9:.3f} G",
                f"{100 * (row['multiply_adds'] / row['variant_multiply_adds'] - 1):+.1f}%",
            )
        )
    print(
        "\nWhy do the released coefficients not follow the formula? The authors rounded them by hand: depth lags\n"
        "behind width and resolution in the larger models, and the image sizes are chosen, not computed. No single\n"
        "phi gives all three factors of any variant but B0 (B2 comes closest), and the number in a name is not phi."
    )


def search_rows(candidates: list[Candidate]) -> list[dict]:
    rows = []
    for candidate in candidates:
        chosen = candidate.coefficients
        name = f"b0 with alpha {chosen.alpha:g}, beta {chosen.beta:g}, gamma {chosen.gamma:g}"
        row = describe(name, chosen, scale(B0, chosen), scaled_image_size(B0, chosen))
        rows.append(row | {"product": candidate.product, "growth": candidate.growth})
    return rows


def print_search(candidates: list[Candidate]) -> None:
    print("STEP 1 at phi = 1: alpha, beta, gamma whose alpha * beta^2 * gamma^2 is about 2, best first by how closely")
    print("the rounded architecture doubles B0's multiply-adds. The paper trained such candidates; * is its choice.\n")
    line = "{:<2} {:>6} {:>6} {:>6} {:>8}  {:>5} {:>13} {:>15} {:>7}"
    print(line.format("", "alpha", "beta", "gamma", "product", "size", "parameters", "multiply-adds", "growth"))
    for candidate in candidates:
        chosen = candidate.coefficients
        bases = (chosen.alpha, chosen.beta, chosen.gamma)
        print(
            line.format(
                "*" if bases == (ALPHA, BETA, GAMMA) else "",
                *(f"{base:g}" for base in bases),
                f"{candidate.product:.3f}",
                scaled_image_size(B0, chosen),
                f"{candidate.counts.parameters:,}",
                f"{candidate.counts.multiply_adds:,}",
                f"{candidate.growth:.3f}",
            )
        )


def table_rows() -> dict:
    rows = []
    for variant in VARIANTS.values():
        row = describe(variant.name, variant.coefficients, variant.stages, variant.image_size)
        paper = (variant.paper_parameters, 1e6), (variant.paper_flops, 1e9)
        row["paper_parameters"], row["paper_multiply_adds"] = (
            None if value is None else round(value * unit) for value, unit in paper
        )
        rows.append(row)
    return {"rows": rows}


def main() -> None:
    arguments = parse_arguments()
    if arguments.table:
        print(json.dumps(table_rows(), indent=2)) if arguments.json else print_table()
        return
    if arguments.fit:
        print(json.dumps({"rows": fit_rows()}, indent=2)) if arguments.json else print_fit()
        return
    if arguments.search:
        candidates = arguments.candidates
        print(json.dumps({"rows": search_rows(candidates)}, indent=2)) if arguments.json else print_search(candidates)
        return
    coefficients = arguments.derived[1]
    if coefficients.phi is not None:
        growth = flops_growth(coefficients.alpha, coefficients.beta, coefficients.gamma)
        if abs(growth - 2) > CONSTRAINT_TOLERANCE:
            print(
                f"scale.py: warning: alpha * beta^2 * gamma^2 = {growth:.3f}, far from the 2 of Equation 3: "
                f"multiply-adds grow by about {growth:.2f}^phi, not 2^phi",
                file=sys.stderr,
            )
    if arguments.json:
        print(json.dumps(describe(*arguments.derived), indent=2))
    else:
        print_architecture(*arguments.derived)


if __name__ == "__main__":
    run("scale.py", main)
