// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/sample_codec.h>

#include <concepts>
#include <utility>
#include <vector>

namespace lockstep::data {

/// The collate function of a loader that is given none: it stacks samples. A batch has the
/// structure of a sample, with a dimension in front of each tensor and a vector for each string.
///
/// Thread-safety: a value.
struct StackSamples {};

/// A function that makes a batch of samples, for data that cannot be stacked as it is:
///
///     DataLoader loader(dataset, sampler, options, [](std::vector<at::Tensor> sentences) {
///       return torch::nn::utils::rnn::pad_sequence(sentences, /*batch_first=*/true);
///     });
///
/// What it returns is the batch that the program gets; its type needs a `SampleCodec`.
///
/// Shapes: the vector has `batch_size` samples, except in a last batch or where samples are left
/// out.
/// Blocks: a worker, not the program; with `workers(0)` the program.
/// Thread-safety: it is copied into each worker, and one thread at a time calls a copy. It must not
/// depend on what earlier calls have done.
/// Throws: what it throws becomes the batch's `WorkerError`.
template <class Function, class Sample>
concept CollateFunction = std::same_as<Function, StackSamples> ||
    requires(Function& collate, std::vector<Sample> samples) {
  { collate(std::move(samples)) } -> GivesSample;
};

}  // namespace lockstep::data
