// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/samples/sample_tree.h>

#include <cstddef>
#include <functional>
#include <vector>

namespace lockstep::data {

/// Does what `stack` does; when it throws, `at` is the number of the sample that is unlike the
/// first.
[[nodiscard]] SampleTree stack(std::vector<SampleTree> samples, std::size_t& at);

/// The same tree with `change` applied to each tensor.
[[nodiscard]] SampleTree map_tensors(const SampleTree& tree,
                                     const std::function<at::Tensor(const at::Tensor&)>& change);

/// The same tree with all tensors of the CPU cloned into pinned memory of LibTorch's, which takes
/// care by itself that it is not reused during a copy. Only where there is an accelerator.
[[nodiscard]] SampleTree clone_into_pinned_memory(const SampleTree& tree);

}  // namespace lockstep::data
