#!/usr/bin/env python3
"""Writes `schedules.json`: learning rates that official schedulers set, step by step.

Run by hand, in the virtual environment of `generate.py`:

    venv/bin/python schedules.py [OUTPUT_FOLDER]

Each case is one scheduler of torch, transformers or optax over STEPS steps. The rate is
read where an optimizer has it at that step: in the parameter group before `step()`. A schedule
of optax is called with the step number, and compared with what an optimizer takes. README.md
describes the file.
"""

import itertools
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ["JAX_ENABLE_X64"] = "1"  # before jax is imported; it computes in float32 otherwise

import jax
import jax.numpy as jnp
import optax
import torch
import transformers.optimization
from torch.optim import lr_scheduler

STEPS = 1000
LR = 0.3  # numbers below 0.1 are longer in text


def torch_rates(make, key="lr"):
    """`make(optimizer)` returns a scheduler; reads `key` before each step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=LR, momentum=0.9)
    scheduler = make(optimizer)
    rates = []
    for t in range(STEPS):
        rates.append(float(optimizer.param_groups[0][key]))
        parameter.grad = torch.zeros(1)
        optimizer.step()
        if t + 1 < STEPS:  # OneCycleLR refuses one step more than it was made for
            scheduler.step()
    return rates


def optax_rates(schedule):
    """The schedule of each step number, after a check that an optimizer takes the same.

    An optimizer counts in int32, whose quotients jax gives in float32 even with x64 enabled; from
    int64 it computes in float64.
    """
    rates = schedule(jnp.arange(STEPS, dtype=jnp.int64))
    assert rates.dtype == jnp.float64 and rates.shape == (STEPS,), rates
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    parameter = jnp.zeros(1, dtype=jnp.float64)
    state = optimizer.init(parameter)
    update = jax.jit(optimizer.update)
    for t, rate in enumerate(rates):
        _, state = update(parameter, state, parameter)
        taken = state.hyperparams["learning_rate"]
        assert abs(taken - rate) <= 1e-6 * rates.max(), (t, taken, rate)
    return rates.tolist()


def torch_case(name, key="lr", **settings):
    return lambda: torch_rates(lambda o: getattr(lr_scheduler, name)(o, **settings), key)


def torch_sequence(milestones, *parts):
    def make(optimizer):
        made = [getattr(lr_scheduler, name)(optimizer, **settings) for name, settings in parts]
        return lr_scheduler.SequentialLR(optimizer, made, milestones)

    return lambda: torch_rates(make)


def hf_case(name, **settings):
    return lambda: torch_rates(lambda o: getattr(transformers.optimization, name)(o, **settings))


def optax_case(name, *settings, **named):
    return lambda: optax_rates(getattr(optax, name)(*settings, **named))


WARM = {"num_warmup_steps": 50, "num_training_steps": 450}
WSD = {"num_warmup_steps": 80, "num_stable_steps": 500, "num_decay_steps": 200}

CASES = {
    "torch_linear": torch_case("LinearLR", start_factor=0.25, end_factor=0.75, total_iters=300),
    "torch_polynomial": torch_case("PolynomialLR", total_iters=500, power=2.5),
    "torch_cosine": torch_case("CosineAnnealingLR", T_max=STEPS - 1, eta_min=0.02),
    "torch_restarts": torch_case("CosineAnnealingWarmRestarts", T_0=70, T_mult=2, eta_min=0.01),
    "torch_restarts_even": torch_case("CosineAnnealingWarmRestarts", T_0=333),
    "torch_one_cycle": torch_case("OneCycleLR", max_lr=2.0, total_steps=STEPS),
    "torch_one_cycle_linear": torch_case(
        "OneCycleLR", max_lr=2.0, total_steps=STEPS, pct_start=0.2503, anneal_strategy="linear"
    ),
    "torch_one_cycle_three": torch_case(
        "OneCycleLR", max_lr=2.0, total_steps=STEPS, pct_start=0.4, div_factor=10.0,
        final_div_factor=100.0, three_phase=True,
    ),
    "torch_one_cycle_momentum": torch_case(
        "OneCycleLR", key="momentum", max_lr=2.0, total_steps=STEPS, pct_start=0.15,
        anneal_strategy="linear", three_phase=True,
    ),
    "torch_step": torch_case("StepLR", step_size=30, gamma=0.7),
    "torch_multi_step": torch_case("MultiStepLR", milestones=[100, 150, 150, 600], gamma=0.1),
    "torch_exponential": torch_case("ExponentialLR", gamma=0.99),
    "torch_warmup": torch_sequence(
        [60],
        ("LinearLR", {"start_factor": 0.1, "total_iters": 60}),
        ("PolynomialLR", {"total_iters": 300, "power": 2.0}),
    ),
    "torch_sequence": torch_sequence(
        [100, 900],
        ("ConstantLR", {"factor": 0.5, "total_iters": 2 * STEPS}),
        ("StepLR", {"step_size": 250, "gamma": 0.5}),
        ("ExponentialLR", {"gamma": 0.95}),
    ),
    "optax_linear": optax_case("linear_schedule", 0.5, 0.05, 200, transition_begin=123),
    "optax_polynomial": optax_case("polynomial_schedule", 0.5, 0.05, 3, 200, transition_begin=40),
    "optax_cosine": optax_case("cosine_decay_schedule", LR, 400, alpha=0.1),
    "optax_exponential": optax_case(
        "exponential_decay", LR, 100, 0.5, transition_begin=20, end_value=LR / 10
    ),
    "optax_staircase": optax_case("exponential_decay", LR, 100, 0.5, staircase=True),
    "optax_warmup_cosine": optax_case(
        "warmup_cosine_decay_schedule", 0.03, LR, 50, 500, end_value=0.003
    ),
    "optax_join": lambda: optax_rates(
        optax.join_schedules(
            [
                optax.linear_schedule(0.0, LR, 64),
                optax.constant_schedule(LR),
                # In float32 and compiled, 1 - 150/150 is below 0: only a whole power of it is a number.
                optax.polynomial_schedule(LR, 0.0, 2, 150),
            ],
            [64, 700],
        )
    ),
    "hf_constant": hf_case("get_constant_schedule_with_warmup", num_warmup_steps=70),
    "hf_linear": hf_case("get_linear_schedule_with_warmup", **WARM),
    "hf_cosine": hf_case(
        "get_cosine_schedule_with_warmup", num_warmup_steps=60, num_training_steps=STEPS - 1
    ),
    "hf_restarts": hf_case(
        "get_cosine_with_hard_restarts_schedule_with_warmup", num_cycles=4, **WARM
    ),
    "hf_polynomial": hf_case(
        "get_polynomial_decay_schedule_with_warmup", lr_end=0.01, power=2.0, **WARM
    ),
    "hf_inverse_sqrt": hf_case("get_inverse_sqrt_schedule", num_warmup_steps=50, timescale=200),
    "hf_wsd_linear": hf_case("get_wsd_schedule", decay_type="linear", **WSD),
    "hf_wsd_cosine": hf_case("get_wsd_schedule", decay_type="cosine", **WSD),
    "hf_wsd_sqrt": hf_case("get_wsd_schedule", decay_type="1-sqrt", **WSD),
    "hf_wsd_floor": hf_case(
        "get_wsd_schedule", decay_type="1-sqrt", min_lr_ratio=0.1, **WSD
    ),
    "hf_wsd_warmup": hf_case(
        "get_wsd_schedule", warmup_type="1-sqrt", decay_type="linear", min_lr_ratio=0.1, **WSD
    ),
    "hf_cosine_from_one": hf_case(
        "get_cosine_with_min_lr_schedule_with_warmup_lr_rate", num_warmup_steps=50,
        num_training_steps=STEPS, min_lr_rate=0.1,
    ),
}


def runs(rates):
    """Equal values in a row as [value, how often]: schedules are often constant."""
    out = []
    for value, group in itertools.groupby(rates):
        length = sum(1 for _ in group)
        out.append(value if length == 1 else [value, length])
    return out


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    torch.set_num_threads(1)
    cases = {}
    for case, rates in CASES.items():
        made = rates()
        assert len(made) == STEPS, case
        cases[case] = runs(made)
        print(f"{case:28} {made[0]:.3e} … {made[-1]:.3e}  {len(cases[case]):4} runs")
    packages = ("torch", "transformers", "optax", "jax", "jaxlib")
    file = {
        "steps": STEPS,
        "packages": {name: version(name) for name in packages},
        "cases": cases,
    }
    # One line for each case. The numbers are Python's `repr`, which is exact.
    lines = ",\n".join(f'"{c}":{json.dumps(v, separators=(",", ":"))}' for c, v in cases.items())
    head = json.dumps({k: v for k, v in file.items() if k != "cases"})
    text = f'{head[:-1]}, "cases": {{\n{lines}\n}}}}\n'
    assert json.loads(text) == file
    path = folder / "schedules.json"
    path.write_text(text)
    print(f"{path.name}: {len(cases)} cases, {len(text)} bytes")


if __name__ == "__main__":
    main()
