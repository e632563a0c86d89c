// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/one_hot.h>
#include <c10/util/Exception.h>
#include <lockstep/data/images/mixup.h>

#include <algorithm>
#include <cmath>

namespace lockstep::data {
namespace {

// The logarithm of a gamma variate: small shapes give numbers that no double can hold.
// Source: Marsaglia and Tsang, "A simple method for generating gamma variables", 2000.
double log_gamma_variate(double shape, SampleRandom& random) {
  if (shape < 1) {
    const double power = std::log(1.0 - random.uniform()) / shape;
    return log_gamma_variate(shape + 1, random) + power;
  }
  const double d = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9.0 * d);
  for (;;) {  // each turn ends it with a probability of more than 0.95
    const double x = random.normal();
    const double root = 1.0 + c * x;
    if (root <= 0) continue;
    const double v = root * root * root;
    const double u = 1.0 - random.uniform();
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return std::log(d * v);
  }
}

void check_options(const char* what, std::int64_t classes, double alpha) {
  TORCH_CHECK(classes >= 1, what, ": there are ", classes, " classes; there must be at least 1");
  TORCH_CHECK(std::isfinite(alpha) && alpha > 0, what, ": alpha is ", alpha,
              "; it must be finite and greater than 0");
}

void check_lambda(const char* what, double lambda) {
  TORCH_CHECK(lambda >= 0 && lambda <= 1, what, ": lambda is ", lambda, "; it must be from 0 to 1");
}

at::Tensor soft_labels(const char* what, const torch::data::Example<>& batch,
                       std::int64_t classes) {
  const auto& target = batch.target;
  TORCH_CHECK(target.defined() && target.dim() >= 1 && target.size(0) == batch.data.size(0), what,
              ": expected as many targets as samples, found ",
              target.defined() ? target.sizes() : at::IntArrayRef(), " for data ",
              batch.data.sizes());
  if (target.is_floating_point()) {
    TORCH_CHECK(target.dim() == 2 && target.size(1) == classes, what,
                ": expected floating targets {N, ", classes, "}, found ", target.sizes());
    return target.to(at::kFloat);
  }
  TORCH_CHECK(target.dim() == 1 && target.scalar_type() == at::kLong, what,
              ": expected targets int64 {N} or floating {N, ", classes, "}, found ",
              target.scalar_type(), ' ', target.sizes());
  if (target.numel() > 0) {
    const auto least = target.min().item<std::int64_t>();
    const auto most = target.max().item<std::int64_t>();
    TORCH_CHECK(least >= 0 && most < classes, what, ": the targets are from ", least, " to ", most,
                "; they must be from 0 to ", classes - 1);
  }
  return at::one_hot(target, classes).to(at::kFloat);
}

at::Tensor mixed(const at::Tensor& values, double lambda) {
  return values.roll(1, 0).mul_(1.0 - lambda).add_(values.mul(lambda));
}

}  // namespace

double draw_beta(double alpha, SampleRandom& random) {
  check_options("draw_beta", 1, alpha);
  const double a = log_gamma_variate(alpha, random);
  const double b = log_gamma_variate(alpha, random);
  return 1.0 / (1.0 + std::exp(b - a));
}

MixUp::MixUp(std::int64_t classes, double alpha) : classes_(classes), alpha_(alpha) {
  check_options("MixUp", classes, alpha);
}

torch::data::Example<> MixUp::operator()(const torch::data::Example<>& batch,
                                         SampleRandom& random) const {
  return mix(batch, draw_beta(alpha_, random));
}

torch::data::Example<> MixUp::mix(const torch::data::Example<>& batch, double lambda) const {
  check_lambda("MixUp", lambda);
  TORCH_CHECK(batch.data.defined() && batch.data.dim() >= 1 && batch.data.is_floating_point(),
              "MixUp: expected floating data {N, ...}; Normalize or ToFloat makes it so");
  const auto labels = soft_labels("MixUp", batch, classes_);
  return {mixed(batch.data, lambda), mixed(labels, lambda)};
}

CutMix::CutMix(std::int64_t classes, double alpha) : classes_(classes), alpha_(alpha) {
  check_options("CutMix", classes, alpha);
}

torch::data::Example<> CutMix::operator()(const torch::data::Example<>& batch,
                                          SampleRandom& random) const {
  TORCH_CHECK(batch.data.defined() && batch.data.dim() >= 3 && batch.data.numel() > 0,
              "CutMix: expected data {N, ..., H, W} with pixels");
  const double lambda = draw_beta(alpha_, random);
  const auto column = random.below(batch.data.size(-1));
  return mix(batch, lambda, random.below(batch.data.size(-2)), column);
}

torch::data::Example<> CutMix::mix(const torch::data::Example<>& batch, double lambda,
                                   std::int64_t row, std::int64_t column) const {
  check_lambda("CutMix", lambda);
  TORCH_CHECK(batch.data.defined() && batch.data.dim() >= 3 && batch.data.numel() > 0,
              "CutMix: expected data {N, ..., H, W} with pixels");
  const auto height = batch.data.size(-2);
  const auto width = batch.data.size(-1);
  TORCH_CHECK(row >= 0 && row < height && column >= 0 && column < width, "CutMix: the pixel ", row,
              ", ", column, " is not inside ", height, " x ", width);
  const auto labels = soft_labels("CutMix", batch, classes_);
  const double half = 0.5 * std::sqrt(1.0 - lambda);
  const auto half_height = static_cast<std::int64_t>(half * static_cast<double>(height));
  const auto half_width = static_cast<std::int64_t>(half * static_cast<double>(width));
  const auto top = std::max<std::int64_t>(row - half_height, 0);
  const auto left = std::max<std::int64_t>(column - half_width, 0);
  const auto rows = std::min(row + half_height, height) - top;
  const auto columns = std::min(column + half_width, width) - left;
  const double kept =
      1.0 - static_cast<double>(rows * columns) / static_cast<double>(height * width);
  auto data = batch.data.clone();
  data.narrow(-2, top, rows)
      .narrow(-1, left, columns)
      .copy_(batch.data.roll(1, 0).narrow(-2, top, rows).narrow(-1, left, columns));
  return {std::move(data), mixed(labels, kept)};
}

}  // namespace lockstep::data
