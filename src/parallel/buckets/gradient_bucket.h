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

#include "parallel/buckets/assign_buckets.h"

namespace lockstep {

/// The gradients of some parameters in the group's memory, and how far they are in this backward.
///
/// Step 3 of the gradient data path. The all-reduce works on this memory in place, and afterwards
/// the gradients lie in it: side by side (`FlatBucket`), or wherever in an arena autograd made them
/// (`ArenaBucket`). This class counts which places are filled; those two know where the gradients
/// lie. From `put` to `average` a parameter has no gradient, so that autograd writes nothing to
/// memory that is being reduced. Owns: the work that reduces the bucket.
/// Thread-safety: guarded by the reducer's lock.
class GradientBucket {
 public:
  virtual ~GradientBucket() = default;
  GradientBucket(const GradientBucket&) = delete;
  GradientBucket& operator=(const GradientBucket&) = delete;

  /// Puts the parameter's gradient, times `scale`, into its place, or adds it to what is there.
  /// Where there is no gradient, or `scale` is 0, that is zero. The gradient is copied, unless it
  /// may stay where it lies. `incoming`: the tensor of which autograd made the gradient, if
  /// autograd still holds it. `leaves_it`: the gradient's tensor keeps its memory and its values.
  void put(std::size_t place, const at::Tensor& parameter, double scale,
           const at::Tensor& incoming = {}, bool leaves_it = false);
  /// Puts zero into this place, if it is not filled yet. The parameter keeps its gradient.
  void put_zero(std::size_t place);
  /// The average, after the all-reduce, in the parameter's dtype.
  [[nodiscard]] at::Tensor average(std::size_t place, const at::Tensor& parameter) const;
  /// Notes a gradient that waits for a later backward. `incoming`: as for `put`.
  virtual void note_waiting(std::size_t place, const at::Tensor& gradient,
                            const at::Tensor& incoming) = 0;

  [[nodiscard]] bool is_filled(std::size_t place) const { return is_filled_[place]; }
  [[nodiscard]] bool is_complete() const noexcept { return missing_ == 0; }
  [[nodiscard]] const std::vector<std::size_t>& parameters() const noexcept { return parameters_; }
  [[nodiscard]] const at::Tensor& view(std::size_t place) const { return views_[place]; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  /// Bytes of the gradients that were copied in this iteration.
  [[nodiscard]] std::size_t copied_bytes() const noexcept { return copied_bytes_; }
  /// Multiplies the averages, once after the all-reduce. 1 is a factor too: where the all-reduce
  /// gave sums, this makes averages of them.
  virtual void multiply(double factor) = 0;
  /// What is in the bucket now is so many times the average.
  [[nodiscard]] virtual double divisor() const noexcept { return 1; }
  /// Moves gradients that somebody still holds elsewhere, since other buckets are going to have
  /// this memory.
  virtual void vacate() = 0;

  void launch(ProcessGroup& group);
  [[nodiscard]] std::chrono::steady_clock::time_point launched_at() const { return launched_at_; }
  /// When this rank knew that the bucket was reduced, in the iteration before or in this one.
  [[nodiscard]] std::chrono::steady_clock::time_point reduced_at() const { return reduced_at_; }
  void note_reduced(std::chrono::steady_clock::time_point when) { reduced_at_ = when; }
  [[nodiscard]] virtual bool is_launched() const noexcept { return work_.has_value(); }
  [[nodiscard]] virtual bool is_reduced() { return work_ && work_->is_completed(); }
  virtual void wait() { work_->wait(); }
  /// Empties all places for the next backward.
  virtual void reset();

 protected:
  /// How many elements the place of a gradient has: gradients begin on cache lines.
  [[nodiscard]] static std::size_t padded(std::size_t elements, at::ScalarType dtype);

  GradientBucket(const BucketSpec& spec, const std::vector<at::Tensor>& parameters,
                 std::string name);

  /// Calls `start` under this bucket's name, on the stream on which all its gradients are ready.
  void launch_by(ProcessGroup& group, const std::function<void()>& start);
  [[nodiscard]] bool is_laid_out_as(const at::Tensor& shape, const at::Tensor& gradient) const;
  [[nodiscard]] const at::Tensor& shape(std::size_t place) const { return shapes_[place]; }
  [[nodiscard]] at::Tensor& own_view(std::size_t place) { return views_[place]; }
  [[nodiscard]] std::size_t places() const noexcept { return shapes_.size(); }
  [[nodiscard]] bool is_view(std::size_t place, const at::Tensor& gradient) const;
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

 private:
  /// Makes the view of this place the gradient itself, if it may stay where it lies, or else memory
  /// for it. The arguments are those of `put`.
  virtual void prepare_view(std::size_t place, const at::Tensor& gradient,
                            const at::Tensor& incoming, bool leaves_it) = 0;
  [[nodiscard]] virtual Work all_reduce(ProcessGroup& group) = 0;
  /// Makes the current stream the one on which everything in the bucket is ready. Gradients come on
  /// several streams where parts of the model run on several.
  void follow_stream();
  void copy_in(std::size_t place, const at::Tensor& gradient, double scale);
  void count_as_filled(std::size_t place);

  std::vector<std::size_t> parameters_;
  at::ScalarType dtype_;
  c10::Device device_;
  std::string name_;
  std::vector<at::Tensor> shapes_;  // meta tensors
  std::size_t bytes_ = 0;
  std::size_t copied_bytes_ = 0;
  std::vector<at::Tensor> views_;  // each with a storage of its own, which tells who holds it
  std::vector<bool> is_filled_;
  std::size_t missing_ = 0;
  std::optional<c10::Stream> stream_;
  std::chrono::steady_clock::time_point launched_at_, reduced_at_;
  std::optional<Work> work_;
};

}  // namespace lockstep
