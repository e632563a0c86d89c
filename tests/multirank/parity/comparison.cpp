// SPDX-License-Identifier: BSD-3-Clause
#include "multirank/parity/comparison.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lockstep::testing::parity {
namespace {

constexpr double kDrift = 1000;
constexpr double kOnePercent = 1.01;
// What adding half-precision numbers near zero loses, and what keeps a zero from having no
// tolerance for a denormal. Far below any gradient that counts.
constexpr double kSmallestHalf = 6e-8;
constexpr double kTiny = std::numeric_limits<float>::min();

double epsilon_of(torch::ScalarType dtype) {
  if (dtype == torch::kDouble) return std::numeric_limits<double>::epsilon();
  if (dtype == torch::kBFloat16) return 1.0 / 128;
  return std::numeric_limits<float>::epsilon();
}

// As the oracle writes tensors.
torch::Tensor comparable(const torch::Tensor& tensor) {
  const auto dense = tensor.is_sparse() ? tensor.to_dense() : tensor;
  return (dense.is_complex() ? torch::view_as_real(dense) : dense).detach().to(torch::kDouble);
}

double element(const torch::Tensor& tensor, std::int64_t place) {
  return tensor.flatten()[place].item<double>();
}

// By which factor `actual` is longer than `expected`, less one, as a part of what it may be.
double stretch(const torch::Tensor& actual, const torch::Tensor& expected,
               const torch::Tensor& tolerance) {
  const double length = expected.square().sum().item<double>();
  if (length == 0) return 0;
  const double factor = (actual * expected).sum().item<double>() / length;
  return std::abs(factor - 1) * length / (2.3 * (expected * tolerance).norm().item<double>());
}

double worst_of(const torch::Tensor& actual, const torch::Tensor& expected,
                const torch::Tensor& tolerance) {
  return ((actual - expected).abs() / tolerance).max().item<double>();
}

}  // namespace

double Comparison::travelling_epsilon() const {
  const double own = case_.precision.travelling_epsilon;
  return own > 0 ? own : epsilon_of(case_.dtype);
}

torch::Tensor Comparison::rounding(const torch::Tensor& own) const {
  const double smallest = case_.precision.travelling_epsilon > 0 ? kSmallestHalf * ranks_ : kTiny;
  return own * ((ranks_ + 1) * travelling_epsilon()) +
         own.max() * (case_.precision.own * epsilon_of(case_.dtype)) + smallest;
}

void Comparison::first_gradient(const std::string& name, const torch::Tensor& actual,
                                const StoredTensor& expected, const torch::Tensor& own) {
  gradient("gradient of " + name, actual, expected, rounding(own));
}

void Comparison::later_gradient(const std::string& name, const torch::Tensor& actual,
                                const StoredTensor& expected, const torch::Tensor& own) {
  gradient("later gradient of " + name, actual, expected,
           rounding(own) + own.max() * (kDrift * epsilon_of(case_.dtype)));
}

void Comparison::gradient(const std::string& what, const torch::Tensor& actual,
                          const StoredTensor& expected, const torch::Tensor& tolerance) {
  EXPECT_EQ(actual.is_sparse(), expected.is_sparse) << what;
  const auto values = comparable(actual);
  within(what, values, expected.values, tolerance);
  const bool is_zero = expected.values.abs().max().item<double>() == 0;
  double noticed = worst_of(values * kOnePercent, expected.values, tolerance);
  if (case_.precision.is_coarse) {
    EXPECT_LE(stretch(values, expected.values, tolerance), 1) << what << " as a whole";
    noticed = std::max(noticed, stretch(values * kOnePercent, expected.values, tolerance));
  } else {
    EXPECT_TRUE(is_zero || noticed > 1) << what << ": one percent would pass";
  }
  if (noticed > 1) ++sharp_gradients_;
}

void Comparison::parameter(const std::string& name, const torch::Tensor& actual,
                           const StoredTensor& expected, const torch::Tensor& start,
                           const torch::Tensor& own, std::int64_t steps) {
  auto tolerance = expected.values.abs() * (8 * epsilon_of(case_.dtype)) + kTiny;
  if (own.defined()) {
    const double safety = case_.precision.is_coarse ? 1 : 8;
    tolerance = tolerance + rounding(own).max() * (safety * case_.optimizer.gain);
  }
  tolerance = tolerance * static_cast<double>(steps);
  within(name, comparable(actual), expected.values, tolerance);
  const auto way = expected.values - start;
  if (case_.precision.is_coarse || way.abs().max().item<double>() == 0) return;
  EXPECT_GT(worst_of(start + way * kOnePercent, expected.values, tolerance), 1)
      << name << ": one percent of its way would pass";
}

void Comparison::buffer(const std::string& name, const torch::Tensor& actual,
                        const StoredTensor& expected) {
  const auto size = expected.values.abs().max();
  within("buffer " + name, comparable(actual), expected.values,
         (size * (kDrift * epsilon_of(case_.dtype)) + kTiny).expand_as(expected.values));
}

void Comparison::within(const std::string& what, const torch::Tensor& actual,
                        const torch::Tensor& expected, const torch::Tensor& tolerance) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  if (actual.numel() == 0) return;
  worst_ = std::max(worst_, worst_of(actual, expected, tolerance));
  // Not greater would be true for NaN as well.
  const auto good = (actual - expected).abs() <= tolerance;
  if (good.all().item<bool>()) return;
  const auto place = good.flatten().logical_not().nonzero()[0].item<std::int64_t>();
  ADD_FAILURE() << what << "[" << place << "] is " << element(actual, place) << ", PyTorch has "
                << element(expected, place) << ", tolerance " << element(tolerance, place) << "; "
                << good.logical_not().sum().item<std::int64_t>() << " of " << good.numel()
                << " elements differ, the worst by " << worst_of(actual, expected, tolerance)
                << " times it";
}

}  // namespace lockstep::testing::parity
