// SPDX-License-Identifier: BSD-3-Clause
// One order of the two headers; ddp_before_checkpoint_test.cpp has the other.
// clang-format off
#include <lockstep/training/activation_checkpoint.h>
#include <lockstep/parallel/distributed_data_parallel.h>
// clang-format on

#include "unit/parallel/ddp/optional_outputs.h"

namespace lockstep::testing {

TEST(IncludeOrder, CheckpointBeforeDdpFindsOptionalTensors) {
  check_optional_outputs(2);
}

/// A result of the program's own, with a number beside its tensor.
struct OwnResult {
  std::pair<torch::Tensor, int> first;
  torch::OrderedDict<std::string, torch::Tensor> rest;
  template <typename F>
  void for_each_tensor(F f) const {
    f(first.first);
    for (const auto& item : rest) f(item.value());
  }
};

TEST(Checkpoint, FindsTensorsInResultsOfTheProgramsOwnTypes) {
  const auto x = torch::full({1}, 3.0F).requires_grad_();
  int calls = 0;
  const OwnResult result = checkpoint(
      [&](const torch::Tensor& y) {
        ++calls;
        OwnResult own;
        own.first = {y * y, 7};
        own.rest.insert("cube", y * y * y);
        return own;
      },
      x);
  EXPECT_EQ(result.first.second, 7);
  (result.first.first + result.rest["cube"]).backward();
  EXPECT_EQ(calls, 2) << "the function did not run again: its tensors were not found";
  EXPECT_EQ(x.grad().item<float>(), 2 * 3 + 3 * 9);
}

}  // namespace lockstep::testing
