# SPDX-License-Identifier: BSD-3-Clause
"""Compares lockstep::optim's optimizers with Python's, bit for bit: 100 steps of each option set on both sides, and 50 steps on
one side and 50 on the other, with the state of the optimizer handed over in a file. LAMB and LARS, which Python has not, are
compared with short references in this file.

    optim_parity_driver.py WHEELS COMMAND ...     WHEELS: the folder with the package safetensors

Exit status: that of the command; 1 where the sides differ; 77 (skipped) where torch or safetensors is missing.
"""

import math
import os
import subprocess
import sys
import tempfile

from optimizer_parity_driver import import_or_skip

STEPS = 100
MIDDLE = 50
SHAPES = [(70001,), (3, 5), (64, 33), (), (8, 4, 3, 3), (129,)]
MATRICES = [(24, 17), (9, 40), (33, 33), (8, 8)]
FUSED = dict(fused=True)
# name: (class, options). The C++ program has the same.
OPTION_SETS = {
    "sgd": ("SGD", dict(lr=0.1, **FUSED)),
    "sgd_momentum": ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.1, weight_decay=1e-2, **FUSED)),
    "sgd_nesterov": ("SGD", dict(lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True, **FUSED)),
    "sgd_maximize": ("SGD", dict(lr=0.1, momentum=0.5, weight_decay=1e-2, maximize=True, **FUSED)),
    "sgd_loop": ("SGD", dict(lr=0.1, momentum=0.9, dampening=0.1)),
    "sgd_loop_nesterov": ("SGD", dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-2, maximize=True)),
    "adam": ("Adam", dict(FUSED)),
    "adam_decay": ("Adam", dict(lr=0.01, betas=(0.8, 0.99), eps=1e-7, weight_decay=0.01, **FUSED)),
    "adam_amsgrad": ("Adam", dict(lr=0.01, amsgrad=True, maximize=True, **FUSED)),
    "adam_loop": ("Adam", dict(lr=0.01, amsgrad=True, weight_decay=0.01, maximize=True)),
    "adamw": ("AdamW", dict(FUSED)),
    "adamw_amsgrad": ("AdamW", dict(lr=0.01, weight_decay=0.1, amsgrad=True, **FUSED)),
    "adamw_loop": ("AdamW", dict(lr=0.01, weight_decay=0.1)),
    "adamw_groups": ("AdamW", dict(lr=2e-3, eps=1e-7, **FUSED)),
    "adamw_double": ("AdamW", dict(lr=0.01, **FUSED)),
    "adamw_bfloat16": ("AdamW", dict(lr=0.01, **FUSED)),
    "sgd_half": ("SGD", dict(lr=0.01, momentum=0.9, **FUSED)),
    "rmsprop": ("RMSprop", dict()),
    "rmsprop_centered": ("RMSprop", dict(lr=0.01, momentum=0.5, centered=True, alpha=0.9)),
    "rmsprop_decay": ("RMSprop", dict(lr=0.01, weight_decay=0.1, maximize=True, foreach=True)),
    "adagrad": ("Adagrad", dict(FUSED)),
    "adagrad_decay": (
        "Adagrad",
        dict(lr=0.1, lr_decay=0.01, weight_decay=0.01, initial_accumulator_value=0.1, maximize=True, **FUSED),
    ),
    "adagrad_loop": ("Adagrad", dict(lr=0.1, lr_decay=0.01, weight_decay=0.01)),
    "lamb": ("LAMB", dict(lr=0.01)),
    "lamb_no_decay": ("LAMB", dict(lr=0.01, weight_decay=0, max_grad_norm=None)),
    "lamb_clipped": (
        "LAMB",
        dict(lr=0.01, weight_decay=0, always_adapt=True, trust_clip=True, bias_correction=False, grad_averaging=False, max_grad_norm=0.5),
    ),
    "lars": ("LARS", dict(lr=0.5)),
    "lars_momentum": ("LARS", dict(lr=0.5, momentum=0.9, weight_decay=1e-2)),
    "lars_clipped": ("LARS", dict(lr=0.01, momentum=0.9, nesterov=True, trust_coeff=0.02, trust_clip=True)),
    "muon": ("Muon", dict()),
    "muon_plain": ("Muon", dict(lr=0.02, nesterov=False, momentum=0.8, weight_decay=0)),
    "muon_adamw_rate": ("Muon", dict(lr=0.02, adjust_lr_fn="match_rms_adamw", ns_steps=3, ns_coefficients=(3.0, -4.0, 2.0))),
}
# What is computed in float32 for parameters of a shorter type.
SHORTER = {"adamw_bfloat16": "bfloat16", "sgd_half": "float16"}


def make_references(torch):
    """LAMB and LARS as their papers have them, with the options of timm's."""

    def norm_of(tensors):
        return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))

    def trust(ratio, *norms):
        return ratio if all(float(norm) > 0 for norm in norms) else torch.ones_like(ratio)

    class LAMB(torch.optim.Optimizer):
        def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, bias_correction=True, grad_averaging=True,
                     max_grad_norm=1.0, trust_clip=False, always_adapt=False):  # fmt: skip
            super().__init__(params, {key: value for key, value in locals().items() if key not in ("self", "params", "__class__")})

        @torch.no_grad()
        def step(self):
            with_gradient = [(g, p) for g in self.param_groups for p in g["params"] if p.grad is not None]
            norm = norm_of([p.grad for _, p in with_gradient])
            for g, p in with_gradient:
                state = self.state[p]
                if not state:
                    state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
                state["step"] += 1
                t, (b1, b2) = float(state["step"]), g["betas"]
                gradient = p.grad if g["max_grad_norm"] is None else p.grad / (norm / g["max_grad_norm"]).clamp(min=1.0)
                m = state["exp_avg"].mul_(b1).add_(gradient, alpha=1 - b1 if g["grad_averaging"] else 1.0)
                v = state["exp_avg_sq"].mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
                c1, c2 = (1 - b1**t, 1 - b2**t) if g["bias_correction"] else (1.0, 1.0)
                update = (m / c1) / (v.sqrt() / math.sqrt(c2) + g["eps"])
                update = update.add(p, alpha=g["weight_decay"])
                if g["weight_decay"] != 0 or g["always_adapt"]:
                    w, u = torch.linalg.vector_norm(p), torch.linalg.vector_norm(update)
                    ratio = trust(w / u, w, u)
                    update = update * (ratio.clamp(max=1.0) if g["trust_clip"] else ratio)
                p.add_(update, alpha=-g["lr"])

    class LARS(torch.optim.Optimizer):
        def __init__(self, params, lr=1.0, momentum=0, dampening=0, weight_decay=0, nesterov=False, trust_coeff=1e-3, eps=1e-8,
                     trust_clip=False):  # fmt: skip
            super().__init__(params, {key: value for key, value in locals().items() if key not in ("self", "params", "__class__")})

        @torch.no_grad()
        def step(self):
            for g, p in [(g, p) for g in self.param_groups for p in g["params"] if p.grad is not None]:
                gradient = p.grad.add(p, alpha=g["weight_decay"])
                if p.dim() > 1:
                    w, n = torch.linalg.vector_norm(p), torch.linalg.vector_norm(p.grad)
                    ratio = trust(g["trust_coeff"] * w / (w * g["weight_decay"] + n + g["eps"]), w, n)
                    gradient = gradient * ((ratio / g["lr"]).clamp(max=1.0) if g["trust_clip"] else ratio)
                if g["momentum"]:
                    state = self.state[p]
                    if "momentum_buffer" in state:
                        state["momentum_buffer"].mul_(g["momentum"]).add_(gradient, alpha=1 - g["dampening"])
                    else:
                        state["momentum_buffer"] = gradient.clone()
                    buffer = state["momentum_buffer"]
                    gradient = gradient.add(buffer, alpha=g["momentum"]) if g["nesterov"] else buffer
                p.add_(gradient, alpha=-g["lr"])

    return {"LAMB": LAMB, "LARS": LARS}


def make_net(torch, name):
    """As `ManyShapes` of the C++ program; what is computed in float32 begins with the values of the shorter type."""
    net = torch.nn.Module()
    kind = OPTION_SETS[name][0]
    for number, shape in enumerate(MATRICES if kind == "Muon" else SHAPES):
        value = torch.arange(math.prod(shape), dtype=torch.float64).mul(0.11).add(float(number)).cos().reshape(shape)
        value = value.to(getattr(torch, SHORTER.get(name, "float32"))).float() if name != "adamw_double" else value
        net.register_parameter(f"p{number}", torch.nn.Parameter(value))
    return net


def make_optimizer(torch, net, name):
    kind, options = OPTION_SETS[name]
    parameters = list(net.parameters())
    if name == "adamw_groups":
        parameters = [
            dict(params=[p for p in parameters if p.dim() > 1], weight_decay=0.2),
            dict(params=[p for p in parameters if p.dim() <= 1], weight_decay=0),
        ]
    return {**vars(torch.optim), **make_references(torch)}[kind](parameters, **options)


def train(torch, net, optimizer, name, first, last):
    """As `train` of the C++ program."""
    kind, options = OPTION_SETS[name]
    starts_late = kind != "SGD" or not options.get("fused")
    for step in range(first, last):
        for number, parameter in enumerate(net.parameters()):
            if (number == 2 and step % 7 == 3) or (number == 1 and starts_late and step < 5):
                parameter.grad = None
                continue
            gradient = torch.arange(parameter.numel(), dtype=torch.float64).mul(0.37).add(0.1 * step + float(number)).sin()
            gradient = gradient.reshape(parameter.shape).to(getattr(torch, SHORTER.get(name, "float64")))
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.99


def save(torch, safetensors, net, name, path):
    tensors = {key: value.to(getattr(torch, SHORTER[name])) if name in SHORTER else value for key, value in net.state_dict().items()}
    safetensors.save_file(tensors, path)


def run_python(torch, safetensors, folder):
    from optimizer_state import save_optimizer

    for name in OPTION_SETS:
        path = os.path.join(folder, name)
        net = make_net(torch, name)
        optimizer = make_optimizer(torch, net, name)
        train(torch, net, optimizer, name, 0, MIDDLE)
        save(torch, safetensors, net, name, f"{path}.middle.safetensors")
        save_optimizer(optimizer, net, f"{path}.optimizer.safetensors")
        train(torch, net, optimizer, name, MIDDLE, STEPS)
        save(torch, safetensors, net, name, f"{path}.end.safetensors")


def different(torch, safetensors, a, b):
    """How many elements do not have the same bits."""
    left, right = safetensors.load_file(a), safetensors.load_file(b)
    if left.keys() != right.keys() or any(left[name].dtype != right[name].dtype for name in left):
        return math.inf
    return sum(int((left[name] != right[name]).sum()) for name in left)


def differences(torch, safetensors, folder):
    """Four comparisons: C++ alone, C++ from its own file; C++ goes on for Python; Python goes on for C++."""
    from optimizer_state import load_optimizer

    for name in OPTION_SETS:
        path = os.path.join(folder, name)
        sides = ["cpp_end", "cpp_resumed"]
        if name not in SHORTER:
            net = make_net(torch, name)
            optimizer = make_optimizer(torch, net, name)
            safetensors.load_model(net, f"{path}.cpp_middle.safetensors")
            load_optimizer(optimizer, net, f"{path}.cpp_optimizer.safetensors")
            train(torch, net, optimizer, name, MIDDLE, STEPS)
            save(torch, safetensors, net, name, f"{path}.python_end.safetensors")
            sides += ["after_python", "python_end"]
        for side in sides:
            found = different(torch, safetensors, f"{path}.{side}.safetensors", f"{path}.end.safetensors")
            if found:
                yield f"{name}: {side} differs from Python's end in {found} elements"


def main():
    torch, safetensors = import_or_skip(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        run_python(torch, safetensors, folder)
        status = subprocess.run(sys.argv[2:], env=dict(os.environ, LOCKSTEP_PARITY_FOLDER=folder)).returncode
        if status:
            return status
        found = list(differences(torch, safetensors, folder))
        print("\n".join(found) or f"all in order: {len(OPTION_SETS)} option sets, {STEPS} steps")
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
