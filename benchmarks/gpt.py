# SPDX-License-Identifier: BSD-3-Clause
"""The Python side of the gpt benchmark: makes the weights and the batches of both sides, and is one rank of PyTorch's DDP.

    gpt.py make --folder FOLDER --ranks N --layers N ...     writes weights.safetensors and batches.safetensors
    gpt.py train --variant pytorch_ddp --weights FILE ...    started by gpt_driver.py with RANK, WORLD_SIZE and so on

A rank writes the loss and the milliseconds of each step, one a line, to FOLDER/rankN.txt.
"""

import argparse
import json
import math
import os
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

VOCABULARY = 256
# As examples/gpt/recipe.h has it.
LEARNING_RATE, WEIGHT_DECAY, CLIP, BETAS = 1e-3, 0.1, 1.0, (0.9, 0.99)
FIRST_SHARE, LAST_SHARE = 0.01, 0.1
NAMES = {torch.float32: "F32", torch.int64: "I64"}


def write_safetensors(path, tensors):
    """The format is short enough not to need a package: the length of a header, the header in JSON, the bytes."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.contiguous().numpy().tobytes())


def read_safetensors(path):
    with open(path, "rb") as file:
        content = bytearray(file.read())
    start = 8 + int.from_bytes(content[:8], "little")
    dtypes = {name: dtype for dtype, name in NAMES.items()}
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        begin, end = (start + offset for offset in entry["data_offsets"])
        tensors[name] = torch.frombuffer(content[begin:end], dtype=dtypes[entry["dtype"]]).reshape(entry["shape"])
    return tensors


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        parts = self.c_attn(x).split(width, dim=2)
        q, k, v = (part.view(batch, length, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, layers, heads, width, positions):
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, width)
        self.wpe = nn.Embedding(positions, width)
        self.h = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0, 0.02 / math.sqrt(2 * layers) if name.endswith("c_proj.weight") else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens):
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        return functional.linear(self.ln_f(x), self.wte.weight)


def turned(state):
    """Weights of GPT-2's files lie the other way round than those of nn.Linear; in both directions."""
    return {name: value.t().contiguous() if ".c_" in name and value.dim() == 2 else value for name, value in state.items()}


def make(arguments):
    """Random weights, and a text in which each token is followed by one of four: something to learn."""
    torch.manual_seed(1)
    model = Gpt(arguments.layers, arguments.heads, arguments.width, arguments.block)
    with torch.no_grad():
        write_safetensors(os.path.join(arguments.folder, "weights.safetensors"), turned(model.state_dict()))
    shape = (arguments.steps, arguments.ranks, arguments.batch)
    followers = torch.randint(VOCABULARY, (VOCABULARY, 4))
    tokens = [torch.randint(VOCABULARY, shape)]
    for _ in range(arguments.block):
        tokens.append(followers[tokens[-1], torch.randint(4, shape)])
    write_safetensors(os.path.join(arguments.folder, "batches.safetensors"), {"tokens": torch.stack(tokens, dim=3)})


def load_model(arguments):
    state = turned(read_safetensors(arguments.weights))
    positions, width = state["wpe.weight"].shape
    layers = sum(name.endswith(".attn.c_attn.weight") for name in state)
    model = Gpt(layers, arguments.heads, width, positions)
    model.load_state_dict(state)
    return model


def make_optimizer(model, tuned):
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True if tuned else None)


def train(arguments):
    """Loss and milliseconds of each step."""
    tuned = arguments.variant == "pytorch_ddp_tuned"
    model = load_model(arguments)
    # What a user who knows the options gives it.
    options = {"gradient_as_bucket_view": True, "static_graph": True, "broadcast_buffers": False} if tuned else {}
    parallel = DistributedDataParallel(model, **options)
    batches = read_safetensors(arguments.batches)["tokens"][:, dist.get_rank()].contiguous()
    optimizer = make_optimizer(model, tuned)
    lr_scheduler = torch.optim.lr_scheduler
    schedule = lr_scheduler.SequentialLR(optimizer, [
        lr_scheduler.LinearLR(optimizer, FIRST_SHARE, 1.0, arguments.warmup),
        lr_scheduler.CosineAnnealingLR(optimizer, len(batches) - arguments.warmup, LAST_SHARE * LEARNING_RATE),
    ], [arguments.warmup])
    figures = []
    for batch in batches:
        start = time.perf_counter()
        optimizer.zero_grad()
        logits = parallel(batch[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        value = loss.item()
        figures.append((value, (time.perf_counter() - start) * 1e3))
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=["make", "train"])
    for name in ("--ranks", "--layers", "--heads", "--width", "--block", "--batch", "--steps", "--warmup"):
        parser.add_argument(name, type=int)
    parser.add_argument("--variant", choices=["pytorch_ddp", "pytorch_ddp_tuned"])
    for name in ("--folder", "--weights", "--batches", "--output"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.task == "make":
        make(arguments)
        return
    dist.init_process_group("gloo")
    figures = train(arguments)
    with open(os.path.join(arguments.output, f"rank{dist.get_rank()}.txt"), "w", encoding="ascii") as file:
        file.writelines(f"{loss:.9g} {milliseconds:.4f}\n" for loss, milliseconds in figures)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
