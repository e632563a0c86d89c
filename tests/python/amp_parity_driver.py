# SPDX-License-Identifier: BSD-3-Clause
"""Compares gradient scaling, clipping and averages of weights with PyTorch's own, bit by bit. Python computes first and writes
what it was given and what came out; the C++ program computes the same from the same input; what it writes must be equal.

    amp_parity_driver.py WHEELS COMMAND ...     WHEELS: the folder with the package safetensors

Exit status: that of the command; 1 where the sides differ; 77 (skipped) where torch or safetensors is missing.
"""

import os
import subprocess
import sys
import tempfile

SKIPPED = 77
STEPS = 10000
BASES = 16
UPDATES = 12
# name: options of the scaler, whether to clip, of 1000 steps how many overflow. The C++ program has the same.
SCALERS = {
    "clipped": (dict(init_scale=65536.0, growth_interval=50), True, 15),
    "high": (dict(init_scale=2.0**120, growth_factor=1.7, backoff_factor=0.3, growth_interval=7), False, 20),
}
NORMS = {"one": 1.0, "two": 2.0, "three": 3.0, "half": 0.5, "inf": float("inf")}
AVERAGES = ("ema", "ema_buffers", "swa", "swa_buffers", "swa_multi")


def import_or_skip(wheels):
    sys.path[:0] = [wheels]
    try:
        import safetensors.torch
        import torch

        return torch, safetensors.torch
    except Exception as error:  # a torch without its dependencies fails in many ways, not by ImportError alone
        print(f"skipped: this Python has no torch or no safetensors: {error}")
        sys.exit(SKIPPED)


def trace_of_scaler(torch, given, name):
    options, clips, _ = SCALERS[name]
    scaler = torch.amp.GradScaler("cpu", **options)
    first, second = torch.zeros(5, 3, requires_grad=True), torch.zeros(4, requires_grad=True)
    optimizers = [torch.optim.SGD([first], lr=0.1, momentum=0.9), torch.optim.SGD([second], lr=0.01)]
    overflows = given[f"{name}.overflows"].tolist()
    bases = list(zip(given["first"].unbind(), given["second"].unbind()))
    scales, trackers, values = [], [], []
    for step in range(STEPS):
        of_first, of_second = bases[step % BASES]
        first.grad = second.grad = None
        scaler.scale((first * of_first).sum() + (second * of_second).sum()).backward()
        if overflows[step] == 1:
            first.grad[0, 0] = float("inf")
        if overflows[step] == 2:
            second.grad[1] = float("nan")
        if clips:
            scaler.unscale_(optimizers[0])
            torch.nn.utils.clip_grad_norm_([first], 0.5)
        for optimizer in optimizers:
            scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        trackers.append(scaler._get_growth_tracker())
        values.append(first.detach()[0, 0].item() + second.detach()[1].item())
    return {
        f"{name}.scales": torch.tensor(scales, dtype=torch.float64),
        f"{name}.trackers": torch.tensor(trackers),
        f"{name}.values": torch.tensor(values, dtype=torch.float64),
        f"{name}.first": first.detach(),
        f"{name}.second": second.detach(),
    }, scaler


def clipped(torch, given):
    found = {}
    gradients = {name: tensor for name, tensor in given.items() if name.startswith("clip.")}
    for dtype in ("float32", "float64", "bfloat16"):
        names = sorted(name for name in gradients if name.startswith(f"clip.{dtype}."))
        for norm_name, norm in NORMS.items():
            for bound_name, bound in (("low", 0.1), ("high", 1e6)):
                parameters = [torch.zeros_like(gradients[name], requires_grad=True) for name in names]
                for parameter, name in zip(parameters, names):
                    parameter.grad = gradients[name].clone()
                key = f"{dtype}.{norm_name}.{bound_name}"
                found[f"{key}.norm"] = torch.nn.utils.clip_grad_norm_(parameters, bound, norm)
                found.update({f"{key}.{i}": parameter.grad.clone() for i, parameter in enumerate(parameters)})
                torch.nn.utils.clip_grad_value_(parameters, 0.05)
                found.update({f"{key}.value.{i}": parameter.grad.clone() for i, parameter in enumerate(parameters)})
    return found


def make_model(torch):
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))


def averaged(torch, given, kind):
    from torch.optim import swa_utils

    model = make_model(torch)
    options = {
        "ema": dict(multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)),
        "ema_buffers": dict(multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True),
        "swa": {},
        "swa_buffers": dict(use_buffers=True),
        "swa_multi": dict(multi_avg_fn=swa_utils.get_swa_multi_avg_fn()),
    }[kind]
    average = swa_utils.AveragedModel(model, **options)
    for update in range(UPDATES):
        model.load_state_dict({name: given[f"model.{update}.{name}"] for name in model.state_dict()})
        average.update_parameters(model)
    return average


def statistics_of_batches(torch, given):
    model = make_model(torch)
    model.load_state_dict({name: given[f"model.0.{name}"] for name in model.state_dict()})
    torch.optim.swa_utils.update_bn([given[f"batch.{i}"] for i in range(5)], model)
    return {f"bn.{name}": tensor for name, tensor in model.state_dict().items()}


def make_input(torch):
    torch.manual_seed(11)
    given = {"first": torch.randn(BASES, 5, 3), "second": torch.randn(BASES, 4)}
    for name, (_, _, of_thousand) in SCALERS.items():
        draws = torch.rand(STEPS)
        given[f"{name}.overflows"] = (draws < of_thousand / 1000).long() + (draws < of_thousand / 2000).long()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for i, shape in enumerate([(3, 5), (7,), (), (2, 3, 4), (1000,)]):
            given[f"clip.{str(dtype)[6:]}.{i}"] = torch.randn(shape).to(dtype)
    for update in range(UPDATES):
        for name, tensor in make_model(torch).state_dict().items():
            value = torch.randn(tensor.shape).abs() if tensor.is_floating_point() else torch.tensor(7 * update)
            given[f"model.{update}.{name}"] = value
    given.update({f"batch.{i}": torch.randn(4 + i, 3) for i in range(5)})
    return given


def compute(torch, given):
    found, scalers = {}, {}
    for name in SCALERS:
        trace, scalers[name] = trace_of_scaler(torch, given, name)
        found.update(trace)
    found.update(clipped(torch, given))
    for kind in AVERAGES:
        found.update({f"{kind}.{name}": tensor for name, tensor in averaged(torch, given, kind).state_dict().items()})
    found.update(statistics_of_batches(torch, given))
    return found, scalers


def have_same_bits(torch, left, right):
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8))


def differences(torch, safetensors, folder, given, found, scalers):
    cpp = safetensors.load_file(os.path.join(folder, "cpp.safetensors"))
    for name, tensor in found.items():
        if name not in cpp:
            yield f"C++ wrote no '{name}'"
        elif not have_same_bits(torch, tensor.detach(), cpp.pop(name)):
            yield f"'{name}' differs"
    for name, scaler in scalers.items():
        state = safetensors.load_file(os.path.join(folder, f"{name}.scaler.safetensors"))
        state = {key: value.item() for key, value in state.items()}
        if state != scaler.state_dict():
            yield f"the scaler {name} has the state {state}, Python's has {scaler.state_dict()}"
        scaler.load_state_dict(state)
    average = averaged(torch, given, "ema")
    average.load_state_dict(safetensors.load_file(os.path.join(folder, "ema.safetensors")))


def main():
    torch, safetensors = import_or_skip(sys.argv[1])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        given = make_input(torch)
        safetensors.save_file(given, os.path.join(folder, "given.safetensors"))
        found, scalers = compute(torch, given)
        status = subprocess.run(sys.argv[2:], env=dict(os.environ, LOCKSTEP_PARITY_FOLDER=folder)).returncode
        if status:
            return status
        wrong = list(differences(torch, safetensors, folder, given, found, scalers))
        skipped = sum(1 for name in SCALERS for scale in found[f"{name}.trackers"] if scale == 0)
        print(f"{len(found)} tensors compared; {skipped} steps were skipped or let the scale grow")
        print("\n".join(wrong) or "all in order")
        return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
