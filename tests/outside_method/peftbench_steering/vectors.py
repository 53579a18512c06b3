"""A trainable vector added to the output of every decoder layer: h -> h + v, with v of shape (d,), initially zero."""

import json

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peftbench.models.layers import decoder_layers_for


class Steered(nn.Module):
    """A decoder layer with a vector of shape (d,) added to its output of shape (b, t, d)."""

    def __init__(self, layer, width, device):
        super().__init__()
        self.layer = layer
        self.vector = nn.Parameter(torch.zeros(width, device=device))

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:  # the base model reads attributes of its layers, such as the kind of attention
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args, **kwargs):
        out = self.layer(*args, **kwargs)
        if isinstance(out, tuple):
            return (out[0] + self.vector.to(out[0].dtype), *out[1:])
        return out + self.vector.to(out.dtype)


def attach(model, rank, options):
    """Freeze the base model and add a vector to the output of each decoder layer, or of the ``layers`` topmost ones."""
    model.requires_grad_(False)
    every = decoder_layers_for("steering", model)
    depth = len(every)
    layers = depth if options["layers"] is None else min(depth, options["layers"])
    for index in range(depth - layers, depth):
        device = next(every[index].parameters()).device
        every[index] = Steered(every[index], model.config.hidden_size, device)
    model.steered_layers = layers
    return model


def save(model, folder):
    """Write the vectors as safetensors, and their number as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "steering.json").write_text(json.dumps({"layers": model.steered_layers}))
    trained = {name: p.detach().cpu() for name, p in model.named_parameters() if name.endswith(".vector")}
    save_file(trained, folder / "steering.safetensors")


def load(model, folder):
    """Return a freshly loaded base model with the saved vectors attached, frozen, in their saved dtype."""
    attach(model, None, json.loads((folder / "steering.json").read_text()))
    for name, vector in load_file(folder / "steering.safetensors").items():
        parameter = model.get_parameter(name)
        parameter.data = vector.to(parameter.device)
    return model.requires_grad_(False)
