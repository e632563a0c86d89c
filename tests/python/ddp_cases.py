# SPDX-License-Identifier: BSD-3-Clause
"""What PyTorch's DDP is asked to do: one entry of CASES each. The C++ side has an entry of the same name.

A case is a network, its data and its loss, and what differs from the defaults of `Case`.
"""

from dataclasses import dataclass, field
from typing import Callable, Optional

import ddp_nets as nets
import torch
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook

STEPS = 10
SAMPLES = 6
LENGTH = 5


def labels(generator, lead, classes=nets.CLASSES):
    return torch.randint(classes, (*lead, SAMPLES), generator=generator)


def vectors(generator, lead):
    inputs = torch.randn(*lead, SAMPLES, nets.FEATURES, generator=generator)
    return {"inputs": inputs, "labels": labels(generator, lead)}


def pairs(generator, lead):
    return {**vectors(generator, lead), "others": torch.randn(*lead, SAMPLES, nets.FEATURES, generator=generator)}


def turns(generator, lead):
    """A batch knows which step it is for."""
    steps = torch.arange(lead[0]).view(-1, *[1] * (len(lead) - 1)).expand(lead)
    return {**vectors(generator, lead), "turn": steps}


def turns_of_batches(generator, lead):
    """A batch knows which of all batches it is."""
    return {**vectors(generator, lead), "turn": torch.arange(lead[0] * lead[1]).view(lead)}


def images(generator, lead):
    return {"inputs": torch.randn(*lead, SAMPLES, 3, 8, 8, generator=generator), "labels": labels(generator, lead)}


def sequences(generator, lead):
    inputs = torch.randn(*lead, LENGTH, SAMPLES, nets.WIDTH, generator=generator)
    return {"inputs": inputs, "labels": labels(generator, lead)}


def sentences(generator, lead):
    words = torch.randint(nets.WORDS, (*lead, LENGTH, SAMPLES), generator=generator)
    return {"words": words, "labels": labels(generator, lead)}


def next_words(generator, lead):
    return {**sentences(generator, lead), "labels": labels(generator, lead, nets.WORDS)}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def nesterov(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01)


def plain_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.2)


def adam(parameters):
    # The C++ side says why eps is large.
    return torch.optim.Adam(parameters, lr=0.01, eps=1e-2)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, eps=1e-2, weight_decay=0.1)


@dataclass(frozen=True)
class Case:
    net: Callable
    data: Callable = vectors
    loss: Callable = nets.classify
    optimizer: Callable = sgd
    ddp: dict = field(default_factory=dict)  # arguments of DistributedDataParallel
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    batches: int = 1  # backwards a step
    accumulates: bool = True  # all but the last of them in no_sync
    max_norm: Optional[float] = None  # of the gradients, which are clipped
    hook: Optional[Callable] = None
    ignored: tuple = ()
    # Rank r has 5 + 2 r steps, and the ranks join; the value is divide_by_initial_world_size.
    join: Optional[bool] = None
    recorded: tuple = (0, STEPS - 1)  # steps of which the gradients are compared


CASES = {
    # Networks
    "mlp": Case(nets.mlp),
    "layer_norm": Case(nets.layer_norm),
    "convolutional": Case(nets.convolutional, images),
    "depthwise": Case(nets.depthwise, images),
    "group_norm": Case(nets.group_norm, images),
    "batch_norm_local": Case(nets.batch_norm, images, ddp={"broadcast_buffers": False}),
    "transformer": Case(nets.Transformer, sentences),
    "lstm": Case(nets.lstm, sequences),
    "gru": Case(nets.gru, sequences),
    "embedding": Case(nets.BagOfWords, sentences),
    "embedding_sparse": Case(nets.sparse_bag_of_words, sentences, optimizer=plain_sgd),
    "tied": Case(nets.Tied, next_words),
    "odd_shapes": Case(nets.OddShapes),
    # Optimizers
    "mlp_nesterov_decay": Case(nets.mlp, optimizer=nesterov),
    "mlp_adam": Case(nets.mlp, optimizer=adam),
    "mlp_adamw": Case(nets.mlp, optimizer=adamw),
    "transformer_adamw": Case(nets.Transformer, sentences, optimizer=adamw),
    "mlp_clipped": Case(nets.mlp, max_norm=0.5),
    "lstm_clipped_adam": Case(nets.lstm, sequences, optimizer=adam, max_norm=0.1),
    # Dtypes and layouts
    "mlp_double": Case(nets.mlp, dtype=torch.float64),
    "batch_norm_double": Case(nets.batch_norm, images, dtype=torch.float64, ddp={"broadcast_buffers": False}),
    "mlp_bfloat16": Case(nets.mlp, dtype=torch.bfloat16, recorded=(0,)),
    "convolutional_bfloat16": Case(nets.convolutional, images, dtype=torch.bfloat16, recorded=(0,)),
    "two_dtypes": Case(nets.TwoDtypes),
    "complex": Case(nets.Complex),
    "convolutional_channels_last": Case(nets.convolutional, images, channels_last=True),
    "mlp_bucket_view": Case(nets.mlp, ddp={"gradient_as_bucket_view": True}),
    # Which parameters a backward reaches
    "frozen": Case(nets.first_layer_frozen),
    "branches": Case(nets.Branches, ddp={"find_unused_parameters": True}),
    "branches_adamw": Case(nets.Branches, optimizer=adamw, ddp={"find_unused_parameters": True}),
    "branches_in_turn": Case(nets.Branches, turns, ddp={"find_unused_parameters": True}, recorded=(0, 1, STEPS - 1)),
    "unused_layer": Case(nets.UnusedLayer, ddp={"find_unused_parameters": True}),
    "unused_layer_static": Case(nets.UnusedLayer, ddp={"static_graph": True}),
    "ignored": Case(nets.mlp, ignored=("body.2.weight",)),
    "several_outputs": Case(nets.SeveralOutputs, loss=nets.classify_and_measure),
    # With static_graph instead, PyTorch refuses the second step.
    "some_outputs": Case(nets.SeveralOutputs, ddp={"find_unused_parameters": True}),
    "two_forwards": Case(nets.mlp, pairs, loss=nets.compare_two),
    "evaluation_between": Case(nets.mlp, loss=nets.look_first),
    "checkpointed": Case(lambda: nets.Checkpointed(use_reentrant=False)),
    "checkpointed_static": Case(lambda: nets.Checkpointed(use_reentrant=True), ddp={"static_graph": True}),
    "mlp_static": Case(nets.mlp, ddp={"static_graph": True}),
    # Steps
    "accumulate_2": Case(nets.mlp, batches=2),
    "accumulate_3": Case(nets.convolutional, images, batches=3),
    "accumulate_tied": Case(nets.Tied, next_words, batches=3, optimizer=adam),
    "accumulate_bucket_view": Case(nets.mlp, batches=2, ddp={"gradient_as_bucket_view": True}),
    "accumulate_sparse": Case(nets.sparse_bag_of_words, sentences, batches=2, optimizer=plain_sgd),
    "accumulate_branches": Case(nets.Branches, batches=2, ddp={"find_unused_parameters": True}),
    # The last batch of a step does not use what the one before used.
    "accumulate_in_turn": Case(nets.Branches, turns_of_batches, batches=2, ddp={"find_unused_parameters": True}),
    "two_averages": Case(nets.mlp, batches=2, accumulates=False),
    "join_all_ranks": Case(nets.mlp, join=True, recorded=(0, 6)),
    "join_active_ranks": Case(nets.mlp, join=False, recorded=(0, 6)),
    "join_convolutional": Case(nets.convolutional, images, join=False, recorded=(0, 6)),
    "join_batch_norm": Case(nets.batch_norm, images, join=False, recorded=(0,), ddp={"broadcast_buffers": False}),
    "join_adam": Case(nets.mlp, join=True, optimizer=adam, recorded=(0, 6)),
    "join_accumulate": Case(nets.mlp, join=False, batches=2, recorded=(0, 6)),
    # Without momentum: a parameter that none of the remaining ranks uses has a gradient of zeros here, since joined ranks
    # say that they used what they used last. In Lockstep it has none.
    "join_branches": Case(
        nets.Branches, join=False, optimizer=plain_sgd, ddp={"find_unused_parameters": True}, recorded=(0,)
    ),
    "batch_norm_broadcast": Case(nets.batch_norm, images),
    "running_mean_broadcast": Case(nets.RunningMean),
    "running_mean_accumulate": Case(nets.RunningMean, batches=3),
    # Hooks
    "half_hook": Case(nets.mlp, hook=fp16_compress_hook, recorded=(0,)),
    "half_hook_convolutional": Case(nets.convolutional, images, hook=fp16_compress_hook, recorded=(0,)),
    "bfloat16_hook": Case(nets.mlp, hook=bf16_compress_hook, recorded=(0,)),
}
