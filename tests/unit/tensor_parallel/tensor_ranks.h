// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/comm/mesh.h>
#include <lockstep/lockstep.h>
#include <torch/torch.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "tensor_parallel/shards.h"

namespace lockstep::testing {

using GroupPointer = std::shared_ptr<ProcessGroup>;
using FullTensors = std::map<std::string, torch::Tensor>;

/// Small whole numbers, whose sums and products are exact in any order.
inline torch::Tensor whole_numbers(at::IntArrayRef shape, std::int64_t seed,
                                   torch::Dtype dtype = torch::kFloat) {
  const auto count = c10::multiply_integers(shape);
  const auto numbers = torch::arange(count, torch::kLong) * 37 + seed * 11;
  return (numbers.remainder(7) - 3).to(dtype).view(shape);
}

/// Numbers between -1 and 1 that are no fractions of a power of two.
inline torch::Tensor fractions(at::IntArrayRef shape, std::int64_t seed,
                               torch::Dtype dtype = torch::kDouble) {
  const auto count = c10::multiply_integers(shape);
  const auto numbers = torch::arange(count, torch::kDouble) * 1.37 + static_cast<double>(seed);
  return torch::sin(numbers).to(dtype).view(shape);
}

/// Whoever draws random numbers of the process's generator has it.
inline std::mutex& random_mutex() {
  static std::mutex mutex;
  return mutex;
}

/// What `make` makes, with random numbers of this seed. The generator belongs to the process, so
/// rank-threads take turns.
template <typename Make>
auto with_seed(std::uint64_t seed, const Make& make) {
  const std::lock_guard<std::mutex> lock(random_mutex());
  torch::manual_seed(seed);
  return make();
}

/// The gradients of a model as its full model has them. Collective.
inline FullTensors full_gradients(const torch::nn::Module& module) {
  FullTensors gradients;
  for (const auto& entry : nn::survey(module).entries) {
    if (!entry.tensor.is_floating_point()) continue;
    torch::Tensor gradient = entry.tensor.grad();
    if (!gradient.defined()) gradient = torch::zeros_like(entry.tensor);
    if (entry.is_sharded()) {
      gradient = nn::pad_shard(gradient.contiguous(), entry.how, entry.group->size());
      std::vector<std::int64_t> shape{entry.group->size()};
      shape.insert(shape.end(), gradient.sizes().begin(), gradient.sizes().end());
      const auto rows = torch::empty(shape, gradient.options());
      entry.group->all_gather(rows, gradient).wait();
      gradient = nn::join_shards(rows, entry.how);
    }
    gradients.emplace(entry.name, gradient);
  }
  return gradients;
}

/// How far `a` is from `b`, relative to the largest value of `b`.
inline double relative_difference(const torch::Tensor& a, const torch::Tensor& b) {
  if (b.numel() == 0) return 0;
  const double scale = b.abs().max().item<double>();
  return (a.to(torch::kDouble) - b.to(torch::kDouble)).abs().max().item<double>() /
         (scale > 0 ? scale : 1);
}

/// Both have these names, and values within `tolerance`; 0 means the same bits.
inline void expect_same(const FullTensors& actual, const FullTensors& expected, double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_TRUE(actual.contains(name)) << name;
    ASSERT_EQ(actual.at(name).sizes(), tensor.sizes()) << name;
    if (tolerance == 0) {
      EXPECT_TRUE(torch::equal(actual.at(name), tensor)) << name;
    } else {
      EXPECT_LE(relative_difference(actual.at(name), tensor), tolerance) << name;
    }
  }
}

inline FullTensors gradients_of(const torch::nn::Module& module) {
  FullTensors gradients;
  for (const auto& item : module.named_parameters()) {
    gradients.emplace(item.key(), item.value().grad().defined() ? item.value().grad()
                                                                : torch::zeros_like(item.value()));
  }
  return gradients;
}

/// Makes all parameters whole numbers, or fractions.
inline void fill_model(torch::nn::Module& module, bool is_whole) {
  const torch::NoGradGuard no_grad;
  std::int64_t seed = 1;
  for (auto& parameter : module.parameters()) {
    const auto sizes = parameter.sizes();
    parameter.copy_(is_whole ? whole_numbers(sizes, seed) : fractions(sizes, seed) * 0.5);
    ++seed;
  }
}

class TensorRanks : public ::testing::TestWithParam<int> {
 protected:
  static void run(const RankBody& body) { run_ranks_or_throw(GetParam(), body); }
};

}  // namespace lockstep::testing
