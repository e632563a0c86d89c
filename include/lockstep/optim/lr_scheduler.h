// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// All schedules of learning rates: those of `torch.optim.lr_scheduler`, and `SWALR`.
///
/// Thread-safety: one thread at a time, and none that uses the optimizer.

#include <lockstep/optim/lr_scheduler/composite_lr.h>
#include <lockstep/optim/lr_scheduler/cosine_annealing_lr.h>
#include <lockstep/optim/lr_scheduler/cyclic_lr.h>
#include <lockstep/optim/lr_scheduler/factor_lr.h>
#include <lockstep/optim/lr_scheduler/lambda_lr.h>
#include <lockstep/optim/lr_scheduler/one_cycle_lr.h>
#include <lockstep/optim/lr_scheduler/reduce_lr_on_plateau.h>
#include <lockstep/optim/lr_scheduler/step_lr.h>
#include <lockstep/optim/lr_scheduler/swa_lr.h>
