// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// Everything that a training program needs. `<lockstep/ddp.h>` and `<lockstep/data.h>` are its
/// parts.

#include <lockstep/amp/autocast.h>
#include <lockstep/amp/grad_scaler.h>
#include <lockstep/data.h>
#include <lockstep/ddp.h>
#include <lockstep/optim/adagrad.h>
#include <lockstep/optim/adam.h>
#include <lockstep/optim/adamw.h>
#include <lockstep/optim/averaged_model.h>
#include <lockstep/optim/averaging_functions.h>
#include <lockstep/optim/clip_grad.h>
#include <lockstep/optim/decay_groups.h>
#include <lockstep/optim/lamb.h>
#include <lockstep/optim/lars.h>
#include <lockstep/optim/lr_scheduler.h>
#include <lockstep/optim/muon.h>
#include <lockstep/optim/named_optimizer.h>
#include <lockstep/optim/optimizer.h>
#include <lockstep/optim/parameter_state.h>
#include <lockstep/optim/rmsprop.h>
#include <lockstep/optim/sgd.h>
#include <lockstep/optim/update_bn.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/checkpointer.h>
#include <lockstep/training/load_state.h>
#include <lockstep/training/log_sinks.h>
#include <lockstep/training/metric_set.h>
#include <lockstep/training/metrics.h>
#include <lockstep/training/optimizer_state.h>
#include <lockstep/training/profiler.h>
#include <lockstep/training/progress.h>
#include <lockstep/training/prometheus_file.h>
#include <lockstep/training/range.h>
#include <lockstep/training/run_log.h>
#include <lockstep/training/safetensors.h>
#include <lockstep/training/stop_request.h>
#include <lockstep/training/tensorboard.h>
#include <lockstep/training/trace_span.h>
#include <lockstep/training/training_state.h>
#include <lockstep/training/weight_names.h>
#include <lockstep/workers/result_codec.h>
#include <lockstep/workers/worker_pool.h>
