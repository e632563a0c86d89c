// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>

#include "parallel/buckets/usage_summary.h"
#include "parallel/ddp/reducer_context.h"

namespace lockstep {

/// Makes averages the parameters' gradients, when the buckets are reduced, and remembers how each
/// parameter was used.
///
/// Most averages lie in buckets. This class reduces late gradients once more and gathers sparse
/// ones. A parameter that no rank used keeps the gradient it had.
/// Thread-safety: guarded by the reducer's lock.
class AverageWriter {
 public:
  /// What it has to know of the iteration.
  struct Iteration {
    const UsageSummary* summary = nullptr;  ///< null: the iteration has none
    double scale = 1;                       ///< of this rank's gradients
    double factor = 1;                      ///< of all averages
    bool has_samples = true;       ///< otherwise there is no average, and nothing that could be one
    std::weak_ptr<bool> backward;  ///< lives as long as the backward
  };

  explicit AverageWriter(const ReducerContext& context) : context_(context) {}

  /// Adds the averages of late gradients to those in buckets. The summary says which there are.
  /// Blocks: the calling thread. Collective: all ranks.
  void add_late_gradients(const Iteration& iteration);
  /// Writes every average to its parameter's gradient.
  /// Blocks: the calling thread, where some gradients are sparse. Collective: in that case.
  void write_all(const Iteration& iteration);

 private:
  void write_unassigned(std::size_t index, const Iteration& iteration);
  void write_assigned(std::size_t index, const Iteration& iteration);
  void note_usage(std::size_t index, const UsageSummary* summary);
  /// Makes the average the parameter's gradient, or adds it to the one that another model wrote.
  void write(ReducedParameter& parameter, const at::Tensor& average, const Iteration& iteration);
  [[nodiscard]] at::Tensor sparse_average(const ReducedParameter& parameter,
                                          const Iteration& iteration);
  [[nodiscard]] GradientBucket& bucket_of(const ReducedParameter& parameter) {
    return context_.buckets.at(parameter.bucket);
  }

  ReducerContext context_;
};

}  // namespace lockstep
