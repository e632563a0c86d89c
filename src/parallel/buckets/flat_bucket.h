// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/future.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/communication_hook.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/buckets/assign_buckets.h"
#include "parallel/buckets/gradient_bucket.h"

namespace lockstep {

/// A bucket whose gradients lie side by side in one tensor of registered memory.
///
/// Every gradient is copied there, unless it still is the bucket's view, as in accumulation. This
/// serves all devices, dtypes and backends, and communication hooks, which want one tensor.
/// Owns: a part of the storage's tensor. Thread-safety: guarded by the reducer's lock.
class FlatBucket final : public GradientBucket {
 public:
  /// How many elements a bucket needs. Gradients begin on cache lines.
  [[nodiscard]] static std::size_t elements_for(const BucketSpec& spec,
                                                const std::vector<GradientShape>& shapes);
  /// `flat`: that many elements of registered memory. `is_summed`: the all-reduce sums, and
  /// `multiply` divides too, because NCCL has its fastest kernels for sums alone.
  FlatBucket(const BucketSpec& spec, at::Tensor flat, const std::vector<at::Tensor>& parameters,
             std::string name, bool is_summed = false);

  void note_waiting(std::size_t place, const at::Tensor& gradient,
                    const at::Tensor& incoming) override;
  void multiply(double factor) override;
  [[nodiscard]] double divisor() const noexcept override { return divisor_; }
  void vacate() override;

  using GradientBucket::launch;
  /// Calls the hook instead of an all-reduce. `view`: has `flat` and `parts`.
  void launch(ProcessGroup& group, const CommunicationHook& hook, const GradientBucketView& view);
  [[nodiscard]] const at::Tensor& flat() const noexcept { return flat_; }
  /// The gradients as parts of `flat`.
  [[nodiscard]] std::vector<at::Tensor> parts() const;
  [[nodiscard]] bool is_launched() const noexcept override;
  [[nodiscard]] bool is_reduced() override;
  void wait() override;
  void reset() override;

 private:
  /// Moves what lies in this place and is not the gradient away, for whoever holds it.
  void prepare_view(std::size_t place, const at::Tensor& gradient, const at::Tensor& incoming,
                    bool leaves_it) override;
  [[nodiscard]] Work all_reduce(ProcessGroup& group) override;
  void vacate(std::size_t place);

  at::Tensor flat_;
  bool is_summed_;
  double divisor_ = 1;                        // of what the all-reduce under way gives
  std::vector<std::size_t> begins_;           // elements, in `flat_`
  std::optional<Future<at::Tensor>> result_;  // of a hook
};

}  // namespace lockstep
