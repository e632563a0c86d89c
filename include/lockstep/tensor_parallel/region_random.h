// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <memory>

namespace lockstep {
class ThreadGenerator;  // what a thread draws from; internal
}  // namespace lockstep

namespace lockstep::tensor_parallel {

/// Random numbers inside of a tensor-parallel region. Outside, dropout must draw the same on all
/// ranks, so they have the same seed; inside, and wherever a sequence is cut, each rank has another
/// part, and must draw something else. This object has a generator of the second kind. While a
/// scope lives, the thread draws from it on the CPU; on a device, LibTorch's default generator has
/// its state:
///
///     lockstep::tensor_parallel::RegionRandom random(seed, *tensor_group, device);
///     {
///       const auto inside = random.enter();
///       x = torch::dropout(x, 0.1, is_training);
///     }
///
/// What `lockstep::checkpoint` runs inside of a scope draws the same numbers again in backward. A
/// function that enters a scope itself could not, so `enter` refuses when it runs again.
///
/// Thread-safety: one thread at a time. A scope ends in the thread in which it began, and changes
/// nothing for others. On a device, the default generator is the process's: ranks that are threads
/// of one process cannot use it side by side.
class LOCKSTEP_API RegionRandom {
 public:
  /// A generator whose seed depends on `seed` and the rank in `group`. Nothing is communicated.
  RegionRandom(std::uint64_t seed, const ProcessGroup& group, c10::Device device = c10::kCPU);
  RegionRandom(const RegionRandom&) = delete;
  RegionRandom& operator=(const RegionRandom&) = delete;

  /// While it lives, random numbers are those of the region.
  class LOCKSTEP_API Scope {
   public:
    /// Made by `enter`.
    explicit Scope(RegionRandom& random);
    /// The numbers outside go on, and those of the region in the next scope.
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    RegionRandom& random_;
    std::unique_ptr<ThreadGenerator> redirection_;  // on the CPU
    at::Tensor outside_;                            // elsewhere: the state of the default generator
  };
  /// Throws: `c10::Error` inside of a scope of the same object, and in backward with gradients on.
  [[nodiscard]] Scope enter();

  /// The region's state, for a checkpoint: a byte tensor, which `set_state` takes.
  /// Throws: `c10::Error` inside of a scope.
  [[nodiscard]] at::Tensor state() const;
  /// Goes on with a state that `state` gave. Throws: `c10::Error` inside of a scope.
  void set_state(const at::Tensor& state);

 private:
  at::Generator generator_;
  bool is_inside_ = false;
};

}  // namespace lockstep::tensor_parallel
