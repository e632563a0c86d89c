// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <functional>

#include "tensor_ranks.h"

namespace lockstep::testing {

constexpr double kRounding = 1e-5;  // GEMMs of other sizes add in other orders
constexpr double kDoubleRounding = 1e-11;

using Activation = std::function<torch::Tensor(torch::Tensor)>;

/// How a pair of layers is used.
struct PairCase {
  bool bias, sequence, apart;  // apart: with the full tensor between the two layers
};

struct PairImpl : torch::nn::Module {
  PairImpl(const GroupPointer& its_group, const PairCase& its) : how(its), group(its_group) {
    const auto options = [&](std::int64_t in, std::int64_t out) {
      return nn::ParallelLinearOptions(in, out, group)
          .bias(how.bias)
          .sequence_parallel(how.sequence);
    };
    up = register_module("up", nn::ColumnParallelLinear(options(6, 24).gather_output(how.apart)));
    down = register_module("down",
                           nn::RowParallelLinear(options(24, 6).input_is_parallel(!how.apart)));
  }
  torch::Tensor forward(const torch::Tensor& x) { return down(between(up(x))); }
  Activation between = [](const torch::Tensor& x) { return x.square(); };
  PairCase how;
  GroupPointer group;
  nn::ColumnParallelLinear up{nullptr};
  nn::RowParallelLinear down{nullptr};
};
TORCH_MODULE(Pair);

struct PlainPairImpl : torch::nn::Module {
  explicit PlainPairImpl(bool bias) {
    up = register_module("up", torch::nn::Linear(torch::nn::LinearOptions(6, 24).bias(bias)));
    down = register_module("down", torch::nn::Linear(torch::nn::LinearOptions(24, 6).bias(bias)));
  }
  torch::Tensor forward(const torch::Tensor& x) { return down(between(up(x))); }
  Activation between = [](const torch::Tensor& x) { return x.square(); };
  torch::nn::Linear up{nullptr}, down{nullptr};
};
TORCH_MODULE(PlainPair);

/// This rank's part of the sequence where it is cut.
inline torch::Tensor part_of(const torch::Tensor& full, bool is_cut, const GroupPointer& group) {
  return is_cut ? full.chunk(group->size(), 0)[static_cast<std::size_t>(group->rank())] : full;
}

}  // namespace lockstep::testing
