"""Width, parameters and context of a base model, read without loading it."""

import json
import struct

import pytest

from peftbench.models import builtin, here, size
from peftbench.records import Base
from tests.support import tiny_base

KNOWN = {"gpt2-medium": 354_823_168, "llama-7b": 6_738_415_616, "falcon-7b": 6_921_720_704}
KNOWN |= {"llama-3.2-1b": 1_235_814_400, "mixtral-8x7b": 46_702_792_704, "opt-6.7b": 6_658_473_984}


@pytest.mark.parametrize("name", KNOWN)
def test_the_estimate_from_a_config_is_within_one_percent(name):
    folder = builtin.shape(name)
    assert size.parameters(folder, here.config(folder)) == pytest.approx(KNOWN[name], rel=0.01)


def test_stored_weights_are_counted_from_their_headers(tmp_path):
    folder = tiny_base.make(tmp_path / "tiny")
    config = here.config(folder)
    stored = size.parameters(folder, config)
    assert stored == pytest.approx(size._estimated(config), rel=0.02)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 5) + b"{bad}")
    assert size.parameters(folder, config) == size._estimated(config)


def test_packed_weights_are_estimated_and_consolidated_copies_are_not_counted(tmp_path):
    folder = tiny_base.make(tmp_path / "tiny")
    config, whole = here.config(folder), (folder / "model.safetensors").read_bytes()
    (folder / "consolidated.safetensors").write_bytes(whole)
    assert size.parameters(folder, config) < 1.1 * size._estimated(config)
    packed = config | {"quantization_config": {"quant_method": "bitsandbytes"}}
    assert size.parameters(folder, packed) == size._estimated(config)


def test_a_model_for_images_and_text_has_the_width_of_its_text_part():
    text = {"hidden_size": 2304, "max_position_embeddings": 8192, "num_local_experts": 8}
    for config in ({"text_config": text, "hidden_size": 99}, {"thinker_config": {"text_config": text}}):
        assert (size.width(config), size.context(config), size.has_experts(config)) == (2304, 8192, True)
    assert size.width({"n_embd": 768}) == 768
    assert size.width({"hidden_size": True}) is size.width({}) is None
    assert size.parameters(builtin.shape("gpt2-medium"), {"model_type": "?"}) is None


def test_only_names_of_bases_that_are_here_have_a_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert here.folder(Base(str(tmp_path))) == tmp_path
    assert here.folder(Base("no/such-model")) is here.folder(Base("/no/such/folder")) is None
    assert not here.downloadable(Base("/no/such/folder"))


def test_a_context_of_minus_one_is_no_context(tmp_path):
    """xlnet's config says so, as its positions are relative."""
    from peftbench.methods import context_length
    from tests.support import families, trials

    config = families.config("xlnet")
    assert config.max_position_embeddings == -1
    assert size.context(config.to_dict()) is None
    for given in (config, config.to_dict()):
        assert context_length.remaining(trials.trial(tmp_path, tmp_path, "prompt_tuning"), given) is None
