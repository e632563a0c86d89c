# SPDX-License-Identifier: BSD-3-Clause
"""Exchanges files with Python's safetensors: the C++ program loads what Python wrote and writes it again, which must give
the same bytes; and Python loads what the C++ program wrote.

    safetensors_parity_driver.py WHEELS COMMAND ...     WHEELS: the folder with the package safetensors

Exit status: that of the command; 1 where Python finds something else; 77 (skipped) where torch or safetensors is missing.
"""

import os
import random
import subprocess
import sys
import tempfile

SKIPPED = 77
SETS = 1000  # of random tensors
F4 = "float4_e2m1fn_x2"
INTEGERS = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "bfloat16", "float32", "float64"]
FLOATS8 = ["float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu", "float8_e5m2fnuz", "float8_e4m3fnuz"]
DTYPES = ["bool", *INTEGERS, *FLOATS, *FLOATS8, F4, "complex64"]


def import_or_skip(wheels):
    sys.path.insert(0, wheels)
    try:
        import safetensors.torch
        import torch

        return torch, safetensors.torch
    except Exception as error:  # a torch without its dependencies fails in many ways, not by ImportError alone
        print(f"skipped: this Python has no torch or no safetensors: {error}")
        sys.exit(SKIPPED)


def random_tensor(torch, draw, name):
    shape = [draw.randrange(5) for _ in range(draw.randrange(4))]
    if name == "bool":
        return torch.randint(0, 2, shape, dtype=torch.uint8).to(torch.bool)
    if name == F4 and not shape:
        shape = [3]
    dtype = getattr(torch, name)
    count = 1
    for size in shape:
        count *= size
    raw = torch.randint(0, 256, [count * torch.empty(0, dtype=dtype).element_size()], dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


def random_name(draw):
    letters = "abcxyz._0123456789/ \u00e4\u20ac\U0001f600\"\\\n\t\x01\x7f"
    return "".join(draw.choice(letters) for _ in range(draw.randrange(1, 12)))


def write_references(torch, safetensors, folder):
    draw = random.Random(7)
    torch.manual_seed(7)
    for number in range(SETS):
        tensors = {random_name(draw): random_tensor(torch, draw, draw.choice(DTYPES)) for _ in range(draw.randrange(9))}
        # With more than one entry, the order of the reference is drawn anew each time.
        metadata = draw.choice([None, {"format": "pt"}, {random_name(draw): random_name(draw)}])
        safetensors.save_file(tensors, os.path.join(folder, f"{number:04}.safetensors"), metadata)
    every = {name: random_tensor(torch, draw, name) for name in DTYPES}
    safetensors.save_file(every, os.path.join(folder, "every_dtype.safetensors"))


def known(torch, name):
    numbers = torch.arange(12).reshape(3, 4)
    if name == "bool":
        return numbers % 2 == 1
    if name == "complex64":
        return torch.complex(numbers.float(), -numbers.float())
    if name == F4:
        return numbers.to(torch.uint8).view(torch.float4_e2m1fn_x2)
    if name in FLOATS8:
        return numbers.float().to(getattr(torch, name))
    return numbers.to(getattr(torch, name))


def bits(torch, tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def different_names(torch, found, expected):
    """The names of tensors that differ in dtype, shape or any bit."""
    return [
        name
        for name in sorted(found.keys() | expected.keys())
        if name not in found
        or name not in expected
        or found[name].dtype != expected[name].dtype
        or found[name].shape != expected[name].shape
        or not torch.equal(bits(torch, found[name]), bits(torch, expected[name]))
    ]


def bytes_of(path):
    with open(path, "rb") as file:
        return file.read()


def check_model(torch, safetensors, path):
    """The names and the values that the C++ program gave its model are those of the same model here."""
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    missing, unexpected = safetensors.load_model(model, path)
    return not missing and not unexpected and all(bool((p == 3).all()) for p in model.parameters())


def differences(torch, safetensors, folder):
    ours, reference = os.path.join(folder, "ours"), os.path.join(folder, "reference")
    names = sorted(os.listdir(reference))
    if sorted(os.listdir(ours)) != names or len(names) != SETS + 1:
        yield "the program did not write each of the files again"
    yield from (f"{n}: other bytes" for n in names if bytes_of(os.path.join(ours, n)) != bytes_of(os.path.join(reference, n)))
    expected = {name: known(torch, name) for name in DTYPES}
    for name in ("known.safetensors", "aligned.safetensors"):
        found = safetensors.load_file(os.path.join(folder, name))
        yield from (f"{name}: {one}" for one in different_names(torch, found, expected))
    if not check_model(torch, safetensors, os.path.join(folder, "model.safetensors")):
        yield "model.safetensors: not the model"


class Attack:
    """What a pickle may do to whoever loads it."""

    def __reduce__(self):
        return os.system, ("touch attacked",)


def convert(wheels, folder, name):
    tool = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "convert_weights.py")
    command = [sys.executable, tool, name + ".pth", name + ".safetensors"]
    paths = [wheels, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path for path in paths if path))
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def conversions(torch, safetensors, wheels, folder):
    """tools/convert_weights.py takes tensors, and executes nothing."""
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"a": weight, "tied": weight, "t": weight.t(), "epoch": 7}}, os.path.join(folder, "good.pth"))
    torch.save({"a": weight, "b": Attack()}, os.path.join(folder, "bad.pth"))
    done = convert(wheels, folder, "good")
    if done.returncode:
        yield f"convert_weights.py: {done.stderr}"
        return
    found = safetensors.load_file(os.path.join(folder, "good.safetensors"))
    yield from different_names(torch, found, {"a": weight, "tied": weight, "t": weight.t()})
    if "epoch" not in done.stderr:
        yield "convert_weights.py does not say what it left out"
    if not convert(wheels, folder, "bad").returncode or os.path.exists(os.path.join(folder, "attacked")):
        yield "convert_weights.py executes what is in a file"


def main():
    torch, safetensors = import_or_skip(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        for name in ("reference", "ours"):
            os.mkdir(os.path.join(folder, name))
        write_references(torch, safetensors, os.path.join(folder, "reference"))
        status = subprocess.run(sys.argv[2:], env=dict(os.environ, LOCKSTEP_PARITY_FOLDER=folder)).returncode
        if status:
            return status
        found = [*differences(torch, safetensors, folder), *conversions(torch, safetensors, os.path.abspath(sys.argv[1]), folder)]
        print("\n".join(found[:20]) or f"{SETS + 1} files, all in order")
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
