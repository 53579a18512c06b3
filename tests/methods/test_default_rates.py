"""Default learning rates by method and width: the rule's numbers are those of the published tables."""

import pytest

from peftbench.methods import METHODS, default_rates
from peftbench.methods.default_rates import LAWS, rate, two_digits
from tools.validation import learning_rate_rule

LORA = {"alpha": 16.0}


@pytest.fixture(scope="module")
def fitted():
    path = learning_rate_rule.tables()
    if path is None:
        pytest.skip("no published_tables.yaml on this machine (set PEFTBENCH_SHARED_DATA)")
    return learning_rate_rule.fit(path)


def test_the_coefficients_are_those_of_the_published_tables(fitted):
    assert round(fitted.width_exponent, 2) == default_rates.WIDTH_EXPONENT
    assert round(fitted.alpha_exponent, 2) == default_rates.ALPHA_EXPONENT
    assert fitted.experts_width == default_rates.EXPERTS_WIDTH
    assert fitted.initializations == pytest.approx(default_rates.INITIALIZATIONS)
    assert {law: two_digits(each) for law, each in fitted.constants.items()} == {
        law: each.constant for law, each in LAWS.items()
    }
    assert {law: two_digits(each) for law, each in fitted.spreads.items()} == {
        law: each.spread for law, each in LAWS.items()
    }


def test_the_rank_hardly_matters_in_the_sweep_so_the_rule_leaves_it_out(fitted):
    assert abs(fitted.rank_exponent) < 0.15


def test_rates_at_widths_of_known_models():
    assert rate("full", {}, None, 4096) == 4.1e-5  # lit-llama: 3e-5
    assert rate("lora", LORA, 8, 4096) == rate("qlora", LORA, 8, 4096) == 4e-4  # QLoRA: 2e-4, lit-llama: 3e-4
    assert rate("full", {}, None, 64) == 7.5e-4


@pytest.mark.parametrize("width", [64, 896, 2048, 4096, 8192, 16384])
def test_lora_is_about_ten_times_full_and_all_rates_fall_with_the_width(width):
    assert rate("lora", LORA, 8, width) / rate("full", {}, None, width) == pytest.approx(9.8, rel=0.05)
    for name, method in METHODS.items():
        if method.trains and (found := rate(name, LORA, 8, width)):
            assert found > rate(name, LORA, 8, 2 * width) > 0


def test_a_large_alpha_and_initializations_from_the_weights_lower_lora_s_rate():
    assert rate("lora", {"alpha": 512.0}, 256, 4096) < rate("lora", {"alpha": 128.0}, 64, 4096) < 4e-4
    assert rate("lora", {"alpha": 8.0}, 4, 4096) == 4e-4
    assert rate("lora", {"alpha": 16.0, "rslora": True}, 64, 4096) == rate("lora", {"alpha": 128.0}, 64, 4096)
    assert rate("lora", LORA | {"initialization": "pissa"}, 8, 4096) == 4e-5


def test_norms_alone_take_a_higher_rate_than_all_weights():
    assert rate("full", {"modules": "norms"}, None, 4096) == 4.2e-4
    assert rate("full", {"modules": ["biases", "norms"]}, None, 4096) == 4.2e-4
    assert rate("full", {"modules": ["norms", "q_proj"]}, None, 4096) == 4.1e-5


def test_every_method_with_a_recipe_has_a_law_and_a_method_of_another_package_has_none():
    own = [name for name, method in METHODS.items() if "learning_rate" in method.training]
    assert all(rate(name, LORA, 8, 2048) for name in own)
    assert rate("somebody_s", {}, 8, 2048) is None


def test_the_rule_at_the_built_in_base_s_width_is_near_its_tuned_recipes():
    for name, method in METHODS.items():
        if "learning_rate" in method.training:
            tuned = method.training["learning_rate"]
            assert tuned / 4 <= rate(name, LORA, 8, 128) <= tuned * 4, name
