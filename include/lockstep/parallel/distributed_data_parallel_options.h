// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <torch/arg.h>

#include <cstddef>

namespace lockstep {

struct DistributedDataParallelOptions {
  /// Gradients travel in buckets of at most this many bytes; a parameter larger than that has a
  /// bucket of its own.
  TORCH_ARG(std::size_t, bucket_cap_bytes) = std::size_t{25} << 20;
  /// Cap of the first bucket to be complete. Small, so that communication starts early. At most
  /// `bucket_cap_bytes`.
  TORCH_ARG(std::size_t, first_bucket_cap_bytes) = std::size_t{1} << 20;
  /// Whether parameters and buffers start as those of rank 0. Without it the caller makes them
  /// equal.
  TORCH_ARG(bool, broadcast_at_start) = true;
  /// Tells glibc, for the whole process, to keep freed memory instead of returning it to the
  /// system: the gradients that every step allocates and frees would be faulted in again each time.
  /// CPU training only; does nothing with another C library's allocator or where the user set
  /// malloc's thresholds in the environment.
  TORCH_ARG(bool, retain_freed_memory) = true;
};

}  // namespace lockstep
