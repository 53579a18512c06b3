"""The card of a kept adapter: what it is, how it was made, how to load it and how to reproduce its scores. No torch."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from peftbench.methods import METHODS
from peftbench.models import find
from peftbench.models.precision import effective
from peftbench.records import HEADS, Job, Task, Trial
from peftbench.tasks import chat, fewshot, lm_eval_export
from peftbench.training.encoded import end, learned_ends
from peftbench.version import __version__

_TASKS = "tasks"
_TORCHAO = {
    "torchao-int8": ("Int8WeightOnlyConfig()", "from torchao.quantization import Int8WeightOnlyConfig\n"),
    "torchao-float8": ("Float8WeightOnlyConfig()", "from torchao.quantization import Float8WeightOnlyConfig\n"),
    "torchao-int4": (
        "IntxWeightOnlyConfig(torch.int4, PerGroup(32))",
        "from torchao.quantization import IntxWeightOnlyConfig\n"
        "from torchao.quantization.granularity import PerGroup\n",
    ),
    "torchao-nvfp4": (
        "NVFP4WeightOnlyConfig()",
        "from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig\n",
    ),
}
"""Quantization by torchao -> the argument of ``TorchAoConfig``, and the imports that it needs."""
_STOCK_LOADERS = {
    "peftbench.methods.peft_checkpoint:load": (
        "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("BASE"), "ADAPTER")'
    ),
    "peftbench.methods.full:load": (
        'from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained("ADAPTER")'
    ),
}


def write(job: Job, folder: Path, tokenizer: Any) -> None:
    """Write ``README.md`` and the tasks for the stock ``lm_eval`` command into a saved adapter's folder."""
    for task in _exported(job.trial):
        found = chat.apply(task, fewshot.scored(task, job.trial.evaluation.split), tokenizer)
        ends = [end(tokenizer, e) for e in found] if task.name in learned_ends(job.trial) else ()
        lm_eval_export.export(task, found, folder / _TASKS, tokenizer.eos_token, ends)
    (folder / "README.md").write_text(_text(job, folder), encoding="utf-8")


def _exported(trial: Trial) -> list[Task]:
    """Return the scored tasks that the stock command scores in the same way.

    It does not have peftbench's answer patterns, its rule against repeated n-grams counts the prompt's tokens, and it
    knows lm-eval's own tasks by name.
    """
    scored = [task for task in trial.tasks if task.name in trial.evaluate]
    scored = [task for task in scored if task.kind not in HEADS]
    return [task for task in scored if not (task.lm_eval or task.answer_pattern or task.no_repeat_ngram_size)]


def install(folder: Path, destination: Path) -> None:
    """Move a finished folder to its destination, replacing an older one."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.exists():
        shutil.rmtree(destination)
    os.replace(folder, destination)


def _text(job: Job, folder: Path) -> str:
    trial, method = job.trial, METHODS[job.trial.method]
    training = trial.training
    settings = "" if training is None else f"learning rate {training.learning_rate:g}, optimizer {training.optimizer}"
    return f"""# {method.title}: {trial.cell}, seed {trial.seed}

Made by peftbench {__version__} (trial `{job.key}` of suite `{trial.suite}`); {settings}. {method.paper}

- base model: `{find.base_name(trial.base)}` (SHA-256 of its files `{job.base_sha256[:16]}…`)
- settings: rank {trial.rank}, precision {trial.precision}, options {dict(trial.options)}

Load it (replace BASE by the base model's folder or hub id and ADAPTER by this folder; the folder of a built-in base
model like nano is what `python -c "from peftbench.models import builtin; print(builtin.folder('nano'))"` prints):

```python
{_with_head(trial) if trial.head else _loader(method.load, stock=not is_partial(trial))}
```

{_about_head(trial) if trial.head else _stock_command(job, folder)}"""


def _loader(load: str, stock: bool) -> str:
    """Return the code that loads a tuned model: by stock libraries if they can, else by the method's own function."""
    module, _, name = load.partition(":")
    own = (
        f"from pathlib import Path\n\nfrom {module} import {name}\nfrom transformers import AutoModelForCausalLM\n\n"
        f'model = {name}(AutoModelForCausalLM.from_pretrained("BASE"), Path("ADAPTER"))'
    )
    return _STOCK_LOADERS.get(load, own) if stock else own


def _with_head(trial: Trial) -> str:
    """Return the code that loads a tuned model with a head for whole texts."""
    kind = "AutoModelForSequenceClassification"
    method = METHODS[trial.method]
    if method.trains_base and not is_partial(trial):
        return f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("ADAPTER")'
    module, _, name = method.load.partition(":")
    assert trial.head is not None
    return f"""from pathlib import Path

from {module} import {name}
from transformers import {kind}

from peftbench.models import head

base = {kind}.from_pretrained("BASE", num_labels={trial.head.outputs})
head.place(base)
head.load(base, Path("ADAPTER"))
model = {name}(base, Path("ADAPTER"))
# logits of texts in tokens, padded on the right: head.logits(model, {{"input_ids": ids, "attention_mask": mask}})"""


def _about_head(trial: Trial) -> str:
    """Return what the head gives, and where it is."""
    task = next(task for task in trial.tasks if task.kind in HEADS)
    gives = f"a logit for each class, in this order: {', '.join(task.choices)}" if task.choices else "a number"
    apart = "" if METHODS[trial.method].trains_base else " The head's weights are in `classification_head.safetensors`."
    return (
        f"The model gives {gives}.{apart} `head.logits` reads the same data token whatever precedes the text; a plain "
        "call of the model would read the first virtual token of an encoder, or the last padding token of a decoder.\n"
    )


def is_partial(trial: Trial) -> bool:
    """Return whether a trial tunes, and saves, only a part of the base model's own weights."""
    options = (trial.options.get("layers"), trial.options.get("modules"))
    return METHODS[trial.method].trains_base and options != (None, None)


def _stock_command(job: Job, folder: Path) -> str:
    """Return the lm-eval command that reproduces the stored scores, or why it cannot load the adapter."""
    trial, load = job.trial, METHODS[job.trial.method].load
    if is_partial(trial):
        return "The stock `lm_eval` command cannot combine a part of the base model's weights with the rest.\n"
    if load.endswith(".llama_adapter:load") and '"ADAPTION_PROMPT"' not in (folder / "adapter_config.json").read_text():
        return (
            "The stock `lm_eval` command cannot load this LLaMA-Adapter: peft supports llama and mistral only, "
            "with one gate per layer.\n"
        )
    if load not in _STOCK_LOADERS and not load.endswith(".llama_adapter:load"):
        return f"The stock `lm_eval` command cannot load this: {METHODS[trial.method].title} needs its own loader.\n"
    length = trial.evaluation.max_length
    where = "pretrained=ADAPTER" if load.endswith("full:load") else "pretrained=BASE,peft=ADAPTER"
    precision = effective(trial.precision, trial.options)
    dtype = precision.base_weights(METHODS[trial.method].trains_base)
    revision = f",revision={trial.base.revision}" if trial.base.revision else ""
    extra = f",mixed_precision_dtype={precision.autocast}" if precision.autocast else ""
    names = ",".join(task.name for task in _exported(trial))
    if not names:
        return "None of its tasks can be scored in the same way with the stock `lm_eval` command.\n"
    return f"""{_quantized_base(job)}Reproduce its scores with the stock command in the folder `{_TASKS}` (batch size 1:
in larger batches, left padding misplaces the virtual tokens of prompt tuning). It prints accuracy and exact match as
stored; the choices in these files include the end that was trained. For generation it prints BLEU and chrF over one
reference, while the stored headline is ROUGE-L:

```
lm_eval --model hf \\
    --model_args {where},dtype={dtype},max_length={length},softmax_dtype=float32{extra}{revision} \\
    --include_path . --tasks {names} --batch_size 1 --device {trial.device}
```
"""


def _quantized_base(job: Job) -> str:
    """Return how to make the quantized base model that the stock command needs; its arguments cannot quantize one."""
    precision = effective(job.trial.precision, job.trial.options)
    if precision.quantization in (None, "stored"):
        return ""
    kind, settings = "BitsAndBytesConfig", "load_in_8bit=True"
    more = ""
    if precision.quantization in _TORCHAO:
        kind, settings, more = "TorchAoConfig", *_TORCHAO[precision.quantization]
    elif precision.quantization != "int8":
        settings = (
            f'load_in_4bit=True, bnb_4bit_quant_type="{precision.quantization}", '
            f"bnb_4bit_use_double_quant={job.trial.options.get('double_quantization', True)}, "
            f"bnb_4bit_compute_dtype=torch.{precision.compute}"
        )
    return f"""The stock command needs the quantized base model in a folder of its own. Make it once, as BASE:

```python
import torch
{more}from transformers import AutoModelForCausalLM, AutoTokenizer, {kind}

settings = {kind}({settings})
base = AutoModelForCausalLM.from_pretrained("ORIGINAL", quantization_config=settings, dtype=torch.{precision.weights})
base.save_pretrained("BASE")
AutoTokenizer.from_pretrained("ORIGINAL").save_pretrained("BASE")
```

"""
