// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/ScalarType.h>
#include <torch/arg.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

/// What sums of gradients are divided by where ranks have had different amounts of data.
enum class GradientAveraging : std::uint8_t {
  ActiveRanks,  ///< the ranks that still have data (all of them, unless some have joined)
  AllRanks,     ///< the world size, also when some have joined; PyTorch's default
  Samples,      ///< each rank counts by its samples: the mean over all samples of the step
};

/// What happens to buffers (running statistics of batch norm) at the end of each backward, never
/// inside a forward.
enum class BufferSync : std::uint8_t {
  Local,      ///< nothing; see `broadcast_buffers` and `average_buffers`
  Broadcast,  ///< those of rank 0, or of the first rank that still has data
  Average,    ///< the mean over the ranks that still have data; whole numbers as Broadcast
};

/// What a `DistributedDataParallel` is told. The same on all ranks, which is checked.
///
/// Thread-safety: a value.
struct DistributedDataParallelOptions {
  /// The model's name in error messages, before its number among the models of the group. Without a
  /// name, models are called "model 1", "model 2", ...
  TORCH_ARG(std::string, name) = {};

  /// Gradients travel in buckets of at most this many bytes; a parameter larger than that has a
  /// bucket of its own. Where gradients are averaged in place (`gradients_in_group_memory`), a
  /// bucket costs microseconds, and they are cut at 8 MiB.
  TORCH_ARG(std::size_t, bucket_cap_bytes) = std::size_t{25} << 20;
  /// The cap of the first bucket to be complete: small, so that communication starts early, and at
  /// most `bucket_cap_bytes`.
  TORCH_ARG(std::size_t, first_bucket_cap_bytes) = std::size_t{1} << 20;
  /// Caps of the first, second, ... bucket instead of the two above; the last one serves all
  /// further buckets.
  TORCH_ARG(std::vector<std::size_t>, bucket_caps_bytes) = {};
  /// Whether buckets are rebuilt after the first backward, in the order in which its gradients came
  /// on the first rank with data. Until then they follow the reverse order of registration.
  TORCH_ARG(bool, learn_order) = true;
  /// After this many backwards buckets are rebuilt with other boundaries, so that by the times
  /// measured till then the ranks wait least at the end of backward. 0: never. Results do not
  /// depend on it.
  TORCH_ARG(std::size_t, tune_buckets_after) = 0;

  /// Whether parameters and buffers start as those of rank 0. Without it the caller makes them
  /// equal. PyTorch calls it init_sync.
  TORCH_ARG(bool, broadcast_at_start) = true;
  /// Names of parameters and buffers that Lockstep ignores: it neither compares nor averages them,
  /// nor makes them equal.
  TORCH_ARG(std::vector<std::string>, ignored_names) = {};

  /// What the sums of gradients are divided by.
  TORCH_ARG(GradientAveraging, averaging) = GradientAveraging::ActiveRanks;
  /// What happens to buffers at the end of each backward.
  TORCH_ARG(BufferSync, buffer_sync) = BufferSync::Local;
  /// Gradients of Float and Double parameters travel and are added in this dtype (Half, BFloat16 or
  /// Float) where it is smaller than theirs.
  TORCH_ARG(std::optional<at::ScalarType>, reduce_dtype) = std::nullopt;
  /// Promises that each backward gives every parameter as many gradients as the first one did, on
  /// every rank. This saves the last, small exchange of each step. Ranks cannot `join` then, and
  /// averaging by samples is refused.
  TORCH_ARG(bool, static_graph) = false;

  /// Whether autograd allocates tensors of just a gradient's size in registered memory, in its own
  /// thread while backward runs: gradients are then averaged where they are, and nothing is copied.
  /// This works for CPU parameters of ranks that share memory, and not with a communication hook.
  /// An allocator is put in front of LibTorch's CPU allocator for it, for the whole process; it
  /// passes on all other requests. It takes up to three times the largest gradient of shared memory
  /// more.
  TORCH_ARG(bool, gradients_in_group_memory) = true;

  /// Whether gradients on a GPU lie in symmetric memory where the backend has such (NCCL on one
  /// host): NCCL may then use kernels of small latency. Gradients of Float and BFloat16 travel as
  /// sums, which are divided when they have arrived. The program must not use parts of these
  /// gradients in collectives of its own at places that differ between ranks: NCCL trusts that
  /// they are the same.
  TORCH_ARG(bool, symmetric_memory) = false;

  /// Whether glibc is told, for the whole process, to keep freed memory instead of returning it to
  /// the system: the gradients that every step allocates and frees would be faulted in again each
  /// time. This helps CPU training only. It does nothing with another C library's allocator or
  /// where the user set malloc's thresholds in the environment.
  TORCH_ARG(bool, retain_freed_memory) = true;
};

}  // namespace lockstep
