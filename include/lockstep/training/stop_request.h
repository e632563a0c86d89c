// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/core/export.h>
#include <torch/arg.h>

#include <csignal>
#include <memory>
#include <vector>

namespace lockstep {

/// What a `StopRequest` is told.
struct StopRequestOptions {
  /// Each of them asks to stop.
  TORCH_ARG(std::vector<int>, signals) = {SIGTERM, SIGUSR1};
};

/// Turns a signal that any rank gets into a request that all ranks see after the same step, so that
/// they save a checkpoint and leave.
///
///     lockstep::StopRequest stop(*group);
///     for (...) {
///       step();
///       if (stop.requested()) break;
///     }
///
/// While it lives, the signals do nothing else. docs/checkpointing.md says which signal a launcher
/// passes on.
///
/// Thread-safety: one thread at a time.
/// Owns: the handlers of the signals. Of several in a process, the last one made goes first.
class LOCKSTEP_API StopRequest {
 public:
  /// `group`: outlives this.
  /// Throws: `c10::Error` for a signal that cannot be handled.
  explicit StopRequest(ProcessGroup& group, const StopRequestOptions& options = {});
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;

  /// Whether any rank has got a signal. Once it was true, it stays so.
  ///
  /// Blocks: until all ranks have called it.
  /// Collective: an all-reduce of one number.
  /// Throws: what a collective throws.
  [[nodiscard]] bool requested();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
