// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <torch/types.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/nccl/backend.h"
#include "support/expected_errors.h"
#include "support/fake_nccl.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {

inline std::shared_ptr<ProcessGroup> make_fake_nccl_group(const std::shared_ptr<FakeNccl>& world,
                                                          std::shared_ptr<ProcessGroup> control,
                                                          bool check_calls = false) {
  const auto environment = fake_environment(control->rank(), control->size(), "over a fake NCCL");
  const auto timeout = control->timeout();
  return make_nccl_process_group(environment, timeout, std::move(control),
                                 world->services(environment.rank), check_calls);
}

inline void sum_up(ProcessGroup& group) {
  const auto tensor = torch::full({4}, group.rank() + 1, torch::kFloat);
  group.all_reduce(tensor).wait();
  const auto expected = static_cast<float>(group.size() * (group.size() + 1) / 2);
  EXPECT_EQ(tensor[3].item<float>(), expected);
}

using NcclBody = std::function<void(const std::shared_ptr<ProcessGroup>&)>;

/// For calls of this group that are expected to time out. The calls before, which must succeed,
/// keep their long timeout.
[[nodiscard]] inline CallScope with_short_timeout(ProcessGroup& group) {
  return group.with(CallOptions().timeout(std::chrono::milliseconds(400)));
}

/// As `run_ranks`, with groups over a fake NCCL beside the shared-memory backend.
inline std::vector<std::exception_ptr> run_nccl_ranks(
    const std::shared_ptr<FakeNccl>& world, int world_size, const NcclBody& body,
    bool check_calls = false, std::chrono::milliseconds timeout = kRankTimeout) {
  return run_ranks(
      world_size,
      [&](std::shared_ptr<ProcessGroup> control) {
        auto group = make_fake_nccl_group(world, std::move(control), check_calls);
        const auto limit = limit_calls(*group, timeout);
        body(std::move(group));
      },
      timeout);
}

/// As `run_nccl_ranks`, on a NCCL of its own. Rethrows the first error; the ranks must make no
/// mistake in their use of NCCL and leave nothing behind.
inline void run_nccl_ranks_or_throw(int world_size, const NcclBody& body,
                                    bool check_calls = false) {
  const auto world = std::make_shared<FakeNccl>();
  for (const auto& error : run_nccl_ranks(world, world_size, body, check_calls)) {
    if (error) std::rethrow_exception(error);
  }
  EXPECT_EQ(world->complaints(), std::vector<std::string>());
  EXPECT_EQ(world->aborts(), 0);
}

}  // namespace lockstep::testing
