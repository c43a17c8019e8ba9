#!/usr/bin/env python3
"""Writes the files of state/: the state of official optimizers, and how they went on from it.

Run by hand, in the virtual environment of generate.py:

    venv/bin/python state.py [OUTPUT_FOLDER]

Each file is what `gradstep::import` reads, written by the `save_state` of its documentation after
BEFORE steps, and for the AFTER steps that followed `grad/<t>/<name>` and `expected/<t>/<name>`, the
parameter after that gradient, t = 0 … AFTER−1.
"""

import json
import sys
from itertools import islice
from pathlib import Path

import torch
from came_pytorch import CAME
from generate import sort_header
from pytorch_optimizer import SM3
from record import SEED, Convolutional, Perceptron, batches
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import SGD, Adafactor, Adam, AdamW
from transformers.optimization import Adafactor as HfAdafactor

BEFORE, AFTER = 7, 6


# As it stands in the documentation of src/import.rs.
def save_state(path, model, optimizer, step):
    names = {p: n for n, p in model.named_parameters()}
    tensors = {f"param/{n}": p.detach() for p, n in names.items()}
    for p, slots in optimizer.state.items():
        for slot, x in slots.items():
            if x is not None:
                tensors[f"state/{names[p]}/{slot}"] = torch.as_tensor(x)
    groups = [g | {"params": [names[p] for p in g["params"]]} for g in optimizer.param_groups]
    kind = type(optimizer)
    metadata = {
        "optimizer": f"{kind.__module__}.{kind.__qualname__}",
        "settings": json.dumps(groups, default=float),
        "step": str(step),
    }
    save_file({k: x.contiguous() for k, x in tensors.items()}, path, metadata)


def two_groups(model):
    """No weight decay for what has less than two dimensions."""
    params = list(model.parameters())
    return [
        {"params": [p for p in params if p.dim() >= 2]},
        {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0},
    ]


# file: (model, parameters, optimizer, keyword arguments)
CASES = {
    "came": (Convolutional, nn.Module.parameters, CAME, {"lr": 2e-3, "weight_decay": 1e-2}),
    "sgd": (
        Convolutional,
        nn.Module.parameters,
        SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.1},
    ),
    "adam": (Convolutional, nn.Module.parameters, Adam, {"lr": 1e-2, "amsgrad": True}),
    "adamw_groups": (Convolutional, two_groups, AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
    "adafactor_torch": (Convolutional, nn.Module.parameters, Adafactor, {"lr": 5e-2}),
    "adafactor_hf": (Convolutional, nn.Module.parameters, HfAdafactor, {"beta1": 0.9}),
    "sm3": (Perceptron, nn.Module.parameters, SM3, {"lr": 0.05, "momentum": 0.9}),
}


def gradients(model, optimizer, images, labels):
    optimizer.zero_grad()
    # At odd steps all tensors have a gradient: they are to be at the same step.
    nn.functional.cross_entropy(model(images, 1), labels).backward()


def make(path, kind, params, optimizer_class, settings):
    torch.manual_seed(SEED)
    model = kind()
    optimizer = optimizer_class(params(model), **settings)
    data = batches()
    for images, labels in islice(data, BEFORE):
        gradients(model, optimizer, images, labels)
        optimizer.step()
    save_state(path, model, optimizer, BEFORE)

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for t, (images, labels) in enumerate(islice(data, AFTER)):
        gradients(model, optimizer, images, labels)
        for name, p in model.named_parameters():
            tensors[f"grad/{t}/{name}"] = p.grad.clone()
        optimizer.step()
        for name, p in model.named_parameters():
            tensors[f"expected/{t}/{name}"] = p.detach().clone()
    save_file(tensors, path, metadata)
    sort_header(path)


def main():
    here = Path(__file__).resolve().parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "state"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    total = 0
    for name, case in CASES.items():
        path = folder / f"{name}.safetensors"
        make(path, *case)
        total += path.stat().st_size
        print(f"{name:16} {path.stat().st_size:7} bytes")
    print(f"{len(CASES)} files, {total} bytes")


if __name__ == "__main__":
    main()
