// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/optim/lr_scheduler.h>
#include <torch/torch.h>

#include <cstdint>

namespace example {

/// The rate climbs in a straight line from `1 / warmup_steps` of the optimizer's to all of it, then
/// falls along half a cosine towards 0. `step()` comes after each step of the optimizer. A function
/// is no part of a checkpoint, so a run that is resumed with more epochs, or with other ranks and
/// so other steps, has the rates of its new length.
///
/// Throws: `c10::Error` when the warm-up is negative or longer than the run.
/// Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017 (warm-up); Loshchilov and Hutter,
/// "SGDR", 2017 (cosine).
[[nodiscard]] lockstep::optim::lr_scheduler::LambdaLR make_schedule(
    torch::optim::Optimizer& optimizer, int64_t warmup_steps, int64_t total_steps);

}  // namespace example
