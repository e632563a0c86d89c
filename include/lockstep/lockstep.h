// SPDX-License-Identifier: BSD-3-Clause
#pragma once

/// Everything that a training program needs.

#include <lockstep/comm/call_options.h>
#include <lockstep/comm/future.h>
#include <lockstep/comm/init.h>
#include <lockstep/comm/options.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/comm/types.h>
#include <lockstep/comm/work.h>
#include <lockstep/core/device.h>
#include <lockstep/core/environment.h>
#include <lockstep/core/error.h>
#include <lockstep/core/logging.h>
#include <lockstep/data/batch_sampler.h>
#include <lockstep/data/cifar_dataset.h>
#include <lockstep/data/data_loader.h>
#include <lockstep/data/data_loader_options.h>
#include <lockstep/data/distributed_sampler.h>
#include <lockstep/data/epoch_sampler.h>
#include <lockstep/data/idx_dataset.h>
#include <lockstep/data/keyed_permutation.h>
#include <lockstep/data/length_bucket_sampler.h>
#include <lockstep/data/loader_state.h>
#include <lockstep/data/packed_records.h>
#include <lockstep/data/random_sampler.h>
#include <lockstep/data/sample_random.h>
#include <lockstep/data/sequential_sampler.h>
#include <lockstep/data/stratified_sampler.h>
#include <lockstep/data/subset_sampler.h>
#include <lockstep/data/tar_shards.h>
#include <lockstep/data/token_file.h>
#include <lockstep/data/weighted_random_sampler.h>
#include <lockstep/data/worker_error.h>
#include <lockstep/parallel/communication_hook.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/int8_error_feedback.h>
#include <lockstep/parallel/hooks/post_local_sgd.h>
#include <lockstep/parallel/hooks/power_sgd.h>
#include <lockstep/parallel/statistics.h>
#include <lockstep/parallel/sync_batch_norm.h>
#include <lockstep/training/activation_checkpoint.h>
