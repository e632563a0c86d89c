// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/buckets/assign_buckets.h"
#include "parallel/buckets/gradient_arena.h"
#include "parallel/buckets/gradient_bucket.h"

namespace lockstep {

/// The shapes of these parameters' gradients, as they travel.
[[nodiscard]] std::vector<GradientShape> gradient_shapes_of(
    const std::vector<at::Tensor>& parameters, const DistributedDataParallelOptions& options);

/// The group's memory for gradients of all parameters, whichever are in buckets at present.
///
/// Each dtype and device has either an arena, in which gradients lie anywhere, or one tensor, of
/// which buckets are parts. The reducer has buckets made in this memory, and says when autograd may
/// allocate in the arenas. Owns: that memory. Thread-safety: guarded by the reducer's lock.
class GradientStorage {
 public:
  /// `group` outlives this. Collective: it allocates.
  GradientStorage(ProcessGroup& group, std::vector<at::Tensor> parameters,
                  const DistributedDataParallelOptions& options);

  [[nodiscard]] const std::vector<at::Tensor>& parameters() const noexcept { return parameters_; }
  /// The shapes of the parameters' gradients, as they travel.
  [[nodiscard]] const std::vector<GradientShape>& shapes() const noexcept { return shapes_; }
  [[nodiscard]] bool has_arena() const;
  /// Replaces the arenas by flat memory, since a communication hook wants whole buckets. Buckets
  /// that lie in arenas stay usable until others take their place.
  /// Collective: it allocates. Throws: what `allocate` throws; then nothing has changed.
  void use_flat_memory();
  /// `names`: of the calls that reduce the buckets. Buckets that were made before may not be used
  /// any more.
  [[nodiscard]] std::vector<std::unique_ptr<GradientBucket>> make_buckets(
      const std::vector<BucketSpec>& specs, const std::vector<std::string>& names) const;

  /// Lets autograd, which runs in this thread, allocate in the arenas until the graph that is being
  /// worked on is done or dropped, or until `close`.
  void open();
  void close() noexcept;
  /// Whether the graph for which the arenas were opened is still being worked on.
  [[nodiscard]] bool is_open() const { return !opened_.expired(); }
  /// After an error other ranks may still write to what was in buckets: autograd allocates nothing
  /// in the arenas any more.
  void note_failure() noexcept { has_failed_ = true; }
  void end_iteration() noexcept;
  /// Moves gradients that somebody holds from the arenas to memory of their own.
  void vacate_arenas() noexcept;

 private:
  /// Registered memory for the gradients of one dtype and device.
  struct Memory {
    at::ScalarType dtype = at::kFloat;
    c10::Device device = c10::kCPU;
    std::vector<std::size_t> parameters;
    at::Tensor flat;                       // buckets are parts of it; or:
    std::shared_ptr<GradientArena> arena;  // gradients lie anywhere in it
    at::Tensor places;                     // where
    std::vector<std::size_t> numbers;      // in the arena, of all parameters
  };

  /// Whether gradients of this kind can lie wherever autograd makes them. `obstacle`: why they
  /// cannot, if that is an error and no choice.
  [[nodiscard]] bool allocate_arena(Memory& memory, std::string& obstacle);
  void allocate_flat(Memory& memory);
  /// `used`: how much of each memory the buckets before have: elements, or places in an arena.
  [[nodiscard]] std::unique_ptr<GradientBucket> make_bucket(const BucketSpec& spec,
                                                            std::vector<std::int64_t>& used,
                                                            const std::string& name) const;

  ProcessGroup& group_;
  std::vector<at::Tensor> parameters_;
  std::vector<GradientShape> shapes_;
  bool may_have_arenas_;
  bool is_symmetric_;
  std::vector<Memory> memories_;
  std::weak_ptr<void> opened_;  // as long as the arenas are open for a graph
  bool has_failed_ = false;
};

}  // namespace lockstep
