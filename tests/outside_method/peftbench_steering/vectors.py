"""A trainable vector added to the output of every block: h -> h + v, with v of shape (d,) zero at the start."""

import json

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peftbench.errors import Unsupported


class Steered(nn.Module):
    """A block of the base whose hidden states of shape (b, t, d) are moved by a vector of shape (d,)."""

    def __init__(self, block, width, device):
        super().__init__()
        self.block = block
        self.vector = nn.Parameter(torch.zeros(width, device=device))

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:  # the base asks its blocks what kind of attention they have
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args, **kwargs):
        out = self.block(*args, **kwargs)
        if isinstance(out, tuple):
            return (out[0] + self.vector.to(out[0].dtype), *out[1:])
        return out + self.vector.to(out.dtype)


def attach(model, rank, options):
    """Freeze the base and put a vector behind each of its blocks, or behind the topmost ``layers``."""
    model.requires_grad_(False)
    depth = model.config.num_hidden_layers
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not found:
        raise Unsupported(f"steering: {type(model).__name__} has no list of its {depth} blocks")
    layers = depth if options["layers"] is None else min(depth, options["layers"])
    for place in range(depth - layers, depth):
        device = next(found[0][place].parameters()).device
        found[0][place] = Steered(found[0][place], model.config.hidden_size, device)
    model.steered_layers = layers
    return model


def save(model, folder):
    """Write the vectors as safetensors, and how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "steering.json").write_text(json.dumps({"layers": model.steered_layers}))
    trained = {name: p.detach().cpu() for name, p in model.named_parameters() if name.endswith(".vector")}
    save_file(trained, folder / "steering.safetensors")


def load(model, folder):
    """Return a freshly loaded base with the saved vectors, frozen, in the dtype in which they were saved."""
    attach(model, None, json.loads((folder / "steering.json").read_text()))
    for name, vector in load_file(folder / "steering.safetensors").items():
        parameter = model.get_parameter(name)
        parameter.data = vector.to(parameter.device)
    return model.requires_grad_(False)
