// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <cstdint>
#include <memory>

namespace lockstep::nn {

/// Which tokens count, how much is asked of all classes, and how many there are.
struct CrossEntropySettings {
  std::int64_t ignore_index;
  double label_smoothing;
  std::int64_t classes;
};

/// The loss of each token, over the classes of all ranks; 0 for tokens that do not count.
///
/// Shapes: `logits` {tokens, this rank's share of the classes}, contiguous, float or double;
/// `targets` {tokens}.
[[nodiscard]] at::Tensor vocab_cross_entropy(const at::Tensor& logits, const at::Tensor& targets,
                                             const CrossEntropySettings& settings,
                                             const std::shared_ptr<ProcessGroup>& group);

}  // namespace lockstep::nn
