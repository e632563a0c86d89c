#!/usr/bin/env python3
"""Turns weights that Python programs have pickled (.pth, .pt, .bin) into a file that C++ programs can load.

Usage: convert_weights.py INPUT OUTPUT.safetensors

INPUT: a dictionary of tensors by name, as `torch.save(model.state_dict(), ...)` writes it, or one that has it under
"state_dict" or "model". Nothing in it is executed (`weights_only=True`). Needs Python's torch and safetensors:
`pip install torch safetensors numpy`.
"""

import sys


def state_in(loaded):
    """The dictionary of tensors in what was loaded."""
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        sys.exit(f"convert_weights: the file holds a {type(loaded).__name__}, not a dictionary of tensors")
    return loaded


def tensors_of(state, torch):
    """Each tensor with memory of its own, as the format wants it."""
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        print(f"convert_weights: left out, because they are no tensors: {', '.join(map(str, others))}", file=sys.stderr)
    return {name: value.detach().clone().contiguous() for name, value in state.items() if name not in others}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        sys.exit(f"convert_weights: {error}; pip install torch safetensors numpy")
    tensors = tensors_of(state_in(torch.load(sys.argv[1], map_location="cpu", weights_only=True)), torch)
    if not tensors:
        sys.exit("convert_weights: the file holds no tensors")
    save_file(tensors, sys.argv[2], metadata={"format": "pt"})
    print(f"convert_weights: {len(tensors)} tensors written to {sys.argv[2]}")


if __name__ == "__main__":
    main()
