"""The package's own tests, for what peftbench's conformance tests cannot know about its method."""

import pytest
from transformers import AutoModelForCausalLM

METHOD = pytest.importorskip("peftbench_steering").METHOD


@pytest.mark.parametrize(("layers", "steered"), [(None, 3), (2, 2), (9, 3)])
def test_each_steered_layer_has_one_vector_of_the_models_width(layers, steered, tiny):
    from peftbench_steering.vectors import attach

    base = AutoModelForCausalLM.from_pretrained(tiny)
    tuned = attach(base, None, {name: setting.default for name, setting in METHOD.options.items()} | {"layers": layers})
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == steered * base.config.hidden_size
