"""What the machine is, found out before anything is measured: a wrong guess would cost all the minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.measure import device, environment
from peftbench.runner.executor import local
from tools.validation.gpu import grids

Tell = Callable[[str], None]


def describe(path: Path, asked: str, tell: Tell) -> dict[str, Any]:
    """Write what the machine is and what its device does at best, and return it.

    Raises:
        UserError: if there is no CUDA device but one is asked for, or the server that imports the libraries would
            initialize it.
    """
    found: dict[str, Any] = environment.describe()
    tell(f"{found['packages']}, Python {found['python']}, {found['cpu']}, {found['gpus']}")
    if asked == "cuda":
        why = device.why_no_cuda()
        if why:
            raise UserError(f"no GPU: {why}")
    local.load_libraries()
    tell("the libraries are loaded in the server")
    found["device"] = grids.apart(at_best, asked)
    path.write_text(json.dumps(found, indent=1, default=str) + "\n")
    tell(f"{found['device']}")
    return found


def at_best(asked: str) -> dict[str, Any]:
    """Return the device's name, memory, and measured rates: of bf16 products, and of copies within its memory."""
    import time

    import torch

    from peftbench.models.precision import PRECISIONS
    from peftbench.training.flops import matrix_rate

    if asked != "cuda":
        return {"name": "cpu", "matrix_flops_per_second": matrix_rate(PRECISIONS["bf16"], "cpu")}
    forked = torch.cuda._is_in_bad_fork()
    free, total = torch.cuda.mem_get_info()
    one = torch.empty(2**30, dtype=torch.int32, device="cuda")
    other = torch.empty_like(one)
    other.copy_(one)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        other.copy_(one)
    torch.cuda.synchronize()
    copied = 20 * one.nbytes / (time.perf_counter() - start)
    del one, other
    torch.cuda.empty_cache()
    return {
        "name": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "cuda": torch.version.cuda,
        "total_bytes": total,
        "used_by_context_bytes": total - free,
        "server_had_touched_cuda": forked,
        "matrix_flops_per_second": matrix_rate(PRECISIONS["bf16"], "cuda"),
        "copied_bytes_per_second": copied,
        "bitsandbytes": _bitsandbytes(),
        "pages": _pages(),
    }


def _pages() -> bool:
    """Return whether bitsandbytes' paged optimizers, which QLoRA's paper has, work: not every machine pages."""
    try:
        import bitsandbytes
        import torch

        weight = torch.nn.Parameter(torch.ones(400_000, device="cuda"))
        weight.grad = torch.ones_like(weight)
        bitsandbytes.optim.PagedAdamW([weight], lr=1e-3).step()
        torch.cuda.synchronize()
        return bool(weight.isfinite().all())
    except Exception:
        return False


def _bitsandbytes() -> str:
    """Return whether bitsandbytes quantizes and multiplies here; what it prints about itself if it does not."""
    try:
        import bitsandbytes
        import torch

        layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16).cuda()
        layer(torch.ones(2, 64, dtype=torch.bfloat16, device="cuda"))
        eight = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False).cuda()
        eight(torch.ones(2, 64, dtype=torch.float16, device="cuda"))
        torch.cuda.synchronize()
        return f"{bitsandbytes.__version__} works"
    except Exception as error:
        told = subprocess.run([sys.executable, "-m", "bitsandbytes"], capture_output=True, text=True, timeout=60)
        return f"{type(error).__name__}: {error}; {told.stdout[-1500:]} {told.stderr[-500:]}"
