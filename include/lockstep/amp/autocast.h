// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <optional>

namespace lockstep::amp {

/// While one lives, operators of this thread that profit from 16 bits (convolutions, products of
/// matrices) convert their inputs to `dtype`, and those that need float (losses, softmax) to float.
///
///     {
///       const lockstep::amp::autocast guard(torch::kCPU, torch::kBFloat16);
///       loss = loss_function(model->forward(data), target);
///     }
///     loss.backward();
///
/// Which operators these are is LibTorch's choice, as in Python's `torch.autocast`. Parameters and
/// their gradients keep their dtype. Guards nest, for several devices and for parts that are to run
/// without (`enabled` false); the last that was made ends first. A guard around a whole loop is
/// right, too; backward belongs outside for speed and for Python's bits.
///
/// Converted weights are not kept, so no operator sees the weights of a step before. With
/// `cache_enabled`, a weight that several operators use is converted once. LibTorch lets go of what
/// it keeps only when the outermost guard ends, without looking whether a weight has changed. So
/// this guard lets go also whenever a guard begins or ends and whenever a function of a backward
/// runs; `GradScaler` and `AveragedModel` do so too. What the cache cannot see is weights that
/// change without a backward, as `load_state` does: begin a guard after that.
///
/// Thread-safety: a guard belongs to the thread that made it. New threads begin without autocast.
/// Throws: the constructor, `c10::Error` for a device other than `kCPU` and `kCUDA`, and, if
/// `enabled`, for a dtype other than `kBFloat16` and `kHalf`.
/// Source: Python's `torch.autocast`; there, the cache is on by default, and a wrong dtype is a
/// warning.
class LOCKSTEP_API autocast {
 public:
  /// Without a `dtype`, it is what is set in this thread: that of a guard around, or LibTorch's
  /// default, `kBFloat16` on the CPU and `kHalf` on CUDA devices. For CUDA devices on a machine
  /// that has none, this does nothing but log a warning.
  [[nodiscard]] explicit autocast(c10::DeviceType device,
                                  std::optional<c10::ScalarType> dtype = std::nullopt,
                                  bool enabled = true, bool cache_enabled = false);
  /// What was before comes back.
  ~autocast();
  autocast(const autocast&) = delete;
  autocast& operator=(const autocast&) = delete;

 private:
  c10::DeviceType device_;
  bool was_enabled_;
  c10::ScalarType dtype_before_;
  bool was_cache_enabled_;
  std::optional<std::uint64_t> backward_listener_;
};

}  // namespace lockstep::amp
