// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

/// Averages gradients over the ranks while backward runs.
///
/// Step 1 of the gradient path: autograd tells when a gradient is there; the reducer puts it into
/// its bucket, starts the all-reduce of every bucket that is complete in bucket order (never in
/// order of arrival: that could differ between ranks), and when the outermost backward ends, waits
/// for all of them. Owns: the hooks on the parameters' gradient accumulators, and the buckets.
/// Thread-safety: the hooks may be called from any thread of autograd's; everything else as the
/// group.
class GradientReducer {
 public:
  using NamedParameter = std::pair<std::string, at::Tensor>;

  /// `parameters`: those that need gradients, without repetition, in registration order.
  /// Collective.
  GradientReducer(std::shared_ptr<ProcessGroup> group, std::vector<NamedParameter> parameters,
                  const DistributedDataParallelOptions& options);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;

  /// A backward that reaches `output` will be taken as one with everything that runs inside it.
  void watch(const at::Tensor& output);

  [[nodiscard]] std::vector<std::size_t> bucket_bytes() const;

 private:
  class State;
  // LibTorch changes what an owning pointer to a node is.
  using Node = decltype(torch::autograd::impl::grad_accumulator(std::declval<at::Tensor>()));

  std::shared_ptr<State> state_;  // hooks hold it weakly: one may still run when the reducer goes
  std::vector<std::pair<Node, std::uintptr_t>> hooks_;
};

}  // namespace lockstep
