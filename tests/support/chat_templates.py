"""Chat templates as model families write them, and tokenizers that join spaces to words in different ways."""

from __future__ import annotations

import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_base import TEXTS

MARKS = ("<|eot_id|>", "<|end|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>")
TEMPLATES = {
    "mistral v0.1": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ m['content'] + eos_token}}{% endif %}{% endfor %}",
    "mistral v0.3": "{{ bos_token }}{%- for m in messages %}{%- if m['role'] == 'user' %}"
    "{{- '[INST] ' + m['content'] + '[/INST]' }}{%- elif m['role'] == 'assistant' %}"
    "{{- ' ' + m['content']|trim + eos_token}}{%- endif %}{%- endfor %}",
    "llama 2": "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' '  + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "vicuna": "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}",
    "llama 3": "{{- bos_token }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'+ m['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}",
    "gemma": "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "phi 3": "{% for m in messages %}{{'<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "zephyr": "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
    "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + m['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "chatml": "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}
TOKENIZERS = ("byte-level", "metaspace", "metaspace without a space before", "llama 2", "both")


def tokenizer(kind: str, template: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one of ``TOKENIZERS``; it has tokens of two line feeds, and of words with their space."""
    made = Tokenizer(models.BPE(byte_fallback=False))
    alphabet = sorted({*string.printable, "▁"})
    byte = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind in ("byte-level", "both"):
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.pre_tokenizer, made.decoder = byte, decoders.ByteLevel()
    if kind == "both":
        meta = pre_tokenizers.Metaspace(prepend_scheme="never")
        made.pre_tokenizer = pre_tokenizers.Sequence([meta, byte])
        made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("▁", " ")])
    if kind not in ("byte-level", "both"):
        scheme = "never" if kind.endswith("before") else "always"
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([*TEXTS, *["red\n\n", "\n\n"] * 20], trainer)
    if kind == "llama 2":  # its merges are within words, but it does not split a text
        made.pre_tokenizer = None
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    found = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    found.add_special_tokens({"additional_special_tokens": [mark for mark in MARKS if mark in template]})
    found.chat_template = template
    return found
