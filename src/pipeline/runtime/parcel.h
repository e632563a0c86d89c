// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

namespace lockstep::pipeline {

/// How the batch of a step is cut, as the first stage knows it and all others learn it.
struct BatchShape {
  std::int64_t rows = 0;        ///< of this microbatch
  std::int64_t batch_rows = 0;  ///< of all of them
  std::int64_t microbatches = 0;
};

/// What goes from a stage to its neighbour for one microbatch: the outputs of a forward, or the
/// gradients of the receiver's outputs that need some.
///
/// Thread-safety: a value.
struct Parcel {
  std::int64_t stage = 0;  ///< that receives
  std::int64_t microbatch = 0;
  BatchShape batch;
  /// Where the tensors lie (`ActivationSlots`); nothing: they follow as messages.
  std::optional<std::int64_t> slot = {};
  std::vector<at::Tensor> tensors;  ///< undefined: no gradient came to that output
  std::vector<bool> needs_gradient;
};

/// Words of the message that comes before the tensors.
constexpr std::size_t kHeaderWords = 64;

/// A parcel as words: shapes and dtypes of the tensors, not what is in them. More than
/// `kHeaderWords` of them travel as two messages.
[[nodiscard]] std::vector<std::int64_t> describe_parcel(const Parcel& parcel);
/// How many words there are, from the first `kHeaderWords`. Throws: `c10::Error` for what is not
/// the begin of such a description.
[[nodiscard]] std::int64_t words_of(const std::int64_t* header, int from);
/// Gives the memory of a tensor. `slot`: as in `Parcel`.
using MakeTensor = std::function<at::Tensor(const std::optional<std::int64_t>& slot,
                                            at::IntArrayRef sizes, at::ScalarType dtype)>;
/// The parcel, whose tensors `make` makes in their order. Throws: `c10::Error` for a description
/// that is none. `from`: the rank that sent it.
[[nodiscard]] Parcel make_parcel(const std::vector<std::int64_t>& words, const MakeTensor& make,
                                 int from);

}  // namespace lockstep::pipeline
