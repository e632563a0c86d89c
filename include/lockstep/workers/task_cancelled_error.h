// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>
#include <lockstep/core/export.h>

#include <string>

namespace lockstep {

/// A task has no result because it never began: it was cancelled, or its pool was closed before.
///
/// Thread-safety: a value; const members may be called from several threads.
class LOCKSTEP_API TaskCancelledError : public c10::DistError {
 public:
  /// `what()` becomes `text`.
  explicit TaskCancelledError(const std::string& text);
};

/// A queue had no room for a task within the time that the options allow.
///
/// Thread-safety: a value; const members may be called from several threads.
class LOCKSTEP_API TaskQueueFullError : public c10::DistError {
 public:
  /// `what()` becomes `text`.
  explicit TaskQueueFullError(const std::string& text);
};

}  // namespace lockstep
