// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <torch/torch.h>

#include <functional>
#include <limits>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "multirank/parity/nets.h"

namespace lockstep::testing::parity {

/// An optimizer of tests/python/ddp_cases.py.
struct Optimizer {
  std::function<std::unique_ptr<torch::optim::Optimizer>(std::vector<torch::Tensor>)> make;
  /// How far a parameter moves at most, in all later steps together, for a change by 1 of the
  /// gradients of one step.
  double gain;
};
Optimizer sgd();
Optimizer nesterov();
Optimizer plain_sgd();
Optimizer adam();
Optimizer adamw();

/// How close the numbers must come. What the terms are and why: comparison.h.
struct Precision {
  /// Machine epsilon of the dtype in which gradients travel; 0: of the parameter's.
  double travelling_epsilon = 0;
  /// Epsilons, of the largest element, by which the two sides' own gradients differ: more than 0
  /// where LibTorch has no kernel of the same order of operations.
  double own = 0;
  /// Whether so few bits travel that one percent shows in a whole tensor, but not in each element.
  bool is_coarse = false;
};

/// Sparse gradients: PyTorch divides the rows of words that come several times before it adds them
/// up, so that roundings are those of the rows, which may be larger than their sum.
inline constexpr Precision kRepeatedRows{.own = 4};

/// A case of tests/python/ddp_cases.py under one way of doing it with Lockstep.
struct Case {
  std::string name;
  MakeNet net;
  std::string oracle = {};  ///< name in Python, where it is another
  Loss loss = classify;
  Optimizer optimizer = sgd();
  DistributedDataParallelOptions options = {};
  torch::ScalarType dtype = torch::kFloat;
  bool is_channels_last = false;
  /// Whether `zero_grad(false)` is another case than PyTorch's: where a gradient is undefined there
  /// and zero here, momentum moves the parameter here alone.
  bool needs_undefined = false;
  bool accumulates = true;  ///< all but the last backward of a step run under `no_sync`
  double max_norm = 0;      ///< gradients are clipped to it where it is not 0
  CommunicationHook hook = {};
  enum class Join { Never, WithStep, WithoutStep } join = Join::Never;
  Precision precision = {};

  [[nodiscard]] const std::string& oracle_name() const { return oracle.empty() ? name : oracle; }
};

// Names tests, in place of the bytes.
inline void PrintTo(const Case& parity_case, std::ostream* stream) {
  *stream << parity_case.name;
}

/// Runs the cases that it is instantiated with: `LOCKSTEP_PARITY_CASES(Topic, cases())`.
class DdpPythonParity : public ::testing::TestWithParam<Case> {};

inline std::string name_of(const ::testing::TestParamInfo<Case>& tested) {
  return tested.param.name;
}

#define LOCKSTEP_PARITY_CASES(topic, cases) \
  INSTANTIATE_TEST_SUITE_P(topic, DdpPythonParity, ::testing::ValuesIn(cases), name_of)

}  // namespace lockstep::testing::parity
