#!/usr/bin/env python3
"""Steps of the official packages beside gradstep's, on the same shapes, taking turns in one run.

    python3 benches/peers.py [--seconds N] [--threads 1|all] [OPTIMIZER ...]

Makes an environment of its own under target/peers (torch is large), builds the benchmark `step` and
talks to it: it takes steps when it is told to and says how long they took, so that neither side pays
for the other's language. Both go over the same memory. All tensors are float32; parameters move,
gradients stay. The least time of all rounds counts.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / "target" / "peers"
REQUIREMENTS = ROOT / "tests" / "golden" / "requirements.txt"


def environment():
    """Continues in the environment, which is made if it is not there."""
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)], check=True)
    if pathlib.Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [str(python), *sys.argv])


environment()

import importlib.metadata  # noqa: E402

import came_pytorch  # noqa: E402
import pytorch_optimizer  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

LR = 1e-3
# (gradstep's name, peer, its optimizer). The settings are those of benches/step/main.rs.
PEERS = [
    ("adamw", "torch", lambda p: torch.optim.AdamW(p, lr=LR, foreach=False, fused=False)),
    ("adamw", "torch foreach", lambda p: torch.optim.AdamW(p, lr=LR, foreach=True)),
    ("adamw", "torch fused", lambda p: torch.optim.AdamW(p, lr=LR, fused=True)),
    ("came", "came-pytorch", lambda p: came_pytorch.CAME(p, lr=LR)),
    ("came", "pytorch_optimizer", lambda p: pytorch_optimizer.CAME(p, lr=LR)),
    ("adafactor-torch", "torch", lambda p: torch.optim.Adafactor(p, lr=LR)),
    (
        "adafactor",
        "transformers",
        lambda p: transformers.optimization.Adafactor(
            p, lr=LR, scale_parameter=False, relative_step=False, warmup_init=False
        ),
    ),
]
SHAPES = ["4096x4096", "gpt2", "200*768x768", "100*768"]


def shapes(name):
    if name == "gpt2":
        block = [[768], [768], [768, 2304], [2304], [768, 768], [768], [768], [768]]
        block += [[768, 3072], [3072], [3072, 768], [768]]
        return [[50257, 768], [1024, 768], *(12 * block), [768], [768]]
    count, _, shape = name.rpartition("*")
    return int(count or 1) * [[int(n) for n in shape.split("x")]]


def build():
    command = ["cargo", "bench", "--bench", "step", "--no-run", "--message-format=json"]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in out.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "step":
            return message["executable"]
    sys.exit("cargo built no benchmark")


class Ours:
    def __init__(self, executable):
        self.process = subprocess.Popen(
            [executable, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def prepare(self, optimizer, shape, threads, file):
        assert self.ask(f"{optimizer} {shape} {threads} {file}") == "ready"

    def steps(self, n):
        return float(self.ask(str(n))) / n


def shared(tensors, file):
    """Parameters with gradients in a file, each from a multiple of 64 bytes on. gradstep maps it, too: what pages
    memory was given makes a tenth of a difference or two, so both go over the same ones."""
    torch.manual_seed(0)
    rooms = [(torch.Size(s).numel() + 15) // 16 * 16 for s in tensors]
    total = 2 * sum(rooms)
    file.truncate(4 * total)
    numbers = torch.from_file(file.name, shared=True, size=total, dtype=torch.float32)
    params, at = [], 0
    for shape, room in zip(tensors, rooms):
        n = torch.Size(shape).numel()
        p = torch.nn.Parameter(numbers[at : at + n].view(shape).copy_(0.01 * torch.rand(shape)))
        p.grad = numbers[at + room : at + room + n].view(shape).copy_(torch.rand(shape) - 0.5)
        params.append(p)
        at += 2 * room
    return params


def measure(ours, make, params, seconds):
    optimizer = make(params)

    def theirs(n):
        start = time.perf_counter()
        for _ in range(n):
            optimizer.step()
        return (time.perf_counter() - start) / n

    theirs(1)
    repeat = max(1, int(0.02 / theirs(1)))
    ours.steps(2)
    repeat_ours = max(1, int(0.02 / ours.steps(1)))
    best = [float("inf"), float("inf")]
    begun, rounds = time.perf_counter(), 0
    while rounds < 5 or time.perf_counter() - begun < seconds:
        best[0] = min(best[0], theirs(repeat))
        best[1] = min(best[1], ours.steps(repeat_ours))
        rounds += 1
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", choices=["1", "all"])
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("optimizers", nargs="*")
    args = parser.parse_args()
    versions = ["torch", "came-pytorch", "transformers", "pytorch_optimizer"]
    print(", ".join(f"{v} {importlib.metadata.version(v)}" for v in versions))
    executable = build()
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores; least times\n")
    print("| optimizer | shape | threads | peer | peer ns/param | gradstep ns/param | peer ÷ gradstep |")
    print("|---|---|---|---|---:|---:|---:|")
    for threads in [args.threads] if args.threads else ["1", "all"]:
        torch.set_num_threads(1 if threads == "1" else cores)
        for shape in [args.shape] if args.shape else SHAPES:
            tensors = shapes(shape)
            n = sum(torch.Size(s).numel() for s in tensors)
            for optimizer, peer, make in PEERS:
                if args.optimizers and optimizer not in args.optimizers:
                    continue
                ours = Ours(executable)
                with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
                    params = shared(tensors, file)
                    ours.prepare(optimizer, shape, threads, file.name)
                    theirs, mine = measure(ours, make, params, args.seconds)
                ours.process.stdin.close()
                ours.process.wait()
                times = f"{theirs * 1e9 / n:.3f} | {mine * 1e9 / n:.3f} | {theirs / mine:.2f}"
                print(f"| {optimizer} | {shape} | {threads} | {peer} | {times} |", flush=True)


if __name__ == "__main__":
    main()
