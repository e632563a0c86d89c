// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/communication_hook.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/buckets/bucket_planner.h"
#include "parallel/buckets/gradient_arena.h"

namespace lockstep {

/// The gradients of some parameters in the group's memory, and how far they are in this backward.
///
/// Step 3 of the gradient path. The all-reduce works on this memory in place, and afterwards the
/// gradients lie in it. They are side by side, or, with an arena, wherever in it autograd put them.
/// From `take` to `give` a parameter has no gradient, so that autograd writes nothing to memory
/// that is being reduced. Thread-safety: guarded by the reducer's lock.
class GradientBucket {
 public:
  /// How many elements a bucket needs whose gradients are side by side. They begin on cache lines.
  [[nodiscard]] static std::size_t elements_for(const BucketPlan& plan,
                                                const std::vector<GradientShape>& shapes);
  /// `flat`: that many elements of group memory.
  GradientBucket(const BucketPlan& plan, at::Tensor flat, const std::vector<at::Tensor>& parameters,
                 std::string name);
  /// `numbers`: of the parameters in the arena. `places`: group memory that says where they lie,
  /// one number a gradient.
  GradientBucket(const BucketPlan& plan, std::shared_ptr<GradientArena> arena,
                 std::vector<std::size_t> numbers, at::Tensor places,
                 const std::vector<at::Tensor>& parameters, std::string name);

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
  void note_waiting(std::size_t place, const at::Tensor& gradient, const at::Tensor& incoming);

  [[nodiscard]] bool has_taken(std::size_t place) const { return has_taken_[place]; }
  [[nodiscard]] bool is_complete() const noexcept { return missing_ == 0; }
  [[nodiscard]] const std::vector<std::size_t>& parameters() const noexcept { return parameters_; }
  [[nodiscard]] const at::Tensor& view(std::size_t place) const { return views_[place]; }
  /// The gradients as parts of `flat`, for communication hooks. Not with an arena.
  [[nodiscard]] std::vector<at::Tensor> parts() const;
  /// Undefined with an arena.
  [[nodiscard]] const at::Tensor& flat() const noexcept { return flat_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  /// Of gradients, in this cycle.
  [[nodiscard]] std::size_t copied_bytes() const noexcept { return copied_bytes_; }
  void multiply(double factor);
  /// Whoever holds gradients that lie here keeps them elsewhere. Not with an arena.
  void vacate();

  void launch(ProcessGroup& group);
  /// Not with an arena.
  void launch(ProcessGroup& group, const CommunicationHook& hook, const GradientBucketView& view);
  [[nodiscard]] std::chrono::steady_clock::time_point launched_at() const { return launched_at_; }
  [[nodiscard]] bool is_launched() const noexcept { return work_ || result_; }
  [[nodiscard]] bool is_reduced();
  void wait();
  /// Ready for the next backward.
  void reset();

 private:
  /// The stream on which everything that was taken is ready. Gradients come on several streams
  /// where parts of the model run on several.
  void follow_stream();
  /// Makes the view of this place what the gradient is, or memory for it.
  void settle_in_arena(std::size_t place, const at::Tensor& gradient, const at::Tensor& incoming,
                       bool leaves_it);
  /// The same side by side: what lies there and is not the gradient is moved away for whoever holds
  /// it.
  void settle(std::size_t place, const at::Tensor& gradient, bool leaves_it);
  void vacate(std::size_t place);
  [[nodiscard]] bool is_view(std::size_t place, const at::Tensor& gradient) const;
  [[nodiscard]] bool is_laid_out_as(const at::Tensor& shape, const at::Tensor& gradient) const;
  void count_as_taken(std::size_t place);

  std::vector<std::size_t> parameters_;
  at::ScalarType dtype_;
  c10::Device device_;
  at::Tensor flat_;
  std::shared_ptr<GradientArena> arena_;
  std::vector<std::size_t> numbers_;
  at::Tensor places_;
  std::vector<at::Tensor> shapes_;   // meta tensors
  std::vector<std::size_t> begins_;  // elements, in `flat_`
  std::size_t bytes_ = 0;
  std::size_t copied_bytes_ = 0;
  std::string name_;
  std::vector<at::Tensor> views_;  // each with a storage of its own, which tells who holds it
  std::vector<bool> has_taken_;
  std::size_t missing_ = 0;
  std::optional<c10::Stream> stream_;
  std::chrono::steady_clock::time_point launched_at_;
  std::optional<Work> work_;
  std::optional<Future<at::Tensor>> result_;
};

}  // namespace lockstep
