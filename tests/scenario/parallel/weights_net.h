// SPDX-License-Identifier: BSD-3-Clause
#pragma once

// A model of two weights, and what tests of frozen and changing parameters do with it.
#include <string>

#include "scenario/parallel/ddp_test_support.h"

namespace lockstep::testing {

/// The gradient of each weight is the sum of the rows that it was used with.
struct WeightsImpl : torch::nn::Module {
  WeightsImpl() {
    a = register_parameter("a", torch::ones({3}));
    b = register_parameter("b", torch::ones({3}));
  }
  torch::Tensor forward(const torch::Tensor& x, const std::string& used = "ab") {
    torch::Tensor sum = x.sum() * 0;
    for (const char name : used) sum = sum + (x * named_parameters()[std::string(1, name)]).sum();
    return sum;
  }
  torch::Tensor a, b;
};
TORCH_MODULE(Weights);
using WrappedWeights = DistributedDataParallel<Weights>;

inline void expect_gradient(const torch::Tensor& parameter, double value) {
  ASSERT_TRUE(parameter.grad().defined());
  EXPECT_TRUE(torch::allclose(parameter.grad().to(at::kDouble),
                              torch::full(parameter.sizes(), value, at::kDouble)))
      << parameter.grad() << " instead of " << value;
}

inline void add_up(WrappedWeights& model, const torch::Tensor& row,
                   const std::string& used = "ab") {
  const auto guard = model->no_sync();
  model->forward(row, used).backward();
}

/// Runs forward with all parameters frozen, or none, and an input that needs a gradient in any
/// case.
inline void take_step(const Group& group, WrappedWeights& model, bool is_frozen) {
  set_frozen(*model->module(), is_frozen);
  model->forward(row_of_rank(group).set_requires_grad(true)).backward();
}

}  // namespace lockstep::testing
