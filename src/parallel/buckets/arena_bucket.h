// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "parallel/buckets/assign_buckets.h"
#include "parallel/buckets/gradient_arena.h"
#include "parallel/buckets/gradient_bucket.h"

namespace lockstep {

/// A bucket whose gradients lie in an arena, each where autograd made it.
///
/// A gradient that fills a block of the arena, and whose memory nobody else looks at, stays there;
/// any other gradient is copied into a block of its parameter. Places differ between ranks, so this
/// class writes them to registered memory before the all-reduce. Owns: a share of the arena.
/// Thread-safety: guarded by the reducer's lock.
class ArenaBucket final : public GradientBucket {
 public:
  /// `numbers`: what the arena calls the parameters. `places`: registered memory for the place of
  /// each gradient.
  ArenaBucket(const BucketSpec& spec, std::shared_ptr<GradientArena> arena,
              std::vector<std::size_t> numbers, at::Tensor places,
              const std::vector<at::Tensor>& parameters, std::string name);

  void note_waiting(std::size_t place, const at::Tensor& gradient,
                    const at::Tensor& incoming) override;
  void multiply(double factor) override;
  void vacate() override;
  void reset() override;

 private:
  void prepare_view(std::size_t place, const at::Tensor& gradient, const at::Tensor& incoming,
                    bool leaves_it) override;
  [[nodiscard]] Work all_reduce(ProcessGroup& group) override;

  std::shared_ptr<GradientArena> arena_;
  std::vector<std::size_t> numbers_;
  at::Tensor places_;
};

}  // namespace lockstep
