// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "native/posix/file_system.h"

namespace lockstep::testing {

/// While it lives, everything that saves or loads in this process uses this file system. A program
/// that uses it is linked with `--wrap` for `FileSystem::of_machine` (chosen_file_system.cpp).
///
/// Thread-safety: any thread, but one at a time has one.
class ChosenFileSystem {
 public:
  explicit ChosenFileSystem(native::FileSystem& files);
  ~ChosenFileSystem();
  ChosenFileSystem(const ChosenFileSystem&) = delete;
  ChosenFileSystem& operator=(const ChosenFileSystem&) = delete;
};

}  // namespace lockstep::testing
