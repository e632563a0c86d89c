// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>
#include <lockstep/core/export.h>

#include <string>
#include <utility>
#include <vector>

/// @file
/// What an `Ensemble` throws when a request has no answer.
///
/// Thread-safety: values; const members may be called from several threads.

namespace lockstep::inference {

/// Why there is no answer.
enum class EnsembleFailure {
  MemberFailed,  ///< members threw or are gone, and those left are fewer than the quorum
  Poison,        ///< the same, and the request ended a member twice
  Deadline,      ///< the deadline passed with fewer answers than the quorum
  QueueFull,     ///< there was no room for the request
  NotStarted,    ///< a member could not be made
  Closed,        ///< the ensemble was closed before the answer
  Lost,          ///< the process that watches over the members was killed
};

/// A request has no answer, or an ensemble cannot be built. The text is one line, and names the
/// members.
class LOCKSTEP_API EnsembleError : public c10::DistError {
 public:
  /// `what()` becomes `text`.
  EnsembleError(EnsembleFailure failure, const std::string& text,
                std::vector<std::string> missing = {});

  /// What happened.
  [[nodiscard]] EnsembleFailure failure() const noexcept { return failure_; }
  /// Names of the members without an answer, in their order.
  [[nodiscard]] const std::vector<std::string>& missing() const noexcept { return missing_; }

 private:
  EnsembleFailure failure_;
  std::vector<std::string> missing_;
};

/// `EnsembleOptions::queue` requests are under way already.
class LOCKSTEP_API QueueFull : public EnsembleError {
 public:
  /// `what()` becomes `text`.
  explicit QueueFull(const std::string& text);
};

}  // namespace lockstep::inference
