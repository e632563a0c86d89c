// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <cstddef>
#include <optional>
#include <vector>

#include "parallel/bucket_planner.h"

namespace lockstep {

/// The gradients of some parameters side by side in the group's memory, and how far they are in
/// this backward.
///
/// Step 3 of the gradient path. The all-reduce works on this memory in place, and afterwards the
/// gradients are views of it. Parameters on a device that the group's memory is not on keep their
/// own gradient and are copied there and back. Thread-safety: guarded by the reducer's lock.
class GradientBucket {
 public:
  /// `extra` elements more at the end, for the reducer's own use. Collective: allocates.
  GradientBucket(ProcessGroup& group, const BucketPlan& plan,
                 const std::vector<at::Tensor>& parameters, std::size_t extra);

  /// The gradient of this place is there: takes it in. An undefined one counts as zero.
  void take(std::size_t place, const at::Tensor& parameter);
  /// After the all-reduce: makes the average the parameter's gradient.
  void give(std::size_t place, const at::Tensor& parameter) const;

  [[nodiscard]] bool has_taken(std::size_t place) const { return has_taken_[place]; }
  [[nodiscard]] bool is_complete() const noexcept { return missing_ == 0; }
  [[nodiscard]] const std::vector<std::size_t>& parameters() const noexcept { return parameters_; }
  [[nodiscard]] at::Tensor extra() const;
  [[nodiscard]] std::size_t bytes() const { return flat_.nbytes(); }

  void launch(ProcessGroup& group);
  [[nodiscard]] bool is_launched() const noexcept { return work_.has_value(); }
  void wait() { work_->wait(); }
  /// Ready for the next backward.
  void reset();

 private:
  std::vector<std::size_t> parameters_;
  at::Tensor flat_;
  std::vector<at::Tensor> views_;
  std::size_t gradient_elements_ = 0;
  std::vector<bool> has_taken_;
  std::size_t missing_ = 0;
  std::optional<Work> work_;
};

}  // namespace lockstep
