// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <string_view>

namespace lockstep::training {

/// Marks a part of the program by a name, from construction to destruction.
///
///     {
///       lockstep::training::Range range("augment");
///       ...
///     }
///
/// Profilers of LibTorch (a `Profiler`, Python's `torch.profiler`) show the part as a user
/// annotation, beside the operators in it. In builds with CUDA, tools that read NVTX (Nsight
/// Systems) show it in the domain "lockstep". Where nobody listens, a range costs some nanoseconds
/// and allocates nothing; docs/training_toolbox.md has the figure.
///
/// Thread-safety: a range ends in the thread in which it began, after those that began in it.
class LOCKSTEP_API Range {
 public:
  /// Begins. `name` is copied if somebody listens.
  explicit Range(std::string_view name);
  /// Ends.
  ~Range();
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  struct Record;
  Record* record_ = nullptr;  // where a profiler listens
  bool is_in_nvtx_ = false;
};

}  // namespace lockstep::training
