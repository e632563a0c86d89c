// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>
#include <lockstep/core/export.h>

#include <cstdint>
#include <string>

/// @file
/// What Lockstep throws.
///
/// Misuse (a wrong shape, dtype, device or option) is a plain `c10::Error`, as everywhere in
/// LibTorch. The types below are for the world failing. They carry no C++ backtrace, so `what()` is
/// one line.
///
/// Thread-safety: values; const members may be called from several threads.

namespace lockstep {

/// The launch variables are wrong, or the ranks cannot find each other; thrown before any
/// collective ran. The text names the variable, or the rank that did not come.
class LOCKSTEP_API LaunchError : public c10::DistError {
 public:
  /// `what()` becomes `message`.
  explicit LaunchError(const std::string& message);
};

/// Where a collective failed.
struct CommContext {
  std::string backend;         ///< "SharedMemory", "Mpi", ...
  std::string op;              ///< "all_reduce", ...; "close" and "init" too
  int rank = 0;                ///< the rank that throws
  int world_size = 1;          ///< how many ranks the group has
  std::uint64_t sequence = 0;  ///< how many collectives this group had started, this one included
};

/// A collective failed. The group is broken then: every later call on it throws the same error
/// again. The group can go on after `allocate` without room and after models that differ, because
/// nothing was under way.
class LOCKSTEP_API CommError : public c10::DistBackendError {
 public:
  /// `what()` becomes "OP #SEQUENCE (BACKEND) failed on rank R of W: REASON. Hint: HINT".
  CommError(CommContext context, const std::string& reason, const std::string& hint = "");

  /// What carried the group's traffic: "SharedMemory", "Mpi", ...
  [[nodiscard]] const std::string& backend() const noexcept { return context_.backend; }
  /// The call that failed: "all_reduce", ...
  [[nodiscard]] const std::string& op() const noexcept { return context_.op; }
  /// The rank that throws.
  [[nodiscard]] int rank() const noexcept { return context_.rank; }
  /// How many ranks the group has.
  [[nodiscard]] int world_size() const noexcept { return context_.world_size; }
  /// How many collectives the group had started, the failed one included.
  [[nodiscard]] std::uint64_t sequence() const noexcept { return context_.sequence; }

 private:
  CommContext context_;
};

/// A deadline passed. The text says which ranks had not arrived, in which call, since when.
class LOCKSTEP_API TimeoutError : public CommError {
 public:
  using CommError::CommError;
};

/// A rank died, or left without `close()`. The text names it.
class LOCKSTEP_API PeerLostError : public CommError {
 public:
  using CommError::CommError;
};

/// Ranks called different collectives, or the same one with arguments that do not fit. Thrown on
/// every rank.
class LOCKSTEP_API MismatchError : public CommError {
 public:
  using CommError::CommError;
};

}  // namespace lockstep
