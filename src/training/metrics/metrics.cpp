// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <lockstep/training/metrics.h>

#include <cmath>
#include <limits>
#include <utility>

namespace lockstep::training {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

void check_integers(const char* metric, const at::Tensor& classes) {
  TORCH_CHECK(classes.defined() && at::isIntegralType(classes.scalar_type(), true), metric,
              ": classes are integers, but they are ",
              classes.defined() ? c10::toString(classes.scalar_type()) : "no tensor");
}

void check_floating(const char* metric, const at::Tensor& scores) {
  TORCH_CHECK(scores.defined() && scores.is_floating_point(), metric,
              ": scores are floating-point numbers, but they are ",
              scores.defined() ? c10::toString(scores.scalar_type()) : "no tensor");
}

/// Scores `[N, classes, ...]` as rows, one a sample.
at::Tensor score_rows(const char* metric, const at::Tensor& scores, const at::Tensor& classes) {
  check_floating(metric, scores);
  const auto dimensions = scores.dim();
  bool fits = dimensions >= 2 && classes.dim() == dimensions - 1 && scores.size(1) > 0;
  for (std::int64_t i = 0; fits && i < classes.dim(); ++i) {
    fits = classes.size(i) == scores.size(i == 0 ? 0 : i + 1);
  }
  TORCH_CHECK(fits, metric, ": scores of the shape [N, classes, ...] need classes of the shape ",
              "[N, ...], but the shapes are ", scores.sizes(), " and ", classes.sizes());
  return scores.detach().movedim(1, -1).reshape({-1, scores.size(1)});
}

/// On the CPU at once, where that costs nothing; elsewhere the last sum counts what is wrong, and
/// `check_none_wrong` says so later.
template <typename Text>
void check_on_cpu(const at::Tensor& is_wrong, const Text& text) {
  if (!is_wrong.device().is_cpu()) return;
  const auto number = is_wrong.sum().item<std::int64_t>();
  TORCH_CHECK(number == 0, text(number));
}

void check_none_wrong(const char* metric, double number, const std::string& what) {
  TORCH_CHECK(number == 0, metric, ": ", number, " ", what);
}

std::string out_of_range(std::int64_t classes) {
  return "classes were not from 0 to " + std::to_string(classes - 1);
}

}  // namespace

Metric::Metric(std::int64_t count) : sums_(at::zeros({count}, at::kDouble)) {}

void Metric::reset() {
  sums_ = at::zeros(sums_.sizes(), at::kDouble);
}

at::Tensor Metric::sums() const {
  return sums_.to(at::kCPU);
}

void Metric::set_sums(const at::Tensor& sums) {
  TORCH_CHECK(sums.defined() && sums.sizes() == sums_.sizes() && sums.scalar_type() == at::kDouble,
              kind(), " has ", sums_.numel(), " sums, which are doubles, and not ",
              sums.defined() ? sums.numel() : 0);
  sums_ = sums.detach().to(at::kCPU, at::kDouble, false, /*copy=*/true);
}

std::map<std::string, at::Tensor> Metric::state() const {
  return {{"sums", sums()}};
}

void Metric::load_state(const std::map<std::string, at::Tensor>& state) {
  const auto found = state.find("sums");
  TORCH_CHECK(found != state.end(), kind(), ": this state has no sums, and is none of a metric");
  set_sums(found->second);
}

void Metric::add_to_sums(const at::Tensor& increments) {
  const at::NoGradGuard no_grad;
  if (sums_.device().is_cpu()) sums_ = sums_.to(increments.device());
  sums_ = sums_ + increments.to(sums_.device(), at::kDouble);
}

void Metric::count(const at::Tensor& indices) {
  const auto flat = indices.reshape({-1});
  const auto options = flat.options().dtype(at::kDouble);
  add_to_sums(at::zeros(sums_.sizes(), options)
                  .scatter_add_(0, flat, at::full({flat.numel()}, 1.0, options)));
}

void Mean::update(double value, double weight) {
  TORCH_CHECK(weight >= 0 && std::isfinite(weight), "Mean: the weight is ", weight,
              "; weights are 0 or more");
  // No product for a weight of 0: it leaves out a value that is no number.
  add_to_sums(at::tensor({weight == 0 ? 0 : value * weight, weight}, at::kDouble));
}

void Mean::update(const at::Tensor& values) {
  TORCH_CHECK(values.defined(), "Mean: there is no tensor of values");
  const auto numbers = values.detach().to(at::kDouble);
  add_to_sums(at::stack(
      {numbers.sum(), at::scalar_tensor(static_cast<double>(numbers.numel()), numbers.options())}));
}

void Mean::update(const at::Tensor& values, const at::Tensor& weights) {
  TORCH_CHECK(values.defined() && weights.defined() &&
                  (weights.sizes() == values.sizes() || weights.numel() == 1),
              "Mean: weights have the shape of the values or one element, but the shapes are ",
              values.defined() ? values.sizes() : c10::IntArrayRef(), " and ",
              weights.defined() ? weights.sizes() : c10::IntArrayRef());
  const auto numbers = values.detach().to(at::kDouble);
  auto factors = weights.detach().to(numbers.device(), at::kDouble);
  factors = weights.sizes() == values.sizes() ? factors : factors.reshape({}).expand_as(numbers);
  const auto products = at::where(factors == 0, at::zeros_like(numbers), numbers * factors);
  add_to_sums(at::stack({products.sum(), factors.sum()}));
}

double Mean::compute() const {
  const auto both = sums();
  const auto divisor = both[1].item<double>();
  return divisor == 0 ? kNan : both[0].item<double>() / divisor;
}

double Mean::weight() const {
  return sums()[1].item<double>();
}

std::map<std::string, double> Mean::values(const std::string& name) const {
  return {{name, compute()}};
}

std::unique_ptr<Metric> Mean::clone() const {
  return std::make_unique<Mean>(*this);
}

// Its sums: samples that are right, samples, and those of which the class was out of range.
Accuracy::Accuracy(std::int64_t k) : Metric(3), k_(k) {
  TORCH_CHECK(k >= 1, "Accuracy: k is ", k, ", but it is 1 or more");
}

void Accuracy::update(const at::Tensor& scores, const at::Tensor& classes) {
  const at::NoGradGuard no_grad;
  check_integers("Accuracy", classes);
  const auto rows = score_rows("Accuracy", scores, classes);
  const auto number = rows.size(1);
  TORCH_CHECK(number >= k_, "Accuracy: the class is to be among the best ", k_,
              ", but there are only ", number, " classes");
  const auto targets = classes.detach().to(rows.device(), at::kLong).reshape({-1, 1});
  const auto is_wrong = targets.lt(0).logical_or(targets.ge(number));
  check_on_cpu(is_wrong, [&](std::int64_t wrong) {
    return "Accuracy: " + std::to_string(wrong) + " " + out_of_range(number);
  });
  const auto valid = targets.clamp(0, number - 1);
  const auto own = rows.gather(1, valid);
  // Not `rows > own`: a score that is no number counts as better.
  const auto is_better = rows.le(own).logical_not();
  const auto goes_first =
      rows.eq(own).logical_and(at::arange(number, targets.options()).unsqueeze(0).lt(valid));
  const auto rank = is_better.logical_or(goes_first).sum(1, /*keepdim=*/true);
  const auto is_right = rank.lt(k_).logical_and(is_wrong.logical_not());
  add_to_sums(
      at::stack({is_right.sum(), at::full_like(is_right.sum(), targets.numel()), is_wrong.sum()}));
}

double Accuracy::compute() const {
  const auto all = sums();
  check_none_wrong("Accuracy", all[2].item<double>(), "classes were out of range");
  const auto samples = all[1].item<double>();
  return samples == 0 ? kNan : all[0].item<double>() / samples;
}

std::int64_t Accuracy::samples() const {
  return static_cast<std::int64_t>(sums()[1].item<double>());
}

std::string Accuracy::kind() const {
  return "Accuracy of the best " + std::to_string(k_);
}

std::map<std::string, double> Accuracy::values(const std::string& name) const {
  return {{name, compute()}};
}

std::unique_ptr<Metric> Accuracy::clone() const {
  return std::make_unique<Accuracy>(*this);
}

namespace {

constexpr std::int64_t kMostClasses = 32768;
constexpr std::int64_t kMostBins = std::int64_t{1} << 24;

std::int64_t checked_classes(std::int64_t classes) {
  TORCH_CHECK(classes >= 2 && classes <= kMostClasses, "ConfusionMatrix: ", classes,
              " classes; it takes 2 to ", kMostClasses);
  return classes;
}

std::int64_t checked_bins(std::int64_t bins) {
  TORCH_CHECK(bins >= 2 && bins <= kMostBins, "Auroc: ", bins, " bins; it takes 2 to ", kMostBins);
  return bins;
}

}  // namespace

// Its sums: the matrix row by row, and the number of samples with a class out of range.
ConfusionMatrix::ConfusionMatrix(std::int64_t classes)
    : Metric(checked_classes(classes) * classes + 1), classes_(classes) {}

void ConfusionMatrix::update(const at::Tensor& predictions, const at::Tensor& classes) {
  const at::NoGradGuard no_grad;
  check_integers("ConfusionMatrix", classes);
  TORCH_CHECK(predictions.defined(), "ConfusionMatrix: there is no tensor of predictions");
  at::Tensor columns;
  if (predictions.is_floating_point()) {
    const auto rows = score_rows("ConfusionMatrix", predictions, classes);
    TORCH_CHECK(rows.size(1) == classes_, "ConfusionMatrix: scores are of ", rows.size(1),
                " classes, but the matrix is of ", classes_);
    columns = rows.argmax(1);
  } else {
    check_integers("ConfusionMatrix", predictions);
    TORCH_CHECK(predictions.sizes() == classes.sizes(),
                "ConfusionMatrix: predicted and true classes have the same shape, but the shapes ",
                "are ", predictions.sizes(), " and ", classes.sizes());
    columns = predictions.detach().to(at::kLong).reshape({-1});
  }
  const auto rows = classes.detach().to(columns.device(), at::kLong).reshape({-1});
  const auto is_wrong = rows.lt(0)
                            .logical_or(rows.ge(classes_))
                            .logical_or(columns.lt(0))
                            .logical_or(columns.ge(classes_));
  check_on_cpu(is_wrong, [&](std::int64_t wrong) {
    return "ConfusionMatrix: " + std::to_string(wrong) + " " + out_of_range(classes_);
  });
  const auto last = at::full_like(rows, classes_ * classes_);
  count(at::where(is_wrong, last, rows * classes_ + columns));
}

at::Tensor ConfusionMatrix::compute() const {
  const auto all = sums();
  check_none_wrong("ConfusionMatrix", all[-1].item<double>(), out_of_range(classes_));
  return all.slice(0, 0, -1).to(at::kLong).reshape({classes_, classes_});
}

std::string ConfusionMatrix::kind() const {
  return "ConfusionMatrix of " + std::to_string(classes_) + " classes";
}

std::map<std::string, double> ConfusionMatrix::values(const std::string& name) const {
  const auto matrix = compute().to(at::kDouble);
  const auto right = matrix.diagonal();
  const auto of_class = matrix.sum(1);
  const auto occurs = of_class.gt(0);
  const auto recall = at::where(occurs, right / of_class, at::zeros_like(right)).sum();
  // 0 / 0 is no number where nothing came.
  return {{name + "/accuracy", (right.sum() / of_class.sum()).item<double>()},
          {name + "/mean_recall", (recall / occurs.sum()).item<double>()}};
}

std::unique_ptr<Metric> ConfusionMatrix::clone() const {
  return std::make_unique<ConfusionMatrix>(*this);
}

// Its sums: negative samples in each interval, positive ones, and the number of samples of which
// the score or the class was out of range.
Auroc::Auroc(std::int64_t bins) : Metric(2 * checked_bins(bins) + 1), bins_(bins) {}

void Auroc::update(const at::Tensor& scores, const at::Tensor& positive) {
  const at::NoGradGuard no_grad;
  check_integers("Auroc", positive);
  check_floating("Auroc", scores);
  TORCH_CHECK(scores.sizes() == positive.sizes(),
              "Auroc: scores and classes have the same shape, but the shapes are ", scores.sizes(),
              " and ", positive.sizes());
  const auto numbers = scores.detach().to(at::kDouble);
  const auto classes = positive.detach().to(numbers.device(), at::kLong);
  const auto is_in_range = numbers.ge(0).logical_and(numbers.le(1));
  const auto is_wrong =
      is_in_range.logical_not().logical_or(classes.lt(0)).logical_or(classes.gt(1));
  check_on_cpu(is_wrong, [](std::int64_t wrong) {
    return "Auroc: " + std::to_string(wrong) +
           " samples have a score out of 0 to 1, or a class that is neither 0 nor 1; scores are "
           "probabilities, as sigmoid makes them";
  });
  const auto valid = at::where(is_wrong, at::zeros_like(numbers), numbers);
  const auto bin = (valid * bins_).floor().to(at::kLong).clamp(0, bins_ - 1);
  count(at::where(is_wrong, at::full_like(bin, 2 * bins_), classes * bins_ + bin));
}

namespace {

struct ScoreBins {
  at::Tensor negative;
  at::Tensor positive;
  double pairs = 0;
};

ScoreBins bins_of(const at::Tensor& sums, std::int64_t bins) {
  check_none_wrong("Auroc", sums[-1].item<double>(),
                   "samples had a score out of 0 to 1, or a class that is neither 0 nor 1");
  ScoreBins result{sums.slice(0, 0, bins), sums.slice(0, bins, 2 * bins)};
  result.pairs = result.negative.sum().item<double>() * result.positive.sum().item<double>();
  return result;
}

}  // namespace

double Auroc::compute() const {
  const auto [negative, positive, pairs] = bins_of(sums(), bins_);
  if (pairs == 0) return kNan;
  const auto below = negative.cumsum(0) - negative / 2;  // half of those in the same interval
  return (positive * below).sum().item<double>() / pairs;
}

double Auroc::margin() const {
  const auto [negative, positive, pairs] = bins_of(sums(), bins_);
  return pairs == 0 ? kNan : (positive * negative).sum().item<double>() / pairs / 2;
}

std::string Auroc::kind() const {
  return "Auroc of " + std::to_string(bins_) + " bins";
}

std::map<std::string, double> Auroc::values(const std::string& name) const {
  return {{name, compute()}};
}

std::unique_ptr<Metric> Auroc::clone() const {
  return std::make_unique<Auroc>(*this);
}

}  // namespace lockstep::training
