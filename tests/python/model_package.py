# SPDX-License-Identifier: BSD-3-Clause
"""Compiles a small model into an AOTInductor package, and writes an input and what Python makes of it.

    model_package.py PACKAGE SAFETENSORS
"""

import json
import struct
import sys

# The compiler of C++ takes most of the time.
QUICK = {"cpp_cache_precompile_headers": False, "aot_inductor.precompile_headers": False,
         "aot_inductor.compile_wrapper_opt_level": "O0"}


def save(path, tensors):
    """safetensors, of floats; the package of that name may not be there."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        content = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def main():
    package, expected = sys.argv[1:]
    try:
        import torch
        import torch._inductor
        import torch.export
    except ImportError as error:
        print(f"skipped: {error}")
        return 77
    torch.manual_seed(5)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    # Small whole numbers: all orders of sums give the same bits.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape))
        example = torch.randint(-5, 6, (2, 4)).float()
        try:
            torch._inductor.aoti_compile_and_package(
                torch.export.export(model, (example,)), package_path=package, inductor_configs=QUICK
            )
        except Exception as error:  # without a compiler of C++
            if "compiler" not in str(error).lower():
                raise
            print(f"skipped: {error}")
            return 77
        save(expected, {"input": example, "output": model(example)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
