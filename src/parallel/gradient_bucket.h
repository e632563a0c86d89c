// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/communication_hook.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "parallel/bucket_planner.h"

namespace lockstep {

/// The gradients of some parameters side by side in the group's memory, and how far they are in
/// this backward.
///
/// Step 3 of the gradient path. The all-reduce works on this memory in place, and afterwards the
/// gradients are views of it. From `take` to `give` a parameter has no gradient, so that autograd
/// writes nothing to memory that is being reduced. Thread-safety: guarded by the reducer's lock.
class GradientBucket {
 public:
  /// How many elements the bucket needs. Gradients begin on cache lines.
  [[nodiscard]] static std::size_t elements_for(const BucketPlan& plan,
                                                const std::vector<GradientShape>& shapes);
  /// `flat`: that many elements of group memory. `share`: what of it this rank reduces itself.
  GradientBucket(const BucketPlan& plan, at::Tensor flat, ProcessGroup::Share share,
                 const std::vector<at::Tensor>& parameters, std::string name);

  /// Takes in the gradient of this place, times `scale`; once more: adds it. Without one: zero.
  /// What falls into this rank's own share is left where autograd put it, since no other rank reads
  /// it: half of all copies are saved with two ranks.
  void take(std::size_t place, const at::Tensor& parameter, double scale);
  /// Counts as taken, as zero; the parameter keeps its gradient.
  void take_nothing(std::size_t place);
  /// After the all-reduce: makes the average the parameter's gradient.
  void give(std::size_t place, const at::Tensor& parameter) const;

  [[nodiscard]] bool has_taken(std::size_t place) const { return has_taken_[place]; }
  [[nodiscard]] bool is_complete() const noexcept { return missing_ == 0; }
  [[nodiscard]] const std::vector<std::size_t>& parameters() const noexcept { return parameters_; }
  [[nodiscard]] const at::Tensor& view(std::size_t place) const { return views_[place]; }
  [[nodiscard]] const std::vector<at::Tensor>& views() const noexcept { return views_; }
  [[nodiscard]] const at::Tensor& flat() const noexcept { return flat_; }
  [[nodiscard]] bool is_view(std::size_t place, const at::Tensor& gradient) const;

  void launch(ProcessGroup& group);
  void launch(ProcessGroup& group, const CommunicationHook& hook, const GradientBucketView& view);
  [[nodiscard]] std::chrono::steady_clock::time_point launched_at() const { return launched_at_; }
  [[nodiscard]] bool is_launched() const noexcept { return work_ || result_; }
  [[nodiscard]] bool is_reduced();
  void wait();
  /// Lets go of gradients that were left where they are, once they have been reduced.
  void let_go() noexcept { parts_.clear(); }
  /// Copies them after all, for whoever wants the whole bucket.
  void gather();
  /// Ready for the next backward.
  void reset();

 private:
  /// The stream on which everything that was taken is ready. Gradients come on several streams
  /// where parts of the model run on several.
  void follow_stream();
  void copy(std::size_t place, const at::Tensor& gradient);

  std::vector<std::size_t> parameters_;
  at::Tensor flat_;
  std::string name_;
  std::vector<at::Tensor> views_;
  std::vector<std::int64_t> offsets_;
  ProcessGroup::Share share_;
  std::vector<ProcessGroup::Part> parts_;  // of the share, left where autograd put them
  std::vector<bool> has_taken_;
  std::size_t missing_ = 0;
  std::optional<c10::Stream> stream_;
  std::chrono::steady_clock::time_point launched_at_;
  std::optional<Work> work_;
  std::optional<Future<at::Tensor>> result_;
};

}  // namespace lockstep
