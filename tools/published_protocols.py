"""Which tables of the shared file are in the registry, and where in that file each part of their protocols stands.

A part of a protocol is a path to a number, a product of two, a number inside a text, or words. Words hold no number
that is compared: they say what a text means ("best epoch on the reported set"), in the vocabulary of
``peftbench.report.published.facts``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class At:
    """What stands at a path: ``protocol/beam`` of the table, ``#ID/common/r`` of a set of hyperparameters."""

    path: str


@dataclass(frozen=True)
class Product:
    """The product of two numbers, like the batch of a device and the number of devices."""

    one: str
    other: str


@dataclass(frozen=True)
class Matched:
    """The number that a pattern finds in a text; ``traps/*`` is all traps."""

    path: str
    pattern: str
    times: float = 1


@dataclass(frozen=True)
class Words:
    """What a text says, in words."""

    text: str


@dataclass(frozen=True)
class Is:
    """What a text says of something that is on or off."""

    on: bool


Source = At | Product | Matched | Words | Is


@dataclass(frozen=True)
class Block:
    """Parts of a protocol, and the rows and columns that they are of."""

    settings: Mapping[str, Source]
    of: Mapping[str, object] = field(default_factory=dict)
    """Field of a row (``base``, ``method``, ``group``, ``about``, ``label``, ``rank``) or ``column`` to the values that
    are meant; ``about`` is matched by its beginning. Empty for all."""


def _common(recipe: str, names: Mapping[str, str]) -> dict[str, Source]:
    return {part: At(f"#{recipe}/{name}") for part, name in names.items()}


_LORA = {
    "optimizer": "common/optimizer",
    "rank": "common/r",
    "alpha": "common/alpha",
}
_GLUE_COLUMNS = {
    "MNLI": ("MNLI", "MNLI_m", "MNLI_mm"),
    "STSB": ("STSB", "STSB_pearson", "STSB_spearman"),
    **{name: (name,) for name in ("SST2", "MRPC", "CoLA", "QNLI", "QQP", "RTE")},
}
_FROM_MNLI = ("MRPC", "RTE", "STSB")


def _glue_lora(base: str, recipe: str, common: Mapping[str, str], per_task: tuple[str, ...]) -> tuple[Block, ...]:
    """Return the settings of the LoRA rows of one base model on GLUE, in the paper's own set-up."""
    of = {"base": base, "method": "lora", "group": None}
    blocks = [Block(_common(recipe, {**_LORA, **common}), of)]
    for task, columns in _GLUE_COLUMNS.items():
        at = f"#{recipe}/per_task/{task}"
        gpus = f"#{recipe}/common/{'gpus_cola' if base == 'roberta-base' and task == 'CoLA' else 'gpus'}"
        names = {"lr": "learning_rate", "epochs": "epochs", "max_seq": "sequence_length"}
        names |= {"weight_decay": "weight_decay"}
        settings: dict[str, Source] = {names[name]: At(f"{at}/{name}") for name in ("lr", "epochs", *per_task)}
        settings["batch_size"] = Product(f"{at}/per_device_batch", gpus)
        if task in _FROM_MNLI:
            settings["init_from"] = At(f"{at}/init_from")
        blocks.append(Block(settings, {**of, "column": list(columns)}))
    return tuple(blocks)


_WHOLE = {"schedule": "common/schedule", "warmup_ratio": "common/warmup_ratio", "weight_decay": "common/weight_decay"}
_GLUE = (
    *_glue_lora(
        "roberta-base",
        "lora_roberta_base_glue",
        {**_WHOLE, "sequence_length": "common/max_seq", "target_modules": "common/targets"},
        (),
    ),
    *_glue_lora("roberta-large", "lora_roberta_large_glue", _WHOLE, ("max_seq",)),
    *_glue_lora("deberta-v2-xxlarge", "lora_deberta_v2_xxlarge_glue", {}, ("max_seq", "weight_decay")),
)
_GLUE_TEST: dict[str, Source] = {
    "train_data": Words("the task's own"),
    "test_data": Words("GLUE"),
    "task_kind": Words("classification head"),
}
_E2E: dict[str, Source] = {
    part: At(f"#lora_gpt2_e2e/common/{name}")
    for part, name in {
        "optimizer": "optimizer",
        "weight_decay": "weight_decay",
        "dropout": "dropout",
        "batch_size": "batch",
        "epochs": "epochs",
        "warmup_steps": "warmup_steps",
        "schedule": "schedule",
        "label_smoothing": "label_smoothing",
        "learning_rate": "lr",
        "rank": "r",
        "alpha": "alpha",
        "target_modules": "targets",
        "sequence_length": "seq",
    }.items()
}
_MATH = "llm_adapters_math_llama7b"


_ON_VALIDATION = Words("lowest validation loss")
"""What ``finetune.py`` of LLM-Adapters and DoRA keeps where examples are held back; else it is the last step."""


def _math(method: str, names: Mapping[str, str], **more: Source) -> Block:
    settings: dict[str, Source] = {part: At(f"#{_MATH}/methods/{method}/{name}") for part, name in names.items()}
    settings["score"] = _ON_VALIDATION if method in ("prefix_tuning", "adapter_series") else Words("last step")
    settings |= {"sequence_length": At(f"#{_MATH}/common/cutoff_len")}
    settings |= {"micro_batch_size": At(f"#{_MATH}/common/micro_batch"), "loss_on": Words("all")}
    if method != "adapter_series":  # which loads the base model in 8 bits
        settings["precision"] = At(f"#{_MATH}/common/precision")
    return Block(settings | more, {"base": "LLaMA-7B", "method": method})


_RUN = {"learning_rate": "lr", "batch_size": "batch", "epochs": "epochs"}
_COMMONSENSE = "llm_adapters_commonsense170k_llama7b"
_DORA = "dora_commonsense170k"


def _commonsense(recipe: str) -> Block:
    """Return how all rows of a table on commonsense_170k were made."""
    decoding = {"num_beams": "num_beams", "temperature": "temperature", "max_new_tokens": "max_new_tokens"}
    words: dict[str, Source] = {"train_data": Words("commonsense_170k"), "task_kind": Words("generation")}
    return Block(words | _common(recipe, {part: f"eval/{name}" for part, name in decoding.items()}))


def _commonsense_llama(method: str, names: Mapping[str, str]) -> Block:
    common = {
        **_RUN,
        "sequence_length": "cutoff_len",
        "micro_batch_size": "micro_batch",
        "warmup_steps": "warmup_steps",
    }
    settings = _common(_COMMONSENSE, {part: f"common/{name}" for part, name in common.items()})
    settings |= _common(_COMMONSENSE, {part: f"methods/{method}/{name}" for part, name in names.items()})
    settings |= {"precision": At(f"#{_COMMONSENSE}/common/precision"), "optimizer": Words("adamw")}
    settings |= {"loss_on": Words("all"), "score": _ON_VALIDATION}
    return Block(settings, {"base": "LLaMA-7B", "method": method})


def _dora_rate(base: str, method: str, key: str) -> Block:
    return Block({"learning_rate": At(f"#{_DORA}/lr/{key}")}, {"base": base, "method": method})


_PISSA = "#pissa_metamath_llama2_7b/common"
_READ_GSM8K = {"column": ["GSM8K", "MATH"]}
_REPORTS = "#lora_ga_metamath_llama2_7b"

_PEERS = "#hf_method_comparison_metamathqa"


def _peer(recipe: str, rows: Sequence[str], names: Sequence[str], **more: Source) -> Block:
    """Return the settings of experiments of the peer, which the states of its result files share."""
    own = {"lr": "learning_rate", "alpha": "alpha", "targets": "target_modules", "optimizer": "optimizer"}
    settings: dict[str, Source] = {own[name]: At(f"{_PEERS}/methods/{recipe}/{name}") for name in names}
    return Block(settings | more, {"about": list(rows)})


def _states(experiment: str) -> tuple[str, str]:
    return f"june_2026; {experiment};", f"july_2026; {experiment};"


_ADAM: dict[str, Source] = {"optimizer": At(f"{_PEERS}/common/optimizer")}
_DECAYED: dict[str, Source] = {**_ADAM, "weight_decay": At(f"{_PEERS}/common/weight_decay")}
_LR_TEXT = f"{_PEERS}/methods/adaption_prompt/lr"
_PEER = (
    Block(
        {
            "template": At(f"{_PEERS}/common/template"),
            "max_new_tokens": At(f"{_PEERS}/common/max_new_tokens"),
            "sequence_length": At(f"{_PEERS}/common/max_seq"),
            "schedule": At(f"{_PEERS}/common/schedule"),
            "precision": Words("bf16"),
        },
        {"group": ["june_2026", "july_2026"]},
    ),
    Block({"precision": Words("bf16-true")}, {"group": ["june_2026", "july_2026"], "method": "full"}),
    Block(
        {"gradient_checkpointing": Is(False)}, {"group": ["july_2026"]}
    ),  # use_gc of the result files; June's have none
    # the blog names no ranks: its numbers are those of these files, rounded
    Block({"rank": Matched("traps/*", r"is the rank-(\d+) file")}, {"group": ["blog"], "method": "lora"}),
    Block({"rank": Matched("traps/*", r"53\.2 % row is rank (\d+)")}, {"group": ["blog"], "method": "rslora"}),
    Block({"rank": Matched("rows/*", r"'experiment': 'rank(\d+)-mlp")}, {"group": ["blog"], "method": "lily"}),
    _peer("lora_r32", _states("rank32"), ("lr", "alpha", "targets"), **_DECAYED),
    _peer("lora_r64", _states("rank64"), ("lr", "alpha", "targets"), **_DECAYED),
    _peer("rslora_r64", _states("rank64-rslora"), ("lr", "alpha", "targets"), **_DECAYED),
    _peer("lora_fa", _states("rank32-lorafa"), ("lr", "alpha", "optimizer")),
    *(
        Block(
            {"learning_rate": At(f"{_PEERS}/methods/{method}/lr"), **_ADAM},
            {"group": ["june_2026", "july_2026"], "method": method},
        )
        for method in ("full", "ia3", "prefix_tuning", "prompt_tuning")
    ),
    _peer("adaption_prompt", _states("lr_0.0005"), (), learning_rate=Matched(_LR_TEXT, r"^([\d.e-]+);"), **_ADAM),
    _peer("adaption_prompt", _states("lr_5e-3"), (), learning_rate=Matched(_LR_TEXT, r"; ([\d.e-]+) from"), **_ADAM),
)

TAKEN: Mapping[str, tuple[Block, ...]] = {
    "lora2021_t2_glue": (
        Block(
            {
                **_GLUE_TEST,
                "seeds": Matched("statistic", r"median of (\d+) seeds"),
                "statistic": Words("median"),
                "score": Words("best epoch on the reported set"),
                "test_split": Words("validation"),
                "metric": Words("accuracy"),
            }
        ),
        Block({"test_split": Words("validation matched and mismatched")}, {"column": ["MNLI"]}),
        Block({"metric": Words("matthews")}, {"column": ["CoLA"]}),
        Block({"metric": Words("pearson")}, {"column": ["STSB"]}),
        *_GLUE,
        Block({"sequence_length": Matched("traps/*", r"seq len (\d+), fixed recipe")}, {"group": "houlsby_like"}),
    ),
    "lora_readme_glue": (
        Block({**_GLUE_TEST, "test_split": Words("validation")}),
        Block({"test_split": Words("validation matched")}, {"column": ["MNLI_m"]}),
        Block({"test_split": Words("validation mismatched")}, {"column": ["MNLI_mm"]}),
        *_GLUE,
    ),
    "lora2021_t3_e2e": (
        Block(
            {
                "train_data": Words("the task's own"),
                "test_data": Words("E2E NLG"),
                "test_split": Words("test"),
                "seeds": Matched("statistic", r"mean of (\d+) seeds"),
                "statistic": Words("mean"),
                "num_beams": At("protocol/beam"),
                "length_penalty": At("protocol/length_penalty"),
                "no_repeat_ngram_size": At("protocol/no_repeat_ngram"),
                "task_kind": Words("generation"),
            }
        ),
        Block({"metric": Words("bleu_lowercase")}, {"column": ["BLEU"]}),  # what the official scorer's scores are here
        Block({"metric": Words("nist")}, {"column": ["NIST"]}),
        Block({"metric": Words("meteor")}, {"column": ["METEOR"]}),
        Block({"metric": Words("rouge_l_coco")}, {"column": ["ROUGE_L"]}),
        Block({"metric": Words("cider")}, {"column": ["CIDEr"]}),
        Block(_E2E, {"base": "gpt2-medium", "method": "lora"}),
    ),
    "lora2021_t6_rank": (
        Block({"train_data": Words("the task's own")}),
        Block(
            {
                "learning_rate": At("#gpt3_175b_lrs/lr/lora"),
                **_common(
                    "gpt3_175b_lrs",
                    {
                        "optimizer": "common/optimizer",
                        "batch_size": "common/batch",
                        "epochs": "common/epochs",
                        "weight_decay": "common/weight_decay",
                    },
                ),
            },
            {"method": "lora"},
        ),
    ),
    "llm_adapters_math": (
        Block(
            {
                "train_data": Words("math_10k"),
                "task_kind": Words("generation"),
                "num_beams": Matched("traps/*", r"decodes with beams (\d+)"),
                "temperature": Matched("traps/*", r"beams \d+ \+ temperature ([\d.]+)"),
            }
        ),
        Block({"test_data": Words("GSM8K")}, {"column": ["GSM8K"]}),
        _math("lora", {**_RUN, "rank": "r", "alpha": "alpha", "target_modules": "targets"}),
        _math("prefix_tuning", {**_RUN, "rank": "virtual_tokens"}),
        _math("adapter_series", {**_RUN, "rank": "bottleneck", "target_modules": "targets"}, precision=Words("int8")),
        _math("adapter_parallel", {**_RUN, "rank": "bottleneck", "target_modules": "targets"}),
    ),
    "llm_adapters_commonsense": (
        _commonsense(_COMMONSENSE),
        _commonsense_llama("lora", {"rank": "r", "alpha": "alpha", "dropout": "dropout", "target_modules": "targets"}),
        _commonsense_llama("adapter_series", {"rank": "bottleneck", "target_modules": "targets"}),
    ),
    "dora_commonsense": (
        _commonsense(_DORA),
        Block(
            {
                **_common(
                    _DORA,
                    {
                        "batch_size": "common/batch",
                        "micro_batch_size": "common/micro_batch",
                        "epochs": "common/epochs",
                        "sequence_length": "common/cutoff_len",
                        "target_modules": "common/targets",
                        "gradient_checkpointing": "common/gradient_checkpointing",
                    },
                ),
                "score": _ON_VALIDATION,
            }
        ),
        Block({"alpha": Words("= 2r")}, {"rank": [16, 32]}),  # the ranks of the examples that it is of
        Block(
            {"learning_rate": Matched(f"#{_DORA}/lr/llama_7b_dora", r"^([\d.e-]+) \(r 4, 8, 16, 64\)")},
            {"base": "llama-7b", "method": "dora", "rank": [8, 16, 64]},
        ),
        _dora_rate("llama-2-7b", "lora", "llama_2_7b_lora"),
        _dora_rate("llama-2-7b", "dora", "llama_2_7b_dora"),
        _dora_rate("llama-3-8b", "lora", "llama_3_8b_lora"),
        _dora_rate("llama-3-8b", "dora", "llama_3_8b_dora"),
    ),
    "pissa_t2_nlg": (
        Block(
            {
                "seeds": Matched("statistic", r"mean of (\d+) runs"),
                "statistic": Words("mean"),
                "epochs": Matched("train_data", r"; (\d+) epoch"),
                "optimizer": At("protocol/optimizer"),
                "batch_size": At("protocol/batch"),
                "learning_rate": At("protocol/lr"),
                "schedule": At("protocol/schedule"),
                "warmup_ratio": At("protocol/warmup_ratio"),
                "weight_decay": At("protocol/weight_decay"),
                "loss_on": Words("completion"),
                "hardware": At("protocol/hardware"),
                "task_kind": Words("generation"),
            }
        ),
        Block(
            {
                "train_data": Words("MetaMathQA"),
                "train_examples": Matched("train_data", r"MetaMathQA-(\d+)k", 1000),
            },
            _READ_GSM8K,
        ),
        Block({"test_data": Words("GSM8K")}, {"column": ["GSM8K"]}),
        Block(
            {
                "alpha": At("protocol/alpha"),
                "dropout": At("protocol/dropout"),
                "target_modules": At("protocol/targets"),
                "precision": Words("fp32"),
            },
            {"method": ["lora", "pissa"]},
        ),
        Block({"precision": Words("bf16")}, {"method": ["full"]}),
        Block(
            {
                "template": Words("alpaca"),
                "temperature": Matched(f"{_PISSA}/decoding", r"temperature (\d+)"),
                "max_new_tokens": Matched(f"{_PISSA}/decoding", r"(\d+) new tokens"),
                "sequence_length": At(f"{_PISSA}/max_seq"),
            },
            {"base": "llama-2-7b", **_READ_GSM8K},
        ),
    ),
    "metamath100k_llama2_7b_reports": (
        Block({"task_kind": Words("generation")}),
        Block({"test_data": Words("GSM8K")}, {"column": ["GSM8K"]}),
        Block(
            {
                "train_data": Words("MetaMathQA"),
                "train_examples": Matched("table", r"MetaMathQA-(\d+)k", 1000),
                "template": Words("alpaca"),
            },
            {"about": ["PiSSA paper", "user rerun, MuLabPKU/PiSSA"], **_READ_GSM8K},
        ),
        Block(
            {
                "train_data": At(f"{_REPORTS}/reproduce_conf/train_data"),
                "template": At(f"{_REPORTS}/eval/template"),
                "max_new_tokens": At(f"{_REPORTS}/eval/max_new_tokens"),
            },
            {"about": ["LoRA-GA paper", "user rerun of examples/float_llama2"], "column": ["GSM8K"]},
        ),
        Block(
            {
                "train_data": Words("MetaMathQA, the part on GSM"),
                "template": Words("alpaca"),
                "max_new_tokens": At("#lora_pro_metamath_llama2_7b/eval/max_new_tokens"),
            },
            {"about": ["LoRA-Pro paper", "authors rerun, mrflogs", "user rerun, mrflogs"], "column": ["GSM8K"]},
        ),
    ),
    "qlora2023_t3_16bit_parity": (
        Block({"double_quantization": Is(False)}, {"label": ["QLoRA FP4"]}),
        Block({"double_quantization": Is(True)}, {"label": ["QLoRA NF4+DQ"]}),
        Block({"metric": Words("accuracy"), "test_data": Words("GLUE")}, {"column": ["RoBERTa_large_GLUE"]}),
        Block(
            {"metric": Words("rouge_l"), "test_data": Words("Super-NaturalInstructions")},
            {"column": ["T5_80M_SNI", "T5_250M_SNI", "T5_780M_SNI", "T5_3B_SNI", "T5_11B_SNI"]},
        ),
        Block(
            {
                "rank": At("#qlora_sni/common/r_small_to_large"),
                "alpha": At("#qlora_sni/common/alpha"),
                "dropout": At("#qlora_sni/common/dropout"),
            },
            {"method": ["qlora", "qlora_int8"], "column": ["T5_80M_SNI", "T5_250M_SNI", "T5_780M_SNI"]},
        ),
        Block(
            {
                "rank": At("#qlora_sni/common/r_xl_xxl"),
                "alpha": At("#qlora_sni/common/alpha"),
                "dropout": At("#qlora_sni/common/dropout"),
            },
            {"method": ["qlora", "qlora_int8"], "column": ["T5_3B_SNI", "T5_11B_SNI"]},
        ),
    ),
    "qlora2023_t4_mmlu": (
        Block({"test_data": Words("MMLU"), "num_fewshot": Matched("dataset", r"(\d+)-shot")}),
        Block({"double_quantization": Is(False)}, {"label": ["Float4"]}),
        Block({"double_quantization": Is(True)}, {"label": ["NFloat4+DQ"]}),
        Block({"train_data": Words("Alpaca")}, {"column": ["7B_Alpaca", "13B_Alpaca", "33B_Alpaca", "65B_Alpaca"]}),
        Block({"train_data": Words("FLAN v2")}, {"column": ["7B_FLANv2", "13B_FLANv2", "33B_FLANv2", "65B_FLANv2"]}),
    ),
    "qlora2023_memory_breakdown": (
        Block(
            {
                "micro_batch_size": At("protocol/batch"),
                "sequence_length": At("protocol/seq"),
                "gradient_checkpointing": At("protocol/gradient_checkpointing"),
                "precision": Words("nf4"),
            }
        ),
    ),
    "raschka2023_lit_llama": (
        Block(
            {
                "train_data": Words("Alpaca"),
                "train_examples": Matched("dataset", r"(\d+)k", 1000),
                "epochs": At("protocol/epochs"),
                "micro_batch_size": At("protocol/micro_batch"),
                "hardware": At("hardware"),
            }
        ),
        Block(
            {
                part: At(f"hyperparameters/lora/{name}")
                for part, name in {
                    "learning_rate": "lr",
                    "batch_size": "batch",
                    "weight_decay": "weight_decay",
                    "sequence_length": "block_size",
                    "rank": "r",
                    "alpha": "alpha",
                    "dropout": "dropout",
                }.items()
            },
            {"method": "lora"},
        ),
        Block(
            {
                part: At(f"hyperparameters/llama_adapter/{name}")
                for part, name in {"learning_rate": "lr", "batch_size": "batch", "weight_decay": "weight_decay"}.items()
            },
            {"method": "llama_adapter"},
        ),
        Block({"learning_rate": At("hyperparameters/full/lr")}, {"method": "full"}),
    ),
    "litgpt_config_hub": (),
    "hf_beyond_lora_blog_and_rerun": (
        Block(
            {
                "train_data": Words("MetaMathQA"),
                "steps": Matched("dataset", r"(\d+) steps of"),
                "batch_size": Matched("dataset", r"steps of (\d+) samples"),
                "test_data": Words("GSM8K"),
                "test_split": Words("test"),
                "test_examples": Matched("dataset", r"GSM8K test \((\d+)\)"),
                "seeds": Matched("statistic", r"^(one) run"),
                "statistic": Words("mean"),
                "memory_figure": Words("reserved by the allocator, whole run"),
                "time_figure": Words("steps and the rest of training"),
                "loss_figure": Words("mean of the last interval between validations"),
                "hardware": At("hardware"),
                "task_kind": Words("generation"),
            }
        ),
        *_PEER,
    ),
}
"""Id of each table of the registry to the parts of its protocol; a later block has precedence."""

_NO_LAYOUT = "no layout shows it: it compares no methods on a score or a cost that peftbench measures"
_SWEEP = "curves over one setting, not a table of methods"
_MACHINE = "speeds and sizes of one software stack on one machine, without the settings that decide them"
LEFT_OUT: Mapping[str, str] = {
    "lora2021_t1_inference_latency": _NO_LAYOUT,
    "lora2021_t4_gpt3": "GPT-3 175B: nobody outside can run it; table 6 of the same paper is there for its ranks",
    "lora2021_t5_target_modules": "GPT-3 175B at one budget; its settings are rows of table 6",
    "lora2021_t11_dart": "two published values for one cell (paper and README differ)",
    "lora2021_t15_gpt3_budget_sweep": "the number of the table was not confirmed by who read it",
    "lora2021_t16_low_data": "the number of the table was not confirmed by who read it",
    "lora2021_t18_rank_e2e": "the number of the table was not confirmed by who read it",
    "lora_readme_nlg": "its spread is called a confidence interval without its method; table 3 has the same cells",
    "qlora2023_t2_dtype_ppl": "second-hand, and a mean over four model families that cannot be run as one",
    "llama_adapter_t1_efficiency": "second-hand; text and table of the paper differ",
    "llama_adapter_t18_open_llm": "second-hand",
    "llama_adapter_t4_layers": _SWEEP,
    "llama_adapter_t5_zero_init": _NO_LAYOUT,
    "raschka2023_inference": _NO_LAYOUT,
    "raschka_practical_tips_lora": "one number each from a text, without its settings",
    "houlsby2019_t1_glue": "second-hand; scores of the GLUE server, which no dev-set run compares with",
    "llm_adapters_resources": "commented out in the README: the authors no longer stand by it",
    "litgpt_resources_lora": _MACHINE,
    "litgpt_resources_llama_adapter": _MACHINE,
    "litgpt_resources_llama_adapter_v2": _MACHINE,
    "litgpt_resources_lora_multi_gpu": "several GPUs, on which peftbench has never been run",
    "litgpt_resources_inference": _NO_LAYOUT,
    "torchtune_memory_speed": "GB and GiB in one column, and other optimizers by method",
    "torchtune_flag_ladder": _NO_LAYOUT,
    "llamafactory_hw_estimate": "estimates, not measurements",
    "llamafactory_paper_gemma2b": "only one of its rows was read",
    "peftbench_t1_glue_superglue": "many cells are format failures, which its scores do not tell from wrong answers",
    "peftbench_t2_reasoning_code": "many cells are format failures, which its scores do not tell from wrong answers",
    "peftbench_t3_pscp": "a composite whose order its constants decide",
    "peftbench_t11_stability": _NO_LAYOUT,
    "msswift_quantization": _MACHINE,
    "msswift_fa_gc": _MACHINE,
    "msswift_rank": _MACHINE,
    "msswift_seq_len": _MACHINE,
    "msswift_batch": _MACHINE,
    "msswift_tuners": "its report wrote columns under swapped heads",
    "fms_acceleration_a100": "selected rows of a file",
    "unsloth_context": _NO_LAYOUT,
    "unsloth_hf_blog": "no repeats and no settings of what it compares with",
    "mlperf_llama2_70b_lora": "a definition, not a result",
    "lester2021_t4_params": "second-hand, part of a table",
    "pissa_t5_variants": "LLaMA-3-8B, variants of one method; no settings beside it",
    "pissa_t7_precision": "other data and epochs than the table of the layout (395k samples, 3 epochs)",
    "pissa_readme": "figures of an earlier version of the paper, replaced by its table 2",
    "hira_t3_gsm8k": "paper, appendix, README and author give different learning rates for it",
    "tara_t1_nlg": "the address of the paper was not seen",
    "lr_matters_qwen3_metamath": _SWEEP,
    "lr_matters_qwen3_best": _SWEEP,
    "biderman2024_code_ift": _SWEEP,
    "biderman2024_math_ift": _SWEEP,
    "biderman2024_code_cpt": _SWEEP,
    "biderman2024_math_cpt": _SWEEP,
    "biderman2024_tulu": _SWEEP,
    "lora_without_regret_claims": "claims in a text; the ratio of learning rates is a suite of its own",
    "lora_without_regret_params": "printed counts follow only with a LoRA on the head, which the text does not say",
    "tinker_sft_sweep": _SWEEP,
    "tinker_sft_sweep_best": _SWEEP,
}
"""Id of each table that is not in the registry, and why."""
