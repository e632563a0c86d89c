// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>

#include "parallel/buckets/reduction_summary.h"
#include "parallel/ddp/reducer_context.h"

namespace lockstep {

/// Makes averages the parameters' gradients, when the buckets are reduced.
///
/// Those from buckets, those of late gradients, which are reduced here once more, and of sparse
/// ones, which are gathered; and remembers how each parameter was used. A parameter that no rank
/// used keeps the gradient it had. Thread-safety: guarded by the reducer's lock.
class AverageWriter {
 public:
  /// Of one cycle.
  struct Cycle {
    const ReductionSummary* summary = nullptr;  ///< null: it has none
    double scale = 1;                           ///< of this rank's gradients
    double factor = 1;                          ///< of all averages
    bool has_samples = true;       ///< otherwise there is no average, and nothing that could be one
    std::weak_ptr<bool> backward;  ///< lives as long as the backward
  };

  explicit AverageWriter(const ReducerContext& context) : context_(context) {}

  /// The summary says which there are. Collective. Blocks.
  void add_late_gradients(const Cycle& cycle);
  /// Collective where some are sparse.
  void give_all(const Cycle& cycle);

 private:
  void give_unplanned(std::size_t index, const Cycle& cycle);
  void give_planned(std::size_t index, const Cycle& cycle);
  void note_usage(std::size_t index, const ReductionSummary* summary);
  /// Makes it the parameter's gradient, or adds it to what another model made that.
  void give(ReducedParameter& parameter, const at::Tensor& average, const Cycle& cycle);
  [[nodiscard]] at::Tensor sparse_average(const ReducedParameter& parameter, const Cycle& cycle);
  [[nodiscard]] GradientBucket& bucket_of(const ReducedParameter& parameter) {
    return context_.buckets.at(parameter.bucket);
  }

  ReducerContext context_;
};

}  // namespace lockstep
