// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/future.h>
#include <lockstep/comm/process_group.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace lockstep {

/// One bucket as a communication hook gets it: this rank's gradients of some parameters, side by
/// side. It is valid until the hook's future has been waited for.
///
/// Thread-safety: const members may be called from several threads. The tensors are the bucket's
/// own: one thread at a time changes them.
class GradientBucketView {
 public:
  /// Made by `DistributedDataParallel`, and by hooks that call another one; see the members of the
  /// same names.
  GradientBucketView(std::size_t index, bool is_last, std::uint64_t plan, at::Tensor buffer,
                     std::vector<at::Tensor> gradients, std::vector<at::Tensor> parameters)
      : index_(index),
        is_last_(is_last),
        plan_(plan),
        buffer_(std::move(buffer)),
        gradients_(std::move(gradients)),
        parameters_(std::move(parameters)) {}

  /// The bucket's place in the order in which buckets are reduced; the same on all ranks.
  [[nodiscard]] std::size_t index() const noexcept { return index_; }
  /// Whether it is the last bucket of the step.
  [[nodiscard]] bool is_last() const noexcept { return is_last_; }
  /// The number of the bucket assignment, 1, 2, ...: which parameters travel in which bucket. State
  /// that a hook keeps by `index()` is worthless when this number changes; state that it keeps by
  /// parameter is not. Numbers go on from those of a state that the model has loaded.
  [[nodiscard]] std::uint64_t plan() const noexcept { return plan_; }
  /// All gradients of the bucket, side by side.
  /// Shapes: one dimension, contiguous, in the memory that the group reduces fastest. Between two
  /// gradients there may be a few zeros.
  [[nodiscard]] const at::Tensor& buffer() const noexcept { return buffer_; }
  /// The memory of `buffer()` as one tensor for each parameter, in the parameters' shapes.
  [[nodiscard]] const std::vector<at::Tensor>& gradients() const noexcept { return gradients_; }
  /// The parameters, in the order of `gradients()`.
  [[nodiscard]] const std::vector<at::Tensor>& parameters() const noexcept { return parameters_; }

 private:
  std::size_t index_;
  bool is_last_;
  std::uint64_t plan_;
  at::Tensor buffer_;
  std::vector<at::Tensor> gradients_;
  std::vector<at::Tensor> parameters_;
};

/// Takes the place of the all-reduce of a bucket. Returns the future of a tensor like `buffer()`
/// that holds the average over the ranks; `buffer()` itself may be used and returned.
///
/// A model calls its hook once for each bucket and backward, in bucket order, which is the same on
/// all ranks. The hook starts collectives of the group without waiting for them; what follows a
/// collective goes into `Work::then`. The model waits for the futures in bucket order when backward
/// ends. On a rank that has no data left (`join`), the gradients are zeros.
///
/// The hook runs in the thread that completes the bucket: the one that called `backward`, or, for a
/// model on a CUDA device, autograd's thread of that device. Buckets that are not complete when
/// backward ends are launched by the thread that ends it, and those of a rank that has joined by
/// the thread in `join`. Continuations of the hook's futures run in the thread that waits for them
/// at the end of backward. All these threads hold the model's lock meanwhile. So neither a hook nor
/// a continuation may call its own model's forward, `statistics`, `bucket_bytes`, `set_samples` or
/// `register_communication_hook`: the call would wait for ever.
///
/// Blocks: a hook should not; waiting in it holds up backward.
/// Collective: all ranks register a hook that makes the same calls.
/// Thread-safety: a model calls its hook from one thread at a time, under the model's lock; the
/// group is that thread's meanwhile. Hooks of several models may run at the same time.
/// Throws: backward throws what a hook throws.
/// Source: PyTorch's DDP communication hooks.
using CommunicationHook =
    std::function<Future<at::Tensor>(ProcessGroup&, const GradientBucketView&)>;

}  // namespace lockstep
