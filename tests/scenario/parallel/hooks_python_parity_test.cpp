// SPDX-License-Identifier: BSD-3-Clause
// Averages of communication hooks against those of PyTorch's, which
// tests/python/hooks_parity_driver.py has written. Gradients, shapes and options here and there are
// the same.
#include <gtest/gtest.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/power_sgd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "support/hook_buckets.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;

constexpr int kSteps = 6;
// What numpy's RandomState(0) gives PyTorch's hook as the seed of its first factor.
constexpr std::uint64_t kSeed = 209652396;

class HooksParity : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, HooksParity, ::testing::Values(2, 3));

torch::Tensor read(const std::string& name, int ranks, int step, std::int64_t elements) {
  const char* folder = std::getenv("LOCKSTEP_PARITY_FOLDER");
  TORCH_CHECK(folder != nullptr, "LOCKSTEP_PARITY_FOLDER is not set; start the driver");
  const std::string path = std::string(folder) + "/" + name + ".ranks" + std::to_string(ranks) +
                           ".step" + std::to_string(step);
  auto values = torch::empty({elements});
  std::ifstream file(path, std::ios::binary);
  file.read(static_cast<char*>(values.data_ptr()), elements * 4);
  TORCH_CHECK(file && file.peek() == std::ifstream::traits_type::eof(), path,
              " is missing, or has not ", elements, " elements");
  return values;
}

void compare(const Group& group, const std::string& name, const CommunicationHook& hook,
             double tolerance) {
  HandMadeBucket bucket(make_parameters({{12, 16}, {16}, {4, 4, 4}}), torch::kFloat);
  for (int step = 0; step < kSteps; ++step) {
    std::vector<torch::Tensor> own;
    for (const auto& parameter : bucket.parameters) {
      own.push_back(wave(parameter.sizes(), group->rank(), step));
    }
    bucket.reduce(*group, hook, own);
    const auto expected = read(name, group->size(), step, bucket.buffer.numel());
    EXPECT_LT(largest_difference(bucket.buffer, expected), tolerance) << name << " step " << step;
  }
}

TEST_P(HooksParity, CastsGiveWhatPyTorchGives) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // PyTorch divides before it adds, and adds in the narrow dtype: one rounding more a rank, of
    // values up to 2.
    compare(group, "fp16_compress", hooks::fp16_compress(), 2 * 3 * 0x1p-11);
    compare(group, "bf16_compress", hooks::bf16_compress(), 2 * 3 * 0x1p-8);
    group->close();
  });
}

TEST_P(HooksParity, PowerSgdGivesWhatPyTorchGives) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // Two steps whole, four with factors, warm starts and error feedback. PyTorch orthogonalises in
    // float, Lockstep in double.
    const auto options = hooks::PowerSgdOptions()
                             .matrix_approximation_rank(2)
                             .start_iteration(2)
                             .min_compression_rate(1)
                             .random_seed(kSeed);
    compare(group, "power_sgd", hooks::PowerSgd(options), 2e-5);
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
