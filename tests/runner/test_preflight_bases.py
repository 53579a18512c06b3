"""What a base model's folder gets wrong is told by ``plan`` and by ``run`` before any trial, with exit code 2."""

from __future__ import annotations

import json
import re

import pytest

from peftbench import cli
from peftbench.models import builtin, dry_load
from peftbench.models.tokenizer import beyond, load_tokenizer
from peftbench.runner.preflight import bases
from tests.support import colours, trials, weights
from tests.support.sample import sample

SUITE = colours.suite(
    "./base",
    """\
train: {steps: 1, batch_size: 2, sequence_length: 32}
evaluate: {inference: false, retention: false}
methods:
  base:
  lora: {rank: 2, learning_rate: 1e-3}
""",
)


@pytest.fixture
def command(tiny, tmp_path, monkeypatch, capsys):
    """Return a function that runs a command on a copy of the tiny base model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / colours.FILE).write_text(colours.DATA * 2)
    weights.copy(tiny, tmp_path / "base")

    def run(*words):
        capsys.readouterr()
        code = cli.main([*words])
        return code, "".join(capsys.readouterr())

    return run


def both(command, *parts):
    for verb in ("plan", "run"):
        code, text = command(verb, "suite.yaml")
        assert code == 2, text
        for part in parts:
            assert part in " ".join(text.split()), text
        assert "Traceback" not in text


def spoil_weights(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({f"base_model.model.{n}": t for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})


def add_adapter(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/x"}')


def quantize(folder):
    weights.edit(folder / "config.json", quantization_config={"quant_method": "awq", "bits": 4})


def lose_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def lose_end_of_text(folder):
    weights.edit(folder / "tokenizer_config.json", eos_token=None)
    for name in ("config.json", "generation_config.json"):
        weights.edit(folder / name, eos_token_id=None)


SPOILT = {
    "weights": (spoil_weights, "would be random"),
    "adapter": (add_adapter, "an adapter beside them"),
    "quantized": (quantize, "AWQ, 4 bits"),
    "no tokenizer": (lose_tokenizer, "has no tokenizer"),
    "no end of text": (lose_end_of_text, "names no end-of-text token"),
    "unknown type": (lambda folder: weights.edit(folder / "config.json", model_type="nothing"), "config.json"),
}


@pytest.mark.parametrize("case", sample(SPOILT, 3))
def test_a_spoilt_base_stops_plan_and_run_with_exit_code_2(case, command, tmp_path):
    spoil, told = SPOILT[case]
    spoil(tmp_path / "base")
    both(command, "base", told)
    assert not list(tmp_path.glob("results/*/trials/*.parquet"))


def test_tokens_without_an_embedding_are_refused_only_where_they_occur(command, tmp_path):
    weights.with_ids_beyond(tmp_path / "base")
    assert command("plan", "suite.yaml")[0] == 0
    data = tmp_path / colours.FILE
    data.write_text(data.read_text() + json.dumps({"thing": "sky<|im_end|>", "colour": "blue"}) + "\n")
    both(command, "task 'colour': ", "example 12 contains the token '<|im_end|>' (id 321)", "resize")


def test_a_base_without_a_causal_model_is_unsupported_in_the_plan(command, tmp_path):
    weights.edit(tmp_path / "base" / "config.json", model_type="t5gemma", architectures=["T5GemmaModel"])
    code, text = command("plan", "suite.yaml", "--only", "method=lora")
    assert (code, "unsupported: base: " in text) == (1, True), text


@pytest.mark.parametrize("family", ["emu3", "llava"])
def test_a_family_without_a_causal_model_that_reads_its_weights_is_unsupported(family, tmp_path):
    from transformers import AutoConfig, AutoModelForImageTextToText

    text = {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "pad_token_id": 0,
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    other = {
        "emu3": {"vq_config": {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "embed_dim": 8}},
        "llava": {"vision_config": tower | {"image_size": 28, "patch_size": 14}},
    }
    vocabulary = {"vocabulary_map": {"<image>": 5}} if family == "emu3" else {"image_token_index": 300}
    config = AutoConfig.for_model(family, text_config=text | heads, **other[family], **vocabulary)
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path)
    made = trials.trial(tmp_path, tmp_path / "data")
    (reason,) = bases.unsupported([made]).values()
    assert re.search("transformers has no causal language model of llava|Emu3ForCausalLM, which does not find", reason)
    bases.check([made])


def test_an_ordinary_base_passes_and_runs(command):
    code, text = command("plan", "suite.yaml")
    assert (code, text.splitlines()[-2]) == (0, "2 cells, 1 seed (0): 2 trials; all can run")
    code, text = command("run", "suite.yaml")
    assert code == 0, text
    assert "2 ok" in text


@pytest.mark.parametrize("name", builtin.BASES)
def test_the_built_in_bases_need_no_check(name):
    folder = builtin.folder(name)
    sizes = dry_load.check(folder, False)
    assert sizes is not None
    assert beyond(load_tokenizer(folder, False), sizes.rows) == {}
