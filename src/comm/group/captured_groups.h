// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/ThreadLocalDebugInfo.h>

#include <memory>
#include <vector>

namespace lockstep {

class GroupCore;

/// The groups whose calls go into a graph that is captured while this lives. A call belongs to the
/// capture of the thread that makes it; threads of autograd know it from the thread for which they
/// work, since LibTorch takes its `ThreadLocalDebugInfo` along.
///
/// Thread-safety: the thread that made it; groups note themselves in any.
/// Owns: the groups, whose communicators the graph uses; until it ends, whoever keeps the state of
/// its thread.
class CapturedGroups {
 public:
  CapturedGroups();
  ~CapturedGroups();
  CapturedGroups(const CapturedGroups&) = delete;
  CapturedGroups& operator=(const CapturedGroups&) = delete;

  /// For groups: whether the calling thread captures, and that it makes a call of this group which
  /// may go into the graph. Outside of a capture, nothing is noted.
  [[nodiscard]] static bool is_open();
  static void note(const std::shared_ptr<GroupCore>& group);

  /// Each once, in the order of their first calls.
  [[nodiscard]] std::vector<std::shared_ptr<GroupCore>> groups() const;

 private:
  class Record;

  std::shared_ptr<Record> record_;
  c10::DebugInfoGuard scope_;
};

}  // namespace lockstep
