# SPDX-License-Identifier: BSD-3-Clause
"""The steps of pipeline_step.cpp with torch.distributed.pipelining over gloo. Rank 0 prints one line of JSON."""

import argparse
import json
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe


LEARNING_RATE = 0.1


def wave(count, step):
    return torch.sin(torch.arange(count, dtype=torch.float64) * step)


class Block(nn.Module):
    """That of examples/gpt, with the same operators, and with weights by the formula of pipeline_step.cpp."""

    def __init__(self, number, width, heads=4):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        with torch.no_grad():
            for i, layer in enumerate((self.attn, self.proj, self.up, self.down)):
                values = wave(layer.weight.numel(), 0.37 + 0.01 * (4 * number + i)) * (0.5 / layer.in_features**0.5)
                # In the example, a weight lies the other way round.
                layer.weight.copy_(values.view(layer.in_features, layer.out_features).t())
                layer.bias.zero_()

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
    blocks = options.layers // ranks
    module = nn.Sequential(*(Block(rank * blocks + i, options.width) for i in range(blocks)))
    stage = PipelineStage(module, rank, ranks, torch.device("cpu"))
    kind = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}[options.schedule]
    schedule = kind(stage, options.microbatches, loss_fn=nn.functional.mse_loss)
    shape = (options.rows * options.microbatches, options.tokens, options.width)
    count = shape[0] * shape[1] * shape[2]
    data, target = (wave(count, step).float().view(shape) for step in (0.11, 0.07))
    times, means = [], []
    for step in range(options.warmup + options.steps):
        module.zero_grad()
        dist.barrier()
        begin = time.perf_counter()
        arguments = (data,) if rank == 0 else ()
        losses = []
        last = {"target": target, "losses": losses} if rank == ranks - 1 else {}
        schedule.step(*arguments, return_outputs=False, **last)
        dist.barrier()
        if step >= options.warmup:
            times.append(1000 * (time.perf_counter() - begin))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(parameter.grad, alpha=LEARNING_RATE)
        means.append(torch.stack(losses).double().mean() if losses else torch.zeros((), dtype=torch.float64))
    means = torch.stack(means)
    dist.all_reduce(means)
    if rank == 0:
        print(json.dumps({"step_ms": times, "losses": means.tolist()}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
