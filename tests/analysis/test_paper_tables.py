"""Tables 3 and 7: the rows that the paper's own rules reproduce, and the inferred coefficients of the others."""

import pytest

from efficientnet.analysis.paper_tables import TABLE_3, TABLE_7, reproduce
from efficientnet.analysis.search import closest_coefficients, scaled_complexity
from efficientnet.baselines.stages import MOBILENET_V2, RESNET_50
from efficientnet.scaling import compound_coefficients


def test_table_7_reproduces_in_its_first_and_last_row_only():
    rows = reproduce("table7")
    assert [round(one.counts.multiply_adds / 1e9, 3) for one in rows] == [0.386, 1.575, 1.450, 1.538, 1.800]
    assert [one.reproduces for one in rows] == [True, False, False, False, True]
    assert len(rows) == len(TABLE_7) and not any(one.inferred for one in rows)


def test_table_3_prints_every_row_and_two_guesses_for_the_two_unstated():
    rows = reproduce("table3")
    assert len(rows) == len(TABLE_3) + 2
    assert [one.row.baseline.name for one in rows if one.inferred] == ["mobilenet_v2"] * 2 + ["resnet50"] * 2
    stated = {one.row: one.reproduces for one in rows if not one.inferred}
    assert sum(stated.values()) == 8 and len(stated) == 12


def test_resnets_depth_and_width_rows_are_each_others():
    """Depth 4 gives the paper's figure for width 2 within 1 %, and the other way round."""
    depth, width = (one for one in reproduce("table3") if one.row.baseline is RESNET_50 and abs(one.difference) > 0.09)
    assert depth.coefficients.depth == 4 and width.coefficients.width == 2
    assert depth.counts.multiply_adds / 1e9 == pytest.approx(width.row.giga_flops, rel=0.01)
    assert width.counts.multiply_adds / 1e9 == pytest.approx(depth.row.giga_flops, rel=0.01)


@pytest.mark.parametrize(("baseline", "target"), [(MOBILENET_V2, 1.3e9), (RESNET_50, 16.7e9)])
def test_the_inferred_phi_is_the_nearest(baseline, target):
    found = closest_coefficients(baseline, target)

    def distance(phi):
        count = scaled_complexity(baseline, compound_coefficients(phi)).multiply_adds
        return max(count / target, target / count)

    assert all(distance(found.phi) <= distance(i / 50) + 1e-9 for i in range(200))


def test_unknown_tables_list_the_known_ones():
    with pytest.raises(ValueError, match="table3, table7"):
        reproduce("table2")
