#!/usr/bin/env python3
"""Writes the golden trajectories of this folder by running official optimizer code.

Run by hand, in a virtual environment of its own:

    python3 -m venv venv && venv/bin/pip install -r requirements.txt
    venv/bin/python generate.py [OUTPUT_FOLDER]

`inputs.safetensors` holds the initial parameters and the gradients of every step;
each case runs one official optimizer class over them, once with float32 and once
with float64 tensors, and stores the parameters after each step. The gradients are
fixed, they do not depend on the parameters. README.md describes the files.
"""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from came_pytorch import CAME
from pytorch_optimizer import SM3
from safetensors.torch import save_file
from torch.optim import SGD, Adafactor, Adam, AdamW
from transformers.optimization import Adafactor as HfAdafactor

SEED = 230702047
STEPS = 24
F64_STEPS = (0, 1, 2, 5, 11, 23)  # steps whose parameters are also stored in float64
LATE = 10  # "late" rows have a zero gradient for t < LATE
ZERO_STEP = 7  # the step at which the ALL_ZERO tensors get no gradient at all

SHAPES = {
    "scalar": (),
    "one": (1,),
    "vec_5": (5,),
    "vec_37": (37,),
    "mat_3x4": (3, 4),
    "tall_33x3": (33, 3),
    "wide_3x35": (3, 35),
    "row_1x17": (1, 17),
    "col_19x1": (19, 1),
    "mat_17x16": (17, 16),
    "conv_2x3x3x2": (2, 3, 3, 2),
    "batch_3x5x4": (3, 5, 4),
}
# Gradient scale of the k-th tensor of SHAPES at step t: CYCLE[(t + k) % len(CYCLE)].
# QUIET tensors never see a gradient above 1e-4, so that their epsilons matter.
CYCLE = (1.0, 1e-3, 1e2, 1e-9, 10.0, 1e-6, 0.1, 1e-2)
QUIET_CYCLE = (1e-9, 1e-6, 1e-8, 1e-4)
QUIET = ("vec_37", "tall_33x3")
PARAM_SCALE = 0.5
TINY_PARAM = {"one": 2e-4}  # below the 1e-3 floor of Adafactor's parameter scale
ALL_ZERO = ("mat_3x4", "vec_5")
# Index expressions whose gradient is zero in all steps, or until step LATE.
DEAD = {
    "tall_33x3": [np.s_[4, :]],
    "wide_3x35": [np.s_[1, :]],
    "mat_17x16": [np.s_[5, :], np.s_[:, 3]],
    "batch_3x5x4": [np.s_[1, 2, :]],
}
ASLEEP = {
    "tall_33x3": [np.s_[20, :]],
    "wide_3x35": [np.s_[2, :]],
    "mat_17x16": [np.s_[11, :]],
    "batch_3x5x4": [np.s_[2, :, :]],
}

NO_FOREACH = {"foreach": False}
SINGLE = {"foreach": False, "fused": False}  # torch's single-tensor path
NO_REL = {"relative_step": False}

# case: (distribution package, class, keyword arguments)
CASES = {
    "came_default": ("came-pytorch", CAME, {"lr": 1e-3}),
    "came_wd": ("came-pytorch", CAME, {"lr": 1e-2, "weight_decay": 1e-2}),
    "came_betas": (
        "came-pytorch",
        CAME,
        {"lr": 1e-3, "betas": (0.9, 0.95, 0.99), "clip_threshold": 0.5},
    ),
    "torch_sgd_plain": ("torch", SGD, {"lr": 0.05, **SINGLE}),
    "torch_sgd_momentum": (
        "torch",
        SGD,
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-2, **SINGLE},
    ),
    "torch_sgd_nesterov": (
        "torch",
        SGD,
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, **SINGLE},
    ),
    "torch_adam": ("torch", Adam, {"lr": 1e-2, **SINGLE}),
    "torch_adam_l2": ("torch", Adam, {"lr": 1e-2, "weight_decay": 1e-2, **SINGLE}),
    "torch_adam_amsgrad": ("torch", Adam, {"lr": 1e-2, "amsgrad": True, **SINGLE}),
    "torch_adamw": ("torch", AdamW, {"lr": 1e-2, "weight_decay": 1e-2, **SINGLE}),
    "torch_adamw_amsgrad": (
        "torch",
        AdamW,
        {"lr": 1e-2, "weight_decay": 1e-2, "amsgrad": True, **SINGLE},
    ),
    "torch_adafactor_default": ("torch", Adafactor, {**NO_FOREACH}),
    "torch_adafactor_wd": (
        "torch",
        Adafactor,
        {"lr": 1e-2, "weight_decay": 1e-2, "eps": (1e-6, 1e-3), **NO_FOREACH},
    ),
    "hf_adafactor_default": ("transformers", HfAdafactor, {}),
    "hf_adafactor_lr": (
        "transformers",
        HfAdafactor,
        {"lr": 1e-3, "scale_parameter": False, **NO_REL},
    ),
    "hf_adafactor_momentum": (
        "transformers",
        HfAdafactor,
        {"lr": 1e-3, "beta1": 0.9, "weight_decay": 1e-2, "scale_parameter": True, **NO_REL},
    ),
    "hf_adafactor_warmup": ("transformers", HfAdafactor, {"warmup_init": True}),
    "po_sm3": ("pytorch_optimizer", SM3, {"lr": 0.1, **NO_FOREACH}),
    "po_sm3_momentum": (
        "pytorch_optimizer",
        SM3,
        {"lr": 0.01, "momentum": 0.9, **NO_FOREACH},
    ),
}

# None of the classes converts float64 to float32: all run unmodified in float64.
F64_HOW = "unmodified official code, float64 parameters and gradients (the float32 inputs cast)"
F64_NOTES = {
    "torch_adafactor_default": (
        "; eps1=None is finfo(dtype).eps: 2**-23 in the float32 and 2**-52 in the float64 run,"
        " so the two trajectories differ where the clamp acts"
    ),
}


def make_inputs():
    """The initial parameters {name: array} and the gradients [{name: array}], float32."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    params = {}
    for name, shape in SHAPES.items():
        scale = TINY_PARAM.get(name, PARAM_SCALE)
        params[name] = np.asarray(scale * rng.standard_normal(shape), dtype=np.float32)
    params["vec_5"][2] = 0.0

    grads = []
    for t in range(STEPS):
        step = {}
        for k, (name, shape) in enumerate(SHAPES.items()):
            cycle = QUIET_CYCLE if name in QUIET else CYCLE
            scale = cycle[(t + k) % len(cycle)]
            grad = np.asarray(scale * rng.standard_normal(shape), dtype=np.float32)
            zeros = DEAD.get(name, []) + (ASLEEP.get(name, []) if t < LATE else [])
            for index in zeros:
                grad[index] = 0.0
            if t == ZERO_STEP and name in ALL_ZERO:
                grad[...] = 0.0
            step[name] = grad
        grads.append(step)
    return params, grads


def run(optimizer_class, settings, params, grads, dtype):
    """Runs the optimizer; returns the parameters after each step and the optimizer."""
    tensors = {n: torch.nn.Parameter(torch.tensor(p, dtype=dtype)) for n, p in params.items()}
    optimizer = optimizer_class(list(tensors.values()), **settings)
    trajectory = []
    for step in grads:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(step[name], dtype=dtype)
        optimizer.step()
        trajectory.append({n: t.detach().clone() for n, t in tensors.items()})
    state = {n: dict(optimizer.state[t]) for n, t in tensors.items()}
    return trajectory, state, optimizer


def state_tensors(state, dtype):
    """The state as {name/slot: tensor}; numbers such as CAME's `step` become 0-d tensors."""
    out = {}
    for name, slots in state.items():
        for slot, value in slots.items():
            if value is None:  # SGD without momentum
                continue
            if torch.is_tensor(value):
                # A slot of another dtype would mean that the code does not compute in `dtype`.
                # (torch keeps its step counter in float32.)
                assert value.dtype == dtype or slot == "step", (name, slot, value.dtype)
            out[f"{name}/{slot}"] = torch.as_tensor(value, dtype=dtype).detach().clone()
    return out


def make_case(case, params, grads):
    """The tensors and the metadata of one case's file."""
    package, optimizer_class, settings = CASES[case]
    tensors = {}
    trajectory, state, optimizer = run(optimizer_class, settings, params, grads, torch.float32)
    for t, step in enumerate(trajectory):
        tensors.update({f"f32/trajectory/{t}/{n}": p for n, p in step.items()})
    tensors.update({f"f32/state/{k}": v for k, v in state_tensors(state, torch.float32).items()})

    trajectory, state, _ = run(optimizer_class, settings, params, grads, torch.float64)
    state_tensors(state, torch.float64)  # for its check of the dtypes
    for t in F64_STEPS:
        tensors.update({f"f64/trajectory/{t}/{n}": p for n, p in trajectory[t].items()})

    group = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    metadata = {
        "case": case,
        "optimizer": f"{optimizer_class.__module__}.{optimizer_class.__qualname__}",
        "package": f"{package}=={version(package)}",
        "torch": version("torch"),
        "numpy": version("numpy"),
        "settings": json.dumps(settings),
        "settings_with_defaults": json.dumps(group),
        "seed": str(SEED),
        "steps": str(STEPS),
        "f64_how": F64_HOW + F64_NOTES.get(case, ""),
    }
    return tensors, metadata


def write(path, tensors, metadata):
    """Writes one file, after a check for non-finite values, and prints what it is."""
    for name, tensor in tensors.items():
        assert torch.isfinite(tensor).all(), f"{path.name}: {name} is not finite"
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=metadata)
    sort_header(path)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()[:16]
    print(f"{path.name:38} {len(data):8} bytes  {len(tensors):4} tensors  sha256 {digest}")
    return len(data)


def sort_header(path):
    """Rewrites the JSON header with sorted metadata: the library writes it in random order."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    path.chmod(0o644)  # the library creates private files


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    torch.set_num_threads(1)
    params, grads = make_inputs()

    tensors = {f"p0/{n}": torch.tensor(p) for n, p in params.items()}
    for t, step in enumerate(grads):
        tensors.update({f"grad/{t}/{n}": torch.tensor(g) for n, g in step.items()})
    metadata = {
        "package": f"numpy=={version('numpy')}",
        "generator": "numpy PCG64, standard_normal",
        "settings": json.dumps({
            "cycle": CYCLE,
            "quiet_cycle": QUIET_CYCLE,
            "quiet": QUIET,
            "param_scale": PARAM_SCALE,
            "tiny_param": TINY_PARAM,
            "late": LATE,
            "zero_step": ZERO_STEP,
            "all_zero": ALL_ZERO,
        }),
        "seed": str(SEED),
        "steps": str(STEPS),
    }
    total = write(folder / "inputs.safetensors", tensors, metadata)
    for case in CASES:
        total += write(folder / f"{case}.safetensors", *make_case(case, params, grads))
    print(f"{len(CASES) + 1} files, {total} bytes")


if __name__ == "__main__":
    main()
