// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// @file
/// What a program needs that trains in step with other ranks: process groups and
/// `DistributedDataParallel`. `<lockstep/lockstep.h>` has this and the rest.

#include <lockstep/comm/call_options.h>
#include <lockstep/comm/future.h>
#include <lockstep/comm/init.h>
#include <lockstep/comm/local_ranks.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/comm/options.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/comm/types.h>
#include <lockstep/comm/work.h>
#include <lockstep/core/device.h>
#include <lockstep/core/environment.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <lockstep/core/version.h>
#include <lockstep/parallel/communication_hook.h>
#include <lockstep/parallel/data_parallel.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <lockstep/parallel/graphed_step.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/hook_state.h>
#include <lockstep/parallel/hooks/int8_error_feedback.h>
#include <lockstep/parallel/hooks/post_local_sgd.h>
#include <lockstep/parallel/hooks/power_sgd.h>
#include <lockstep/parallel/statistics.h>
#include <lockstep/parallel/sync_batch_norm.h>
#include <lockstep/training/activation_checkpoint.h>
