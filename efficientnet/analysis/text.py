"""The answers of scale.py as text, one function for each. No torch here."""

from __future__ import annotations

from efficientnet.analysis.paper_tables import Reproduction
from efficientnet.analysis.rows import closest_variant, fit_rows, table_rows
from efficientnet.analysis.search import Candidate, networks
from efficientnet.architecture import FACTORS, Architecture
from efficientnet.common.command_line import program_name
from efficientnet.complexity import complexity, stage_complexities
from efficientnet.scaling import (
    ALPHA,
    B0,
    BETA,
    BLOCKS,
    GAMMA,
    VARIANTS,
    Baseline,
    Coefficients,
    flops_growth,
    implied_phi,
    scaled_image_size,
)


def percent(ours: float, theirs: float) -> str:
    return f"{100 * ours / theirs:.1f} %"


def difference(ours: float, paper: float | None) -> str:
    return "-" if paper is None else f"{100 * (ours / paper - 1):+.1f}%"


def three(values: dict[str, float]) -> str:
    """The phi of depth, width and resolution in one cell."""
    return " / ".join(f"{value:.2f}" for value in values.values())


def equation_text(coefficients: Coefficients) -> str:
    """Equation 3 with its numbers, or, for factors that were given directly, the phi that each implies."""
    factors = [getattr(coefficients, name) for name in FACTORS]
    if coefficients.phi is None:
        implied = ", ".join(f"{phi:.2f}" for phi in implied_phi(coefficients))
        return "depth {:g}, width {:g}, resolution {:.4f}; phi implied by each (Equation 3): {}".format(
            *factors, implied
        )
    bases = (coefficients.alpha, coefficients.beta, coefficients.gamma)
    powers = ", ".join(
        f"{name} {base:g}^{coefficients.phi:g} = {factor:.4f}"
        for name, base, factor in zip(FACTORS, bases, factors, strict=True)
    )
    return f"Equation 3: {powers}; " + "{:g} * {:g}^2 * {:g}^2 = {:.3f}".format(*bases, flops_growth(*bases))


def architecture_text(derived: Architecture) -> str:
    """One line per stage, as in Table 1, with the totals and the closest released variant."""
    baseline, coefficients, size = derived.baseline, derived.coefficients, derived.image_size
    lines = [derived.title, equation_text(coefficients)]
    lines += [f"image size {size} x {size} pixels ({baseline.image_size} * {coefficients.resolution:.4f}, rounded)", ""]

    width = max(19, *(len(stage.label) for stage in derived.stages))
    line = "{:>5}  {:<" + str(width) + "} {:>6} {:>6} {:>9}  {:>12} {:>6}  {:>9} {:>13} {:>15}"
    header = ("stage", "operator", "kernel", "stride", "expansion", "channels", "layers", "input", "parameters")
    lines.append(line.format(*header, "multiply-adds"))
    for place, row in enumerate(stage_complexities(derived.stages, size), start=1):
        stage = row.stage
        lines.append(
            line.format(
                place,
                stage.label,
                f"{stage.kernel_size}x{stage.kernel_size}" if stage.operator != "classifier" else "-",
                stage.stride,
                stage.expansion if stage.operator in BLOCKS and stage.operator not in ("separable", "plain") else "-",
                f"{stage.in_channels} > {stage.out_channels}",
                stage.layers,
                "{}x{}".format(*row.input_resolution),
                f"{row.counts.parameters:,}",
                f"{row.counts.multiply_adds:,}",
            )
        )
    total = complexity(derived.stages, size)
    layers = sum(stage.layers for stage in derived.stages)
    lines.append(
        line.format("", "total", "", "", "", "", layers, "", f"{total.parameters:,}", f"{total.multiply_adds:,}")
    )

    lines += ["", f"to train it: {program_name('python train.py')} {derived.flags}"]
    variant, counts = closest_variant(total.multiply_adds)
    if derived.name == variant.name:
        return "\n".join(lines)
    lines += [
        "",
        f"closest released EfficientNet by multiply-adds: {variant.name.upper()} (depth {variant.depth}, width "
        f"{variant.width}, {variant.image_size} pixels; {counts.parameters:,} parameters, "
        f"{counts.multiply_adds / 1e9:.3f} G multiply-adds).",
        f"This one has {percent(total.parameters, counts.parameters)} of its parameters and "
        f"{percent(total.multiply_adds, counts.multiply_adds)} of its multiply-adds.",
    ]
    if baseline is B0:
        lines += [
            "Released coefficients do not follow Equation 3, and the number in a name is not phi: phi 1 is about B2,",
            "phi 2 about B3, and phi 3 lies between B3 and B4. `--fit` shows it for each.",
        ]
    return "\n".join(lines)


def budget_text(rows: dict) -> str:
    """One line per budget of `budget_rows`. If there are two, the binding one is marked."""
    lines = []
    for name, budget in rows["budgets"].items():
        binds = "; this one binds" if len(rows["budgets"]) > 1 and name in rows["binding"] else ""
        unit = name.replace("_", "-")
        lines.append(f"budget: {budget['limit']:,.0f} {unit}, {100 * budget['share']:.2f} % used{binds}")
    return "\n".join(lines)


def table_text() -> str:
    """B0-B8 and L2 beside Table 2."""
    lines = [
        "B0-B7 from their released coefficients, beside Table 2 of the paper (1000 classes, 3 input channels);",
        "B8 and L2 are in the released code only. The paper's FLOPs are multiply-adds.",
        "top-1: the paper's accuracy on ImageNet in per cent. phi: Equation 3 solved for depth / width / resolution.",
        "",
    ]
    line = "{:<7} {:>5} {:>5} {:>5} {:>7}  {:>11} {:>8} {:>7}  {:>13} {:>7} {:>7}  {:>5}   {}"
    header = ("variant", "depth", "width", "size", "dropout", "parameters", "paper M", "differ", "multiply-adds")
    lines.append(line.format(*header, "paper B", "differ", "top-1", "phi by d / w / r"))
    for row in table_rows():
        variant = VARIANTS[row["name"]]
        lines.append(
            line.format(
                variant.name,
                variant.depth,
                variant.width,
                variant.image_size,
                variant.dropout,
                f"{row['parameters']:,}",
                variant.paper_parameters or "-",
                difference(row["parameters"] / 1e6, variant.paper_parameters),
                f"{row['multiply_adds'] / 1e9:.3f} G",
                variant.paper_flops or "-",
                difference(row["multiply_adds"] / 1e9, variant.paper_flops),
                variant.paper_top1 or "-",
                three(row["implied_phi"]),
            )
        )
    return "\n".join(lines)


def fit_text() -> str:
    """The gap between Equation 3 and the released coefficients, and the reason for it."""
    lines = [
        "Each released variant beside Equation 3 (1.2, 1.1, 1.15) at the one phi that fits its coefficients best.",
        "phi by d / w / r: the phi that depth, width and resolution each imply. best: least squares of the",
        "logarithms. d / w / size: depth, width and pixels a side. differ: Equation 3's architecture over the released",
        "one, in parameters and in multiply-adds (MACs).",
        "",
    ]
    line = "{:<7} {:>19} {:>5}  {:>15} {:>17}  {:>9} {:>9} {:>6}  {:>9} {:>9} {:>7}"
    header = ("variant", "phi by d / w / r", "best", "d / w / size", "Equation 3", "params", "Eq. 3", "differ", "MACs")
    lines.append(line.format(*header, "Eq. 3", "differ"))
    for row in fit_rows():
        variant, fitted = VARIANTS[row["variant"]], row["coefficients"]
        lines.append(
            line.format(
                row["variant"],
                three(row["implied_phi"]),
                f"{fitted['phi']:.2f}",
                f"{variant.depth} / {variant.width} / {variant.image_size}",
                f"{fitted['depth']:.2f} / {fitted['width']:.2f} / {row['image_size']}",
                f"{row['variant_parameters'] / 1e6:.2f} M",
                f"{row['parameters'] / 1e6:.2f} M",
                difference(row["parameters"], row["variant_parameters"]),
                f"{row['variant_multiply_adds'] / 1e9:.3f} G",
                f"{row['multiply_adds'] / 1e9:.3f} G",
                difference(row["multiply_adds"], row["variant_multiply_adds"]),
            )
        )
    lines += [
        "",
        "Why do the released coefficients not follow the formula? They look rounded by hand: from B3 to B8",
        "depth lags behind width and resolution, and the image sizes are chosen, not computed. No single phi gives all",
        "three factors of any variant but B0 (B2 comes closest), and the number in a name is not phi.",
    ]
    return "\n".join(lines)


SHORT_SEARCH = 15


def search_text(baseline: Baseline, candidates: list[Candidate], most: int | None = SHORT_SEARCH) -> str:
    """The networks of STEP 1, best first: the first `most` of them (None: all) and the paper's, which is marked.

    Candidates that round to the same network share a line; `same` is their number.
    """
    found = networks(baseline, candidates)
    papers = [same[0].is_papers for same in found]
    chose = "the one marked *" if any(papers) else f"{ALPHA}, {BETA}, {GAMMA}, which is not on this grid"
    lines = [
        "STEP 1 at phi = 1: alpha, beta, gamma whose alpha * beta^2 * gamma^2 is about 2, best first by how closely",
        f"the rounded architecture doubles {baseline.title}'s multiply-adds. The paper trained such candidates on B0",
        f"and chose {chose}.",
        f"The {len(candidates)} candidates round to {len(found)} networks, one per line. same: how many of them give",
        "that network; the line shows the paper's choice, or the one whose product is closest to 2.",
        "",
    ]
    line = "{:>5} {:<1} {:>6} {:>6} {:>6} {:>8}  {:>5} {:>13} {:>15} {:>7} {:>5}"
    header = ("place", "", "alpha", "beta", "gamma", "product", "size", "parameters", "multiply-adds", "growth", "same")
    lines.append(line.format(*header))
    hidden = 0
    for place, (candidate, *others) in enumerate(found, start=1):
        if most is not None and place > most and not candidate.is_papers:
            hidden += 1
            continue
        lines.append(
            line.format(
                place,
                "*" if candidate.is_papers else "",
                *(f"{base:g}" for base in candidate.bases),
                f"{candidate.product:.3f}",
                scaled_image_size(baseline, candidate.coefficients),
                f"{candidate.counts.parameters:,}",
                f"{candidate.counts.multiply_adds:,}",
                f"{candidate.growth:.3f}",
                1 + len(others),
            )
        )
    return "\n".join(lines + ([f"{hidden} more: --all shows them"] if hidden else []))


PAPER_TITLES = {
    "table3": "Table 3: other baselines, scaled.",
    "table7": "Table 7: B0, scaled in four ways.",
}


def paper_text(table: str, reproductions: list[Reproduction]) -> str:
    """Table 3 or 7: the paper's FLOPs beside ours, and the rows that do not reproduce."""
    lines = [
        f"{PAPER_TITLES[table]} The paper's FLOPs are multiply-adds;",
        "ours follow from its rules and the released code's rounding.",
        "same: ours, rounded to the paper's one decimal, is the paper's figure.",
        "",
    ]
    line = "{:<15} {:>5} {:>5} {:>10} {:>5}  {:>11} {:>8} {:>8} {:>8}  {:<5}{:>6}{}"
    header = ("baseline", "depth", "width", "resolution", "size", "parameters", "paper B", "ours G", "differ", "same")
    lines.append(line.format(*header, "top-1", ""))
    for one in reproductions:
        chosen, row = one.coefficients, one.row
        inferred = f"  inferred: phi {chosen.phi:.2f}" if chosen.phi is not None else "  inferred: as MobileNetV1's"
        lines.append(
            line.format(
                row.baseline.title,
                f"{chosen.depth:.3g}",
                f"{chosen.width:.3g}",
                f"{chosen.resolution:.3g}",
                scaled_image_size(row.baseline, chosen),
                f"{one.counts.parameters:,}",
                f"{row.giga_flops:g}",
                f"{one.counts.multiply_adds / 1e9:.3f}",
                f"{100 * one.difference:+.1f}%",
                "yes" if one.reproduces else "no",
                f"{row.top1:.1f}",
                inferred if one.inferred else "",
            ).rstrip()
        )
    missed = [one for one in reproductions if not one.reproduces and not one.inferred]
    stated = sum(not one.inferred for one in reproductions)
    lines += ["", f"{len(missed)} of the {stated} rows with stated coefficients do not reproduce:"]
    lines += [f"  {reproduction_text(one)}" for one in missed]
    if table == "table3":
        lines += [
            "ResNet-50's depth and width rows come out as if the paper had exchanged their figures.",
            "The paper does not state the coefficients of the compound rows of MobileNetV2 and ResNet-50. Both lines",
            "for each are inferred here: the phi that comes nearest to the stated FLOPs with 1.2, 1.1, 1.15; and depth",
            "1.4, width 1.2, resolution 1.3, which it states for MobileNetV1 (and for B0 in Table 7).",
        ]
    return "\n".join(lines)


def reproduction_text(one: Reproduction) -> str:
    changed = [f"{name} {getattr(one.coefficients, name):g}" for name in FACTORS]
    changed = [text for text in changed if not text.endswith(" 1")] or ["unscaled"]
    return (
        f"{one.row.baseline.title}, {', '.join(changed)}: {one.counts.multiply_adds / 1e9:.3f} G; the paper has "
        f"{one.row.giga_flops:g} B ({100 * one.difference:+.1f}%)"
    )
