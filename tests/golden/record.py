#!/usr/bin/env python3
"""Writes the recordings of replay/: official optimizers that train a small network.

Run by hand, in the virtual environment of generate.py:

    venv/bin/python record.py [OUTPUT_FOLDER]

Each file is what `examples/replay.rs` reads, written by the `Recorder` of its documentation: the
initial parameters, the gradients of every step, and the parameters after each step.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from came_pytorch import CAME
from generate import sort_header
from pytorch_optimizer import SM3
from safetensors.torch import save_file
from torch import nn
from torch.optim import SGD, Adafactor, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from transformers.optimization import Adafactor as HfAdafactor

SEED = 1804_04235
STEPS = 20
BATCH = 32
CLASSES = 5


# --8<-- The recorder, as it stands in the documentation of examples/replay.rs.
class Recorder:
    def __init__(self, model, optimizer):
        self.params, self.optimizer, self.t = dict(model.named_parameters()), optimizer, 0
        self.tensors = {f"param/{n}": p.detach().clone() for n, p in self.params.items()}
        self.settings = []  # of each step: schedulers change them

    def step(self):  # in place of optimizer.step()
        group = self.optimizer.param_groups[0].items()
        settings = {k: v for k, v in group if k not in ("params", "param_names")}
        self.settings.append(json.dumps(settings, default=float))
        self.keep("grad", {n: p.grad for n, p in self.params.items() if p.grad is not None})
        self.optimizer.step()
        self.keep("expected", self.params)
        self.t += 1

    def keep(self, what, tensors):
        self.tensors |= {f"{what}/{self.t}/{n}": x.detach().clone() for n, x in tensors.items()}

    def save(self, path):
        kind = type(self.optimizer)
        metadata = {
            "optimizer": f"{kind.__module__}.{kind.__qualname__}",
            "settings": f"[{', '.join(self.settings)}]",
            "steps": str(self.t),
        }
        save_file({n: x.contiguous() for n, x in self.tensors.items()}, path, metadata)
# --8<--


class Convolutional(nn.Module):
    """A tensor of each rank: 4 (convolution), 2, 1 and 0. The last is used at odd steps only."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, stride=3, bias=False)
        self.linear = nn.Linear(12, CLASSES)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x, t):
        x = self.linear(torch.tanh(self.conv(x)).flatten(1))
        return x * self.scale if t % 2 else x


class Perceptron(nn.Module):
    """Matrices and vectors alone: the official SM3 has other accumulators from rank 3 on."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(8, 7)
        self.linear = nn.Linear(7, CLASSES)

    def forward(self, x, t):
        return self.linear(torch.relu(self.hidden(x.flatten(1)[:, :8])))


# file: (model, optimizer, keyword arguments)
RECORDINGS = {
    "came": (Convolutional, CAME, {"lr": 2e-3, "weight_decay": 1e-2}),
    "sgd": (Convolutional, SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (Convolutional, Adam, {"lr": 1e-2, "amsgrad": True, "weight_decay": 1e-3}),
    "adamw": (Convolutional, AdamW, {"lr": 1e-2, "betas": (0.9, 0.99)}),
    "adamw_onecycle": (Perceptron, AdamW, {"lr": 1e-2}),
    "adafactor_torch": (Convolutional, Adafactor, {"lr": 5e-2, "weight_decay": 1e-2}),
    "adafactor_hf": (
        Convolutional,
        HfAdafactor,
        {"lr": 0.1, "beta1": 0.9, "weight_decay": 1e-2, "relative_step": False},
    ),
    "sm3": (Perceptron, SM3, {"lr": 0.05, "momentum": 0.9}),
}

# The rate of the first falls from step to step; the second changes the first beta too.
SCHEDULERS = {
    "adamw": lambda optimizer: LambdaLR(optimizer, lambda t: 1 / (1 + 0.1 * t)),
    "adamw_onecycle": lambda optimizer: OneCycleLR(optimizer, max_lr=2e-2, total_steps=STEPS + 1),
}


def batches():
    """Images of noise, each with the pattern of its class added: something to learn."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    patterns = rng.standard_normal((CLASSES, 2, 6, 6))
    for _ in range(STEPS):
        labels = rng.integers(CLASSES, size=BATCH)
        images = patterns[labels] + rng.standard_normal((BATCH, 2, 6, 6))
        yield torch.tensor(images, dtype=torch.float32), torch.tensor(labels)


def record(path, kind, optimizer_class, settings):
    """Trains, and returns the recorder and the loss of each step."""
    torch.manual_seed(SEED)
    model = kind()
    optimizer = optimizer_class(model.parameters(), **settings)
    recorder = Recorder(model, optimizer)
    scheduler = SCHEDULERS[path.stem](optimizer) if path.stem in SCHEDULERS else None
    losses = []
    for t, (images, labels) in enumerate(batches()):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images, t), labels)
        loss.backward()
        recorder.step()
        if scheduler:
            scheduler.step()
        losses.append(loss.item())
    recorder.save(path)
    return losses


def main():
    here = Path(__file__).resolve().parent
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "replay"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    total = 0
    for name, recording in RECORDINGS.items():
        path = folder / f"{name}.safetensors"
        losses = record(path, *recording)
        sort_header(path)
        total += path.stat().st_size
        print(f"{name:16} {path.stat().st_size:7} bytes, loss {losses[0]:.3f} to {losses[-1]:.3f}")
        assert losses[-1] < 0.9 * losses[0], "it does not learn"
    print(f"{len(RECORDINGS)} files, {total} bytes")


if __name__ == "__main__":
    main()
