// SPDX-License-Identifier: BSD-3-Clause
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <sstream>

#include "tensor_ranks.h"

namespace lockstep::testing {
namespace {

constexpr int kPythonRanks = 3;
constexpr int kPythonRoot = 1;

/// By case and rank: "all_reduce.gradient 2".
using PythonNumbers = std::map<std::string, std::vector<float>>;

PythonNumbers read_python_numbers(const char* path) {
  PythonNumbers numbers;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name, rank;
    words >> name >> rank;
    name += ' ';
    auto& values = numbers[name + rank];
    for (float value = 0; words >> value;) values.push_back(value);
  }
  return numbers;
}

/// tests/python/tensor_parallel_parity_driver.py has the same cases.
TEST(TensorParallelPythonParity, DerivativesAreThoseOfTorchDistributedNn) {
  const char* path = std::getenv("LOCKSTEP_EXPECTED_DERIVATIVES");
  if (path == nullptr) GTEST_SKIP() << "tests/python/tensor_parallel_parity_driver.py starts it";
  const auto expected = read_python_numbers(path);
  ASSERT_EQ(expected.size(), 6U * 2 * kPythonRanks);
  run_ranks_or_throw(kPythonRanks, [&](const GroupPointer& group) {
    const int rank = group->rank();
    std::vector<std::int64_t> splits;
    for (int i = 0; i < kPythonRanks; ++i) splits.push_back(rank + i);
    const auto rows = std::accumulate(splits.begin(), splits.end(), std::int64_t{0});
    const auto check = [&](const std::string& name, at::IntArrayRef shape,
                           const std::function<torch::Tensor(const torch::Tensor&)>& function) {
      auto x = whole_numbers(shape, rank).requires_grad_(true);
      const auto output = function(x);
      (output * whole_numbers(output.sizes(), 100 + rank)).sum().backward();
      const auto compare = [&](const std::string& kind, const torch::Tensor& actual) {
        std::string key = name + kind + " ";
        key += std::to_string(rank);
        ASSERT_TRUE(expected.contains(key)) << key;
        EXPECT_TRUE(torch::equal(actual.flatten(), torch::tensor(expected.at(key)))) << key;
      };
      compare(".output", output.detach());
      compare(".gradient", x.grad());
    };
    check("all_reduce", {3, 2}, [&](const auto& x) { return autograd::all_reduce(x, group); });
    check("all_gather", {2, 2}, [&](const auto& x) { return autograd::all_gather(x, group); });
    check("reduce_scatter", {2 * kPythonRanks, 2},
          [&](const auto& x) { return autograd::reduce_scatter(x, group); });
    check("broadcast", {3, 2},
          [&](const auto& x) { return autograd::broadcast(x, group, kPythonRoot); });
    check("reduce", {3, 2}, [&](const auto& x) { return autograd::reduce(x, group, kPythonRoot); });
    check("all_to_all", {rows, 2},
          [&](const auto& x) { return autograd::all_to_all(x, group, splits, splits); });
  });
}

}  // namespace
}  // namespace lockstep::testing
