// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>
#include <lockstep/comm/process_group.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "parallel/buckets/bucket_planner.h"

namespace lockstep {

/// The gradients of some parameters in the group's memory, and how far they are in this backward.
///
/// Step 3 of the gradient path. The all-reduce works on this memory in place, and afterwards the
/// gradients lie in it: side by side (`FlatBucket`), or wherever in an arena autograd put them
/// (`ArenaBucket`). This class counts what is in; the two others know where it lies.
/// From `take` to `average` a parameter has no gradient, so that autograd writes nothing to memory
/// that is being reduced. Owns: the work that reduces it. Thread-safety: guarded by the reducer's
/// lock.
class GradientBucket {
 public:
  virtual ~GradientBucket() = default;
  GradientBucket(const GradientBucket&) = delete;
  GradientBucket& operator=(const GradientBucket&) = delete;

  /// Takes in the gradient of this place, times `scale`, which is nothing if that is 0; once more:
  /// adds it. Without one: zero. Copies it, unless it lies in the arena and nothing else lies
  /// there, or `leaves_it`: the tensor keeps its values. `incoming`: what autograd made the
  /// gradient of, if it still holds it.
  void take(std::size_t place, const at::Tensor& parameter, double scale,
            const at::Tensor& incoming = {}, bool leaves_it = false);
  /// Counts as taken, as zero if nothing was; the parameter keeps its gradient.
  void take_nothing(std::size_t place);
  /// After the all-reduce: the average, of the parameter's dtype.
  [[nodiscard]] at::Tensor average(std::size_t place, const at::Tensor& parameter) const;
  /// A gradient that waits for a later backward. `incoming`: as of `take`.
  virtual void note_waiting(std::size_t place, const at::Tensor& gradient,
                            const at::Tensor& incoming) = 0;

  [[nodiscard]] bool has_taken(std::size_t place) const { return has_taken_[place]; }
  [[nodiscard]] bool is_complete() const noexcept { return missing_ == 0; }
  [[nodiscard]] const std::vector<std::size_t>& parameters() const noexcept { return parameters_; }
  [[nodiscard]] const at::Tensor& view(std::size_t place) const { return views_[place]; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  /// Of gradients, in this cycle.
  [[nodiscard]] std::size_t copied_bytes() const noexcept { return copied_bytes_; }
  virtual void multiply(double factor) = 0;
  /// Other buckets are going to have this memory: whoever holds gradients that lie side by side in
  /// it keeps them elsewhere.
  virtual void vacate() = 0;

  void launch(ProcessGroup& group);
  [[nodiscard]] std::chrono::steady_clock::time_point launched_at() const { return launched_at_; }
  [[nodiscard]] virtual bool is_launched() const noexcept { return work_.has_value(); }
  [[nodiscard]] virtual bool is_reduced() { return work_ && work_->is_completed(); }
  virtual void wait() { work_->wait(); }
  /// Ready for the next backward.
  virtual void reset();

 protected:
  /// Gradients begin on cache lines: so many elements has the place of one.
  [[nodiscard]] static std::size_t padded(std::size_t elements, at::ScalarType dtype);

  GradientBucket(const BucketPlan& plan, const std::vector<at::Tensor>& parameters,
                 std::string name);

  /// Calls that under this bucket's name, on the stream on which everything is ready.
  void launch_by(ProcessGroup& group, const std::function<void()>& start);
  [[nodiscard]] bool is_laid_out_as(const at::Tensor& shape, const at::Tensor& gradient) const;
  [[nodiscard]] const at::Tensor& shape(std::size_t place) const { return shapes_[place]; }
  [[nodiscard]] at::Tensor& own_view(std::size_t place) { return views_[place]; }
  [[nodiscard]] std::size_t places() const noexcept { return shapes_.size(); }
  [[nodiscard]] bool is_view(std::size_t place, const at::Tensor& gradient) const;
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  /// Makes the view of this place what the gradient is, or memory for it. Arguments as of `take`.
  virtual void settle(std::size_t place, const at::Tensor& gradient, const at::Tensor& incoming,
                      bool leaves_it) = 0;
  [[nodiscard]] virtual Work all_reduce(ProcessGroup& group) = 0;
  /// The stream on which everything that was taken is ready. Gradients come on several streams
  /// where parts of the model run on several.
  void follow_stream();
  void copy_in(std::size_t place, const at::Tensor& gradient, double scale);
  void count_as_taken(std::size_t place);

  std::vector<std::size_t> parameters_;
  at::ScalarType dtype_;
  c10::Device device_;
  std::string name_;
  std::vector<at::Tensor> shapes_;  // meta tensors
  std::size_t bytes_ = 0;
  std::size_t copied_bytes_ = 0;
  std::vector<at::Tensor> views_;  // each with a storage of its own, which tells who holds it
  std::vector<bool> has_taken_;
  std::size_t missing_ = 0;
  std::optional<c10::Stream> stream_;
  std::chrono::steady_clock::time_point launched_at_;
  std::optional<Work> work_;
};

}  // namespace lockstep
