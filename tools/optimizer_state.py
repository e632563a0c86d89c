#!/usr/bin/env python3
"""Exchanges the state of an optimizer with C++ programs, which call lockstep::training::save_optimizer and load_optimizer.

    from optimizer_state import load_optimizer, save_optimizer
    load_optimizer(optimizer, model, "optimizer.safetensors")    # what a C++ program has written
    save_optimizer(optimizer, model, "optimizer.safetensors")    # for a C++ program

The file is safetensors: a tensor `state.PARAMETER.KEY` for each entry of the optimizer's state, and the options of its groups
as JSON under "param_groups" in the metadata. Needs torch, safetensors and numpy.
"""

import json
import math


def _names(model):
    return {parameter: name for name, parameter in model.named_parameters()}


def _text(value):
    """JSON has no such numbers."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value):
    return float(value) if value in ("inf", "-inf", "nan") else value


def save_optimizer(optimizer, model, path):
    import torch
    from safetensors.torch import save_file

    names = _names(model)
    tensors = {}

    def add(name, value):
        if isinstance(value, (list, tuple)):
            for number, entry in enumerate(value):
                if entry is not None:
                    add(f"{name}.{number}", entry)
        elif isinstance(value, torch.Tensor):
            tensors[name] = value.detach().clone().contiguous()
        elif isinstance(value, int):
            tensors[name] = torch.tensor(value, dtype=torch.int64)
        elif isinstance(value, float):
            tensors[name] = torch.tensor(value, dtype=torch.float64)

    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if key == "al":  # LBFGS makes it anew in each step
                continue
            add(f"state.{names[parameter]}.{key}", value)
    groups = [
        dict({key: _text(value) for key, value in group.items()}, params=[names[parameter] for parameter in group["params"]])
        for group in optimizer.param_groups
    ]
    save_file(tensors, path, {"format": "pt", "param_groups": json.dumps(groups)})


def load_optimizer(optimizer, model, path):
    from safetensors import safe_open

    parameters = dict(model.named_parameters())
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        groups = json.loads(file.metadata()["param_groups"])
    numbers = {}
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        expected = [parameters[name] for name in group["params"]]
        if {id(p) for p in expected} != {id(p) for p in own["params"]}:
            raise ValueError(f"{path}: a group has other parameters than the optimizer's")
        for parameter in own["params"]:
            numbers[id(parameter)] = len(numbers)
    state = {}
    for name, tensor in tensors.items():
        parameter = next(p for p in sorted(parameters, key=len, reverse=True) if name.startswith(f"state.{p}."))
        key = name[len(f"state.{parameter}."):]
        entry = state.setdefault(numbers[id(parameters[parameter])], {})
        if key == "master":  # the float32 copy of a shorter parameter, which Python's optimizers do not have
            continue
        base, dot, index = key.rpartition(".")
        if dot and index.isdigit():
            entry.setdefault(base, {})[int(index)] = tensor
        else:
            # Python keeps the counts of LBFGS as numbers, and all else as tensors.
            entry[key] = tensor.item() if key in ("func_evals", "n_iter", "t", "prev_loss") else tensor
    for entry in state.values():
        for key, value in entry.items():
            if isinstance(value, dict):
                entry[key] = [value[number] for number in sorted(value)]
    dictionary = optimizer.state_dict()
    for group, own in zip(groups, dictionary["param_groups"]):
        options = {key: _number(value) for key, value in group.items() if key != "params"}
        unknown = sorted(options.keys() - own.keys())
        if unknown or options.get("decoupled_weight_decay") != own.get("decoupled_weight_decay"):
            raise ValueError(f"{path}: the state is of another kind of optimizer than {type(optimizer).__name__}: {unknown}")
        own.update(options)
        for key in ("betas", "ns_coefficients"):
            if key in own:
                own[key] = tuple(own[key])
    if type(optimizer).__name__ == "Adagrad":
        # It makes the state of a parameter at construction, and a C++ program with the first gradient.
        for number, entry in dictionary["state"].items():
            if float(entry["step"]) == 0:
                state.setdefault(number, entry)
    dictionary["state"] = state
    optimizer.load_state_dict(dictionary)


if __name__ == "__main__":
    print(__doc__)
