# SPDX-License-Identifier: BSD-3-Clause
"""Lets Python and a C++ program go on with each other's training: three steps on one side, three on the other, with the state
of the optimizer handed over in a file. Each side must arrive where the same optimizer arrives alone.

    optimizer_parity_driver.py WHEELS COMMAND ...     WHEELS: the folder with the package safetensors

Exit status: that of the command; 1 where the sides differ; 77 (skipped) where torch or safetensors is missing.
"""

import os
import subprocess
import sys
import tempfile

SKIPPED = 77
STEPS = 3
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# name: (class, options). The C++ program has the same.
OPTIMIZERS = {
    "sgd": ("SGD", dict(lr=0.1)),
    "sgd_momentum": ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=1e-3)),
    "sgd_nesterov": ("SGD", dict(lr=0.1, momentum=0.9, nesterov=True)),
    "adam": ("Adam", dict(lr=0.01, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.01)),
    "adam_amsgrad": ("Adam", dict(lr=0.01, amsgrad=True)),
    "adamw": ("AdamW", dict(lr=0.01, weight_decay=0.1)),
    "rmsprop": ("RMSprop", dict(lr=0.01)),
    "rmsprop_centered": ("RMSprop", dict(lr=0.01, momentum=0.5, centered=True, alpha=0.9)),
    "adagrad": ("Adagrad", dict(lr=0.1, lr_decay=0.01, initial_accumulator_value=0.1)),
    "lbfgs": ("LBFGS", dict(lr=0.1, max_iter=4, history_size=3)),
}
# C++ orders the same operations of these in another way; the others have the same bits.
TOLERANCE = {"adam": 1e-7, "adam_amsgrad": 1e-7, "adamw": 1e-7, "rmsprop_centered": 1e-8}


def import_or_skip(wheels):
    sys.path[:0] = [wheels, os.path.join(ROOT, "tools")]
    try:
        import safetensors.torch
        import torch

        return torch, safetensors.torch
    except Exception as error:  # a torch without its dependencies fails in many ways, not by ImportError alone
        print(f"skipped: this Python has no torch or no safetensors: {error}")
        sys.exit(SKIPPED)


def make_model(torch):
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def make_optimizer(torch, model, name):
    kind, options = OPTIMIZERS[name]
    return getattr(torch.optim, kind)(model.parameters(), **options)


def train(torch, model, optimizer, first):
    """As `train` of the C++ program."""
    for step in range(first, first + STEPS):
        data = torch.arange(20, dtype=torch.float32).reshape(5, 4).mul(0.1).add(0.01 * step).sin()

        def closure():
            optimizer.zero_grad()
            loss = model(data).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def write_starts(torch, safetensors, folder):
    from optimizer_state import save_optimizer

    torch.manual_seed(3)
    for name in OPTIMIZERS:
        model = make_model(torch)
        optimizer = make_optimizer(torch, model, name)
        path = os.path.join(folder, name)
        safetensors.save_model(model, f"{path}.start.safetensors")
        train(torch, model, optimizer, 0)
        safetensors.save_model(model, f"{path}.middle.safetensors")
        save_optimizer(optimizer, model, f"{path}.optimizer.safetensors")
        train(torch, model, optimizer, STEPS)
        safetensors.save_model(model, f"{path}.end.safetensors")


def difference(torch, safetensors, a, b):
    left, right = safetensors.load_file(a), safetensors.load_file(b)
    if left.keys() != right.keys():
        return float("inf")
    return max(float((left[name].double() - right[name].double()).abs().max()) for name in left)


def differences(torch, safetensors, folder):
    """Three comparisons: C++ goes on for Python; Python goes on for C++; what C++ does alone."""
    from optimizer_state import load_optimizer

    for name in OPTIMIZERS:
        path = os.path.join(folder, name)
        model = make_model(torch)
        optimizer = make_optimizer(torch, model, name)
        safetensors.load_model(model, f"{path}.cpp_middle.safetensors")
        load_optimizer(optimizer, model, f"{path}.cpp_optimizer.safetensors")
        train(torch, model, optimizer, STEPS)
        safetensors.save_model(model, f"{path}.python_end.safetensors")
        for a, b in (("after_python", "end"), ("python_end", "end"), ("cpp_end", "end")):
            found = difference(torch, safetensors, f"{path}.{a}.safetensors", f"{path}.{b}.safetensors")
            print(f"{name}: {a} differs from {b} by at most {found:.3g}")
            if not found <= TOLERANCE.get(name, 0):
                yield f"{name}: {a} differs from {b} by {found}"


def main():
    torch, safetensors = import_or_skip(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        write_starts(torch, safetensors, folder)
        status = subprocess.run(sys.argv[2:], env=dict(os.environ, LOCKSTEP_PARITY_FOLDER=folder)).returncode
        if status:
            return status
        found = list(differences(torch, safetensors, folder))
        print("\n".join(found) or "all in order")
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
