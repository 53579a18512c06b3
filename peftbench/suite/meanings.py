"""What each key of a suite file means, in a sentence or two: the texts of ``docs/suite.md``.

The types, limits and defaults of the same keys are in ``schema``; a test checks that both list the same keys. The
meanings stand apart because a pydantic ``Field(description=...)`` is what error messages print as the allowed values.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from peftbench.records import Phase


class Meaning(NamedTuple):
    """The documentation of one key."""

    text: str
    default: str | None = None
    """How the default is written where null stands for something else; None to print the schema's default."""


SUITE: Mapping[str, Meaning] = MappingProxyType(
    {
        "name": Meaning("name of the results folder", "the file's name"),
        "description": Meaning("one line, printed by `peftbench list suites`"),
        "base": Meaning("base model: the built-in `nano`, a local folder or a hub id; or a mapping, see below"),
        "device": Meaning("where to run; `auto` takes a GPU if torch can use one"),
        "threads": Meaning(
            "CPU threads of each trial; `OMP_NUM_THREADS` has no effect on it, neither on the default",
            "cores / workers",
        ),
        "workers": Meaning("trials that run at the same time; times are reliable with 1 only"),
        "seeds": Meaning("how many seeds (3 stands for 0, 1, 2), or a list of the seeds themselves"),
        "precision": Meaning(
            "a value or a list, for methods whose block gives none: [precisions](methods.md#precisions)",
            "the method's; bf16 in place of fp32 above half a billion parameters; stored for a base stored quantized",
        ),
        "rank": Meaning("a value or a list, for methods that have a rank and whose block gives none", "the method's"),
        "devices": Meaning(
            "the devices that share each trial: `one`, a mapping, see below, or a list of these, which is an axis of "
            "the grid: [several devices](several_devices.md)",
            "one",
        ),
        "tasks": Meaning("a list of built-in tasks, or a mapping of names to tasks, see below"),
        "methods": Meaning(
            "a list of methods, or a mapping of methods to their settings, see below; a list of blocks under one "
            "method is several grids"
        ),
        "train": Meaning("training settings, the same for every method, see below"),
        "evaluate": Meaning("how to score, see below"),
        "search": Meaning("how a list of learning rates is searched, see below; `false` makes such a list an axis"),
        "timeout_seconds": Meaning(
            "wall time after which a trial's process is stopped; the next run goes on where its training was saved "
            "last. A mapping limits single phases, without what runs inside them, "
            "and the whole trial: `{load: 60, train: 3600, total: 7200}`"
        ),
        "checkpoint_every_seconds": Meaning(
            "how often a trial saves the state of its training, from which `run` continues after a crash; null for "
            "never; changes no loss and no score"
        ),
        "most_trials": Meaning(
            "a grid of more trials is refused before it is expanded, as a list too many multiplies all others"
        ),
        "audit": Meaning(
            "`strict`: `run` and `report` end with exit code 1 if rows differ in something that is neither an axis of "
            "the grid nor a method's own setting"
        ),
        "profile": Meaning(
            "where settings come from that the suite does not give: `paper`, each method's published ones; `shared`, "
            "one set for all methods and no method's own recipe; the others, those of a published table or repository",
            "each method's own recipe",
        ),
        "match": Meaning(
            "`{trainable_parameters: 100000}`, or `{trainable_parameters: {method: lora, rank: 8}}`: chooses the rank "
            "of every method whose block gives none, so that all train about as many parameters"
        ),
        "watch": Meaning(
            "what `peftbench compare` judges between two nights, and from which change on, see below; changes no trial"
        ),
        "ladder": Meaning(
            "adds to reports a table and a figure of memory in which each cell, in the order of the file, stands "
            "beside the one above it (`previous`) or beside the first one (`first`), with the settings that differ; "
            "changes no trial"
        ),
    }
)

BASE: Mapping[str, Meaning] = MappingProxyType(
    {
        "source": Meaning("built-in name, local folder or hub id; `base: X` is short for `base: {source: X}`"),
        "revision": Meaning("branch, tag or commit of a hub id"),
        "trust_remote_code": Meaning("whether code that comes with the weights may run"),
        "shape": Meaning(
            "instead of `source`: a known model's config, or a folder with a `config.json`, whose weights are drawn at "
            "random, to measure speed and memory"
        ),
        "weights": Meaning("`random` is the only value, and optional with `shape`"),
    }
)

TASK: Mapping[str, Meaning] = MappingProxyType(
    {
        "template": Meaning(
            "ready `kind`, `prompt`, `target` and more for known data: `alpaca`, `classification`, `dolly`, `e2e`, "
            "`gsm8k`, `messages`, `sharegpt`, `sst2`, `text` or `trec`; `peftbench list tasks` prints which fields "
            "each reads. Keys of the block override it"
        ),
        "kind": Meaning(
            "`choice` ranks answers by likelihood, `exact_match` and `generation` decode an answer, "
            "`language_modelling` scores plain text; `classification` and `regression` put a head on the model that "
            "reads a whole text, on encoders too",
            "required, or the template's",
        ),
        "train": Meaning(
            "file of the train split: CSV, TSV, JSON, JSON lines, Parquet or text, also compressed (.gz, .zst, .bz2, "
            ".xz). A relative path starts at the suite's folder"
        ),
        "validation": Meaning("file of the validation split"),
        "test": Meaning("file of the test split"),
        "dataset": Meaning("Hugging Face dataset: a hub id, or a folder like `./data`"),
        "config": Meaning("configuration of the dataset"),
        "revision": Meaning("branch, tag or commit of the dataset"),
        "splits": Meaning(
            "which of the dataset's splits to use: `{train: train, test: validation}`. A file given for the same split "
            "takes precedence"
        ),
        "columns": Meaning("column names, for files without a header line"),
        "encoding": Meaning(
            "character encoding of all the task's text files, such as `cp1252` or `utf-16-le`; a byte order mark takes "
            "precedence",
            "UTF-8; for a file that is none, it is found out from its bytes, each file on its own, and told",
        ),
        "delimiter": Meaning(
            "the character between the fields of CSV and TSV files",
            "the comma or the tab; the semicolon, bar, tab or comma if the file has those instead",
        ),
        "quoting": Meaning(
            "for CSV and TSV files: `minimal` if quotes may enclose a field, `none` if quotes are text",
            "`minimal` for CSV; for TSV found out from the file",
        ),
        "messages": Meaning(
            "the field with a conversation: a list of messages with `role` and `content` (OpenAI) or `from` and "
            "`value` (ShareGPT). The last answer is the target, what stands before it the prompt; tool calls and "
            "images are refused",
            "the template's",
        ),
        "train_on": Meaning(
            "which answers of a conversation enter the training loss: `last_answer`, or `every_answer`, each with the "
            "end of its turn, for `chat: true` and chat templates that write an answer in the same way when messages "
            "follow. Scored is the last",
            "`last_answer`",
        ),
        "prompt": Meaning(
            "Jinja template of the prompt over an example's fields; `row` is the whole record: "
            "`{{ row['Class Index'] }}`",
            "required, or the template's",
        ),
        "prompt_pair": Meaning("Jinja template of the second text, for a `classification` or `regression` of pairs"),
        "target": Meaning(
            "Jinja template of the right answer. If it is one expression that gives a list, all of its texts are "
            "right, and the first is trained on",
            "required, or the template's",
        ),
        "choices": Meaning(
            "the answers to rank, for `choice`, or the classes of a `classification`",
            "the words of `labels`; classes without either are those of the training examples",
        ),
        "labels": Meaning('maps what `target` renders to the word for it: `{"0": negative, "1": positive}`'),
        "several_references": Meaning("merge scored examples with the same prompt into one with several references"),
        "validation_fraction": Meaning(
            "share of the training examples to split off (seeded) if there is no validation split"
        ),
        "test_fraction": Meaning("the same for the test split"),
        "split_seed": Meaning("seed of these two splits"),
        "separator": Meaning(
            "for `language_modelling`: the text between two documents; each document is then one chunk",
            "blank lines, and short paragraphs are joined",
        ),
        "chunk_characters": Meaning("for `language_modelling`: longest chunk in characters", "500"),
        "chat": Meaning(
            "apply the chat template of the base model's tokenizer, with the prompt as the user's message and the "
            "answer as the assistant's, in training and evaluation; for instruct models"
        ),
        "system": Meaning("system message of the chat template"),
        "max_new_tokens": Meaning("longest decoded answer", "32; a built-in task and a template have their own"),
        "num_beams": Meaning(
            "beams of the search for a decoded answer, the same for every method; each counts as a prompt of "
            "`evaluate.batch_size`. Not with `evaluate.generation: base`, which has a search of its own",
            "1, which is greedy decoding",
        ),
        "length_penalty": Meaning(
            "with beams: answers are compared by their log-probability divided by their number of tokens to this "
            "power, so that a larger one favours longer answers",
            "1.0",
        ),
        "no_repeat_ngram_size": Meaning(
            "no sequence of this many tokens occurs twice in an answer; the prompt does not count, whose words an "
            "answer may have to repeat",
            "0, no such rule",
        ),
        "limit": Meaning(
            "largest number of scored examples: a seeded draw, the same for every method. Of a built-in task the first",
            "all",
        ),
        "answer_pattern": Meaning(
            "how `exact_match` extracts the answer from prediction and target: a regular expression with one group, "
            "`gsm8k` (the number after `####`, else the last number) or `number` (the last number; [what is read as "
            "one](suite.md#numbers-in-answers)). Output without an answer counts as a format failure, separately from "
            "wrong answers",
            "the whole text",
        ),
        "stop": Meaning(
            "texts at which a decoded answer ends, besides end-of-text and the end of a chat turn",
            "a line feed if no target of any split contains one (a thinking block of a chat task does), else a blank "
            "line, or nothing if a target contains that too",
        ),
        "num_fewshot": Meaning("solved examples before each prompt, drawn from the train split with a fixed seed", "0"),
        "metric": Meaning(
            "headline metric: `accuracy` or `accuracy_norm` (per byte) for `choice`; for a task of lm-eval any metric "
            "with an outcome per example",
            "the first of the kind",
        ),
        "more_metrics": Meaning(
            "for `generation`: metrics of whole splits beside BLEU and chrF, as the official E2E scorer has them: "
            "`bleu_lowercase`, `nist`, `rouge_l_coco`, `cider`, `meteor`; see [E2E](suite.md#texts-of-a-task). The "
            "last three need Java and `pip install 'peftbench[e2e]'`"
        ),
        "lm_eval": Meaning(
            "a task of [lm-eval](https://github.com/EleutherAI/lm-evaluation-harness), instead of a definition here: "
            "`true` for the task of the same name, another name, or a YAML file. It is scored and not trained on"
        ),
    }
)

EVALUATE: Mapping[str, Meaning] = MappingProxyType(
    {
        "batch_size": Meaning(
            "most prompts per forward pass. `auto` starts large and halves when a GPU runs out of memory (the "
            "evaluation peak is then that of the batch that fits); on the CPU it means 8,192 tokens. Scores do not "
            "depend on it"
        ),
        "max_length": Meaning(
            "longest prompt plus answer, in tokens",
            "the longest `sequence_length`; if the suite gives none and the base is not `nano`, at least the longest "
            "scored example",
        ),
        "split": Meaning("which split is scored"),
        "test_seed": Meaning("which of the disjoint test sets of the built-in tasks, 0 to 3"),
        "generation": Meaning(
            "how answers are decoded: `greedy`, with every parameter set by peftbench, whatever the base model's "
            "`generation_config` says; or `base`, with the penalties, beams and sampling of that file. Sampled answers "
            "are drawn one by one, each with its own seed. The parameters are stored with each score. Inference cost "
            "is measured with greedy decoding"
        ),
        "inference": Meaning(
            "measure the inference cost of the tuned model in the first trial of each cell; changes no other number"
        ),
        "retention": Meaning(
            "general text on which each trial measures the loss before and after training, see below; `false` for "
            "none. Changes no other number",
            "for `nano` its own text, else none",
        ),
        "deployed": Meaning(
            "forms in which each tuned model is scored once more, as it would be deployed: `adapter` (saved, and "
            "loaded by peft), `merged` (into 16-bit weights, saved, and loaded by transformers), `merged_dequantized` "
            "(into the dequantized weights), `requantized` (merged, then quantized again) and `as_lora_8` (or another "
            "rank: converted to a plain LoRA). With `vllm_` before its name, a form is scored by vllm: "
            "`vllm_adapter`, `vllm_merged`, `vllm_merged_dequantized`, `vllm_as_lora_8`. Changes no other number",
            "none",
        ),
        "engine": Meaning(
            "another engine that scores each tuned model too: `vllm` stands for the forms `vllm_adapter` and "
            "`vllm_merged` of `deployed`. The environment variable `PEFTBENCH_VLLM_PYTHON` names the Python that has "
            "it ([how](engines.md)). Changes no other number",
            "none",
        ),
    }
)

RETENTION: Mapping[str, Meaning] = MappingProxyType(
    {
        "file": Meaning("plain text, or records as CSV, TSV, JSON, JSONL or Parquet; either this or `dataset`"),
        "dataset": Meaning("Hugging Face dataset: a hub id, or a local folder"),
        "config": Meaning("configuration of the dataset"),
        "revision": Meaning("branch, tag or commit of the dataset"),
        "split": Meaning("split of the dataset"),
        "field": Meaning("for records: the field with the text"),
        "encoding": Meaning("as for a task"),
        "delimiter": Meaning("as for a task"),
        "quoting": Meaning("as for a task"),
        "separator": Meaning("for plain text: what separates two texts", "an empty line"),
        "limit": Meaning("largest number of texts, a seeded draw; null for all"),
    }
)

SEARCH: Mapping[str, Meaning] = MappingProxyType(
    {
        "seeds": Meaning("trials of each candidate; their seeds are not used by the grid"),
        "share": Meaning("share of the grid's steps, epochs, tokens or seconds that a candidate trains for"),
    }
)

DEVICES: Mapping[str, Meaning] = MappingProxyType(
    {
        "strategy": Meaning("how the work is divided: [several devices](several_devices.md) has what each divides"),
        "count": Meaning("number of devices; each has a process with `threads` CPU threads"),
        "offload": Meaning("`cpu`: a device's part is in the host's memory until it is needed"),
    }
)
TIMEOUTS: Mapping[str, Meaning] = MappingProxyType(
    {"total": Meaning("the whole trial, from requesting its process")}
    | {str(phase): Meaning(f"what the column `{phase.column}` measures") for phase in Phase}
)

MATCH: Mapping[str, Meaning] = MappingProxyType(
    {"trainable_parameters": Meaning("a number of parameters, or a mapping of `method` and `rank` that gives it")}
)

MEASURE: Mapping[str, Meaning] = MappingProxyType(
    {"method": Meaning("method whose number of trainable parameters is the target"), "rank": Meaning("its rank")}
)

DATA = Meaning("mapping of the tasks to train on to their weights", "every task with a train split")
"""``train.data``, which is no training setting: it cannot stand in a method's block."""

WATCH: Mapping[str, Meaning] = MappingProxyType(
    {
        "judge": Meaning(
            "which kinds of numbers are judged; `status` are trials that no longer end ok, `size` the checkpoint, the "
            "loaded weights and the trainable parameters",
            "all",
        ),
        "speed_percent": Meaning("least change of training speed that counts; noise is judged apart from it"),
        "inference_percent": Meaning("the same of inference cost, relative to the bare base model"),
        "memory_percent": Meaning("growth of a memory peak that is tolerated"),
        "size_percent": Meaning("growth of a checkpoint, or of the loaded weights, that is tolerated"),
        "score_points": Meaning("fall of a score that is tolerated, in points; a larger one must be beyond noise"),
        "retention_percent": Meaning("rise of the loss on general text that is tolerated; more must be beyond noise"),
        "merge_factor": Meaning("factor by which the rounding error of merging may grow"),
        "machine_percent": Meaning(
            "standard deviation of the change of the machine's own speed between two nights, where trials measured "
            "neither the reference step nor its matrix product"
        ),
    }
)
