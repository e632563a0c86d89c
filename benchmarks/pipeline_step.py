# SPDX-License-Identifier: BSD-3-Clause
"""The steps of pipeline_step.cpp with torch.distributed.pipelining over gloo. Rank 0 prints one line of JSON."""

import argparse
import json
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe


class Block(nn.Module):
    """That of examples/gpt, with the same operators."""

    def __init__(self, width, heads=4):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        rows, tokens, width = x.shape
        parts = self.attn(self.ln_1(x)).split(width, 2)
        q, k, v = (part.view(rows, tokens, self.heads, width // self.heads).transpose(1, 2) for part in parts)
        looked = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(looked.transpose(1, 2).reshape(rows, tokens, width))
        return x + self.down(nn.functional.gelu(self.up(self.ln_2(x)), approximate="tanh"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedule", default="1f1b", choices=["1f1b", "gpipe"])
    for name, value in (("microbatches", 8), ("rows", 4), ("tokens", 64), ("width", 256), ("layers", 8), ("warmup", 3),
                        ("steps", 10)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    module = nn.Sequential(*(Block(options.width) for _ in range(options.layers // ranks)))
    stage = PipelineStage(module, rank, ranks, torch.device("cpu"))
    kind = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}[options.schedule]
    schedule = kind(stage, options.microbatches, loss_fn=nn.functional.mse_loss)
    data = torch.randn(options.rows * options.microbatches, options.tokens, options.width)
    times = []
    for step in range(options.warmup + options.steps):
        module.zero_grad()
        dist.barrier()
        begin = time.perf_counter()
        arguments = (data,) if rank == 0 else ()
        schedule.step(*arguments, **({"target": data} if rank == ranks - 1 else {}))
        dist.barrier()
        if step >= options.warmup:
            times.append(1000 * (time.perf_counter() - begin))
    if rank == 0:
        print(json.dumps({"step_ms": times}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
