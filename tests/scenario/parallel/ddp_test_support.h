// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// What tests of DistributedDataParallel with ranks as threads have in common.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {

using Group = std::shared_ptr<ProcessGroup>;
using Options = DistributedDataParallelOptions;
using torch::nn::Linear;
using torch::nn::Sequential;

/// What differs from rank to rank, with a mean that is easy to say: 1 on rank 0, 2 on rank 1.
inline torch::Tensor row_of_rank(const Group& group, at::ScalarType dtype = at::kFloat) {
  return torch::full({1, 3}, group->rank() + 1.0, dtype);
}

inline double mean_row(const Group& group) {
  return (group->size() + 1) / 2.0;
}

inline void set_frozen(const torch::nn::Module& module, bool is_frozen) {
  for (torch::Tensor& parameter : module.parameters()) parameter.set_requires_grad(!is_frozen);
}

/// Expects that all ranks alike get an error with this text. None of them leaves before the others
/// have it: they would see that instead.
inline void expect_error_everywhere(const Group& group, const std::string& part,
                                    const std::function<void()>& fails) {
  std::exception_ptr error;
  try {
    fails();
  } catch (...) {
    error = std::current_exception();
  }
  expect_error<c10::Error>(error, part);
  group->barrier();
}

/// A communication hook that does what happens without one.
inline Future<at::Tensor> average_bucket(ProcessGroup& ranks, const GradientBucketView& bucket) {
  return ranks.all_reduce(bucket.buffer(), ReduceOp::Avg).then([buffer = bucket.buffer()] {
    return buffer;
  });
}

}  // namespace lockstep::testing
