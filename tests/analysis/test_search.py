"""The phi for a budget."""

import pytest

from efficientnet.analysis.search import largest_coefficients, scaled_complexity
from efficientnet.scaling import B0, compound_coefficients


@pytest.mark.parametrize("budget", [0.5e9, 1.5e9, 10e9, 100e9])
def test_the_largest_phi_keeps_the_budget_and_a_little_more_exceeds_it(budget):
    def cost(phi):
        return scaled_complexity(B0, compound_coefficients(phi)).multiply_adds

    phi = largest_coefficients(B0, multiply_adds=budget).phi
    assert cost(phi) <= budget < cost(phi + 2e-4)


def test_both_budgets_hold_and_impossible_ones_say_why():
    loose = largest_coefficients(B0, parameters=10e6).phi
    assert largest_coefficients(B0, 1e12, 10e6).phi == loose
    assert largest_coefficients(B0, 0.5e9, 10e6).phi < loose
    with pytest.raises(ValueError, match=r"100,000,000.*EfficientNet-B0"):
        largest_coefficients(B0, 1e8)
    with pytest.raises(ValueError, match="give a budget"):
        largest_coefficients(B0)
    with pytest.raises(ValueError, match=r"10,000,000.*alpha and beta"):
        largest_coefficients(B0, parameters=10e6, alpha=1, beta=1, gamma=1.15)
    with pytest.raises(ValueError, match=r"1,000,000,000.*alpha, beta and gamma"):
        largest_coefficients(B0, multiply_adds=1e9, alpha=1, beta=1, gamma=1)
    with pytest.raises(ValueError, match=r"multiply-adds: .* \(alpha\^phi = 1\.2\^.*layers in one stage"):
        largest_coefficients(B0, multiply_adds=1e30)


def test_what_is_too_deep_is_beyond_any_budget():
    """With alpha 2, bisection would try phi 16, which has 65,536 layers in the shallowest stage."""
    found = largest_coefficients(B0, multiply_adds=500e9, alpha=2, beta=1, gamma=1)
    assert found.phi == pytest.approx(10.3, abs=0.1)
    assert scaled_complexity(B0, found).multiply_adds <= 500e9
    assert 33 < largest_coefficients(B0, multiply_adds=1e18).phi < 34
    found = largest_coefficients(B0, parameters=10e6, alpha=1, beta=1.001, gamma=1)  # slow growth is growth
    assert scaled_complexity(B0, found).parameters <= 10e6 and found.phi > 64
