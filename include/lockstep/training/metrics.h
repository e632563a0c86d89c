// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>

#include <concepts>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace lockstep::training {

/// A figure over all samples so far, kept as sums that can be added: samples to samples, and ranks
/// to ranks. `reduce_metrics` and `MetricSet`, in `<lockstep/training/metric_set.h>`, add those of
/// all ranks. Counts are among the sums, so that ranks may have seen different numbers of samples.
///
/// The sums are doubles, and lie on the device of the first tensors that came: an update waits for
/// no device. Counts are exact up to 2^53. Copies are independent. A `TrainingState` takes a metric
/// by `add_of_rank`.
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API Metric {
 public:
  virtual ~Metric() = default;

  /// Forgets all samples.
  void reset();
  /// What it is, with what the sums depend on: "Accuracy of the best 5".
  [[nodiscard]] virtual std::string kind() const = 0;
  /// The results under `name`, or under names that begin with it, for logs.
  /// Blocks: until the device has the sums.
  /// Throws: as `compute()` of the metric.
  [[nodiscard]] virtual std::map<std::string, double> values(const std::string& name) const = 0;
  /// Another one with the same sums.
  [[nodiscard]] virtual std::unique_ptr<Metric> clone() const = 0;

  /// The sums, on the CPU.
  /// Shapes: one dimension, double.
  [[nodiscard]] at::Tensor sums() const;
  /// Replaces the sums by those of the same metric, or by those of all ranks.
  /// Throws: `c10::Error` for another number of them, or another dtype.
  void set_sums(const at::Tensor& sums);

  /// For a `TrainingState`.
  [[nodiscard]] std::map<std::string, at::Tensor> state() const;
  /// For a `TrainingState`.
  /// Throws: `c10::Error` for the state of something else.
  void load_state(const std::map<std::string, at::Tensor>& state);

 protected:
  /// So many sums, all zero.
  explicit Metric(std::int64_t count);
  Metric(const Metric&) = default;
  Metric& operator=(const Metric&) = default;

  /// Adds to all of them.
  void add_to_sums(const at::Tensor& increments);
  /// Adds one to the sum at each of these indices (int64, any shape).
  void count(const at::Tensor& indices);

 private:
  at::Tensor sums_;  // never written in place: copies of a metric share it
};

/// The mean of values, each with a weight: of losses of batches, the weight is the number of
/// samples.
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API Mean final : public Metric {
 public:
  Mean() : Metric(2) {}

  /// Throws: `c10::Error` for a weight that is negative or no number.
  void update(double value, double weight = 1);
  /// The same for a number of samples.
  template <std::integral T>
  void update(double value, T weight) {
    update(value, static_cast<double>(weight));
  }
  /// Each element counts for itself, with the weight 1.
  /// Shapes: any.
  void update(const at::Tensor& values);
  /// Each element has the weight at the same place, or all of them the one weight.
  /// Shapes: the same, or `weights` of one element.
  /// Throws: `c10::Error` for other shapes.
  void update(const at::Tensor& values, const at::Tensor& weights);

  /// Not a number (NaN) before the first update, and where a value was none.
  /// Blocks: until the device has the sums.
  [[nodiscard]] double compute() const;
  /// The sum of all weights.
  /// Blocks: until the device has the sums.
  [[nodiscard]] double weight() const;

  [[nodiscard]] std::string kind() const override { return "Mean"; }
  [[nodiscard]] std::map<std::string, double> values(const std::string& name) const override;
  [[nodiscard]] std::unique_ptr<Metric> clone() const override;
};

/// The share of samples whose class is among the `k` best scores.
///
/// Of equal scores, those of lower classes are better, and a score that is no number is the best of
/// all, but for the class itself: whoever predicts the same for all classes has no better accuracy
/// than by chance.
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API Accuracy final : public Metric {
 public:
  /// Throws: `c10::Error` for a `k` below 1.
  explicit Accuracy(std::int64_t k = 1);

  /// Shapes: scores `[N, classes, ...]` of any floating dtype and integers as classes `[N, ...]`,
  /// as `cross_entropy` takes them.
  /// Throws: `c10::Error` for other shapes or dtypes, for fewer than `k` classes, and for classes
  /// out of range. Of tensors on other devices than the CPU, `compute()` throws the last of these.
  void update(const at::Tensor& scores, const at::Tensor& classes);

  /// Not a number (NaN) before the first update.
  /// Blocks: until the device has the sums.
  /// Throws: `c10::Error` when classes were out of range.
  [[nodiscard]] double compute() const;
  /// How many samples came.
  /// Blocks: until the device has the sums.
  [[nodiscard]] std::int64_t samples() const;

  [[nodiscard]] std::string kind() const override;
  [[nodiscard]] std::map<std::string, double> values(const std::string& name) const override;
  [[nodiscard]] std::unique_ptr<Metric> clone() const override;

 private:
  std::int64_t k_;
};

/// How often each class was taken for each.
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API ConfusionMatrix final : public Metric {
 public:
  /// Throws: `c10::Error` for fewer than 2 or more than 32768 classes.
  explicit ConfusionMatrix(std::int64_t classes);

  /// Shapes: predicted classes as integers `[N, ...]`, or their scores `[N, classes, ...]`; and the
  /// true classes as integers `[N, ...]`.
  /// Throws: `c10::Error` for other shapes or dtypes, and for classes out of range. Of tensors on
  /// other devices than the CPU, `compute()` throws the latter.
  void update(const at::Tensor& predictions, const at::Tensor& classes);

  /// Row: the true class. Column: the predicted one.
  /// Shapes: `[classes, classes]`, int64.
  /// Blocks: until the device has the sums.
  /// Throws: `c10::Error` when classes were out of range.
  [[nodiscard]] at::Tensor compute() const;

  [[nodiscard]] std::string kind() const override;
  /// `name/accuracy`, and `name/mean_recall` over the classes that occurred.
  [[nodiscard]] std::map<std::string, double> values(const std::string& name) const override;
  [[nodiscard]] std::unique_ptr<Metric> clone() const override;

 private:
  std::int64_t classes_;
};

/// The area under the curve of the receiver operating characteristic of two classes: how often a
/// positive sample has a higher score than a negative one, where equal scores count one half.
///
/// Binned: scores, which are from 0 to 1, are counted in `bins` intervals of the same length, and
/// those of one interval are taken as equal. So the memory does not grow, and ranks can be added.
/// `margin()` is how far from the exact value the result can be at most. Scores that are
/// multiples of 1 / bins, as those of 8 bits are for 255 bins, give the exact value.
///
/// Thread-safety: one thread at a time.
class LOCKSTEP_API Auroc final : public Metric {
 public:
  /// Throws: `c10::Error` for fewer than 2 or more than 2^24 bins.
  explicit Auroc(std::int64_t bins = 4096);

  /// `positive`: 1 or true, and 0 or false.
  /// Shapes: the same, any; floating scores; `positive` is bool or an integer.
  /// Throws: `c10::Error` for other shapes or dtypes, for a score out of 0 to 1, and for a class
  /// that is neither 0 nor 1. Of tensors on other devices than the CPU, `compute()` throws the last
  /// two.
  void update(const at::Tensor& scores, const at::Tensor& positive);

  /// Not a number (NaN) before both classes have come.
  /// Blocks: until the device has the sums.
  /// Throws: `c10::Error` when scores or classes were out of range.
  [[nodiscard]] double compute() const;
  /// Half of the share of pairs, of a positive and a negative sample, that lie in one interval.
  /// Blocks: until the device has the sums.
  /// Throws: as `compute()`.
  [[nodiscard]] double margin() const;

  [[nodiscard]] std::string kind() const override;
  [[nodiscard]] std::map<std::string, double> values(const std::string& name) const override;
  [[nodiscard]] std::unique_ptr<Metric> clone() const override;

 private:
  std::int64_t bins_;
};

}  // namespace lockstep::training
