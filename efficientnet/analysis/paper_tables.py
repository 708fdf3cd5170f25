"""Tables 3 and 7 of the paper: its FLOPs beside the multiply-adds that its rules give. No torch here.

Every row is scaled by `scaling.scale` with the released code's rounding. The paper does not state the coefficients of
two compound rows in Table 3; they are inferred in two ways and marked as inferred.
"""

from __future__ import annotations

from dataclasses import dataclass

from efficientnet.analysis.search import closest_coefficients, scaled_complexity
from efficientnet.baselines.stages import MOBILENET_V1, MOBILENET_V2, RESNET_50
from efficientnet.complexity import Complexity
from efficientnet.scaling import B0, Baseline, Coefficients

# The compound coefficients that the paper states, for MobileNetV1 in Table 3 and for B0 in Table 7.
COMPOUND = Coefficients(depth=1.4, width=1.2, resolution=1.3)


@dataclass(frozen=True)
class PaperRow:
    """A row as the paper prints it.

    coefficients: None if the paper does not state them.
    giga_flops: billions of multiply-adds, which the paper calls FLOPs, to one decimal.
    top1: accuracy on ImageNet in per cent.
    """

    baseline: Baseline
    coefficients: Coefficients | None
    giga_flops: float
    top1: float


TABLE_3 = (
    PaperRow(MOBILENET_V1, Coefficients(), 0.6, 70.6),
    PaperRow(MOBILENET_V1, Coefficients(width=2), 2.2, 74.2),
    PaperRow(MOBILENET_V1, Coefficients(resolution=2), 2.2, 72.7),
    PaperRow(MOBILENET_V1, COMPOUND, 2.3, 75.6),
    PaperRow(MOBILENET_V2, Coefficients(), 0.3, 72.0),
    PaperRow(MOBILENET_V2, Coefficients(depth=4), 1.2, 76.8),
    PaperRow(MOBILENET_V2, Coefficients(width=2), 1.1, 76.4),
    PaperRow(MOBILENET_V2, Coefficients(resolution=2), 1.2, 74.8),
    PaperRow(MOBILENET_V2, None, 1.3, 77.4),
    PaperRow(RESNET_50, Coefficients(), 4.1, 76.0),
    PaperRow(RESNET_50, Coefficients(depth=4), 16.2, 78.1),
    PaperRow(RESNET_50, Coefficients(width=2), 14.7, 77.7),
    PaperRow(RESNET_50, Coefficients(resolution=2), 16.4, 77.5),
    PaperRow(RESNET_50, None, 16.7, 78.8),
)

TABLE_7 = (
    PaperRow(B0, Coefficients(), 0.4, 77.3),
    PaperRow(B0, Coefficients(depth=4), 1.8, 79.0),
    PaperRow(B0, Coefficients(width=2), 1.8, 78.9),
    PaperRow(B0, Coefficients(resolution=2), 1.9, 79.1),
    PaperRow(B0, COMPOUND, 1.8, 81.1),
)

TABLES = {"table3": TABLE_3, "table7": TABLE_7}


@dataclass(frozen=True)
class Reproduction:
    """A row of the paper, the coefficients used for it, and the resulting counts.

    inferred: the paper does not state the coefficients of this row.
    """

    row: PaperRow
    coefficients: Coefficients
    inferred: bool
    counts: Complexity

    @property
    def reproduces(self) -> bool:
        """Whether the multiply-adds, in billions and rounded to one decimal, equal the paper's figure."""
        return round(self.counts.multiply_adds / 1e9, 1) == self.row.giga_flops

    @property
    def difference(self) -> float:
        """The relative difference of the multiply-adds from the paper's figure."""
        return self.counts.multiply_adds / (1e9 * self.row.giga_flops) - 1


def reproduce(table: str) -> list[Reproduction]:
    """The rows of "table3" or "table7"; ValueError lists them for another name.

    A row without stated coefficients appears twice: with Equation 3 (1.2, 1.1, 1.15) at the phi that comes nearest to
    the paper's figure, and with `COMPOUND`.
    """
    if table not in TABLES:
        raise ValueError(f"unknown table {table!r}: the known ones are {', '.join(TABLES)}")
    result = []
    for row in TABLES[table]:
        choices = [row.coefficients]
        if row.coefficients is None:
            choices = [closest_coefficients(row.baseline, 1e9 * row.giga_flops), COMPOUND]
        result += [
            Reproduction(row, chosen, row.coefficients is None, scaled_complexity(row.baseline, chosen))
            for chosen in choices
        ]
    return result
