"""What lm-eval writes: a few small tasks of every kind, run by its own command line.

``python -m tests.support.lm_eval_output MODEL FOLDER`` makes ``tests/golden/lm_eval``, with a real model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

WORDS = ("cat", "dog", "sun", "car")
CHOICE = {
    "dataset_path": "json",
    "training_split": "train",
    "test_split": "test",
    "fewshot_split": "train",
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}. It was",
    "doc_to_target": "label",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
FILTERS = {"strict-match": {"regex_pattern": "#### (-?[0-9]+)"}, "loose": {"regex_pattern": "([a-zA-Z]+)"}}


def prepare(folder: Path) -> None:
    """Write the tasks and their data: two choice tasks in a group, one with two filters, and plain text."""
    data, tasks = folder / "data", folder / "tasks"
    for place in (data, tasks):
        place.mkdir(parents=True)
    choices = [{"text": f"Once there was a {WORDS[i % 4]}", "label": i % 3 % 2} for i in range(8)]
    sums = [{"question": f"{i} plus {i}", "answer": str(2 * i)} for i in range(4)]
    texts = [{"page": f"Lily and Tom went to the park. They saw a big {word}."} for word in WORDS]
    for name, rows in (("choice", choices), ("sums", sums), ("texts", texts)):
        (data / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = {split: str(data / "choice.jsonl") for split in ("test", "train")}
    made = {
        "tiny_choice": {**CHOICE, "num_fewshot": 2, "doc_to_choice": ["happy", "sad"], "metadata": {"version": 1.5}},
        "tiny_other": {**CHOICE, "num_fewshot": 0, "doc_to_choice": ["good", "very bad"], "metadata": {"version": 2}},
        "tiny_sums": {
            "dataset_path": "json",
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_target": "{{answer}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            "filter_list": [
                {"name": name, "filter": [{"function": "regex", **how}, {"function": "take_first"}]}
                for name, how in FILTERS.items()
            ],
            "metadata": {"version": 3},
        },
        "tiny_text": {
            "dataset_path": "json",
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{page}}",
            "metric_list": [{"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
            "metadata": {"version": 2},
        },
    }
    for name, task in made.items():
        own = files if "choice" in str(task.get("output_type")) else {"test": str(data / f"{name[5:]}.jsonl")}
        own = {"test": str(data / "texts.jsonl")} if name == "tiny_text" else own
        whole = {"task": name, **task, "dataset_kwargs": {"data_files": own}}
        (tasks / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML too
    group = {"group": "tiny_group", "task": ["tiny_choice", "tiny_other"]}
    group["aggregate_metric_list"] = [{"metric": "acc", "weight_by_size": True}]  # type: ignore[list-item]
    (tasks / "tiny_group.yaml").write_text(json.dumps({**group, "metadata": {"version": 0}}))


def run(folder: Path, model: Path, output: str, *more: str, dtype: str = "float32", tasks: str | None = None) -> None:
    """Evaluate a model on the tasks of a folder; what lm-eval writes is in the folder's ``output``."""
    words = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "4"]
    words += ["--model_args", f"pretrained={model},dtype={dtype}", "--include_path", str(folder / "tasks")]
    words += ["--tasks", tasks or "tiny_group,tiny_sums,tiny_text", "--output_path", str(folder / output), *more]
    cache = {"HF_HOME": str(folder / "hub"), "HF_DATASETS_CACHE": str(folder / "hub" / "datasets")}
    subprocess.run(words, check=True, env=os.environ | cache | {"HF_HUB_OFFLINE": "1"}, capture_output=True)


if __name__ == "__main__":
    place = Path(sys.argv[2])
    prepare(place)
    run(place, Path(sys.argv[1]), "whole", "--log_samples")
    run(place, Path(sys.argv[1]), "whole", "--log_samples", dtype="bfloat16")
    run(place, Path(sys.argv[1]), "scores_alone", "--limit", "3", tasks="tiny_choice,tiny_text")
