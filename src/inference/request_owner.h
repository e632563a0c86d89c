// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/inference/answer.h>
#include <lockstep/inference/ensemble_error.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "inference/request_channel.h"
#include "inference/spinning.h"

namespace lockstep::inference::detail {

/// What is known of a request that is decided: its parts as they were at that moment, and what
/// ended it if not its parts.
struct Verdict {
  std::vector<PartWord> parts;
  std::optional<EnsembleFailure> failure;  // Closed, Lost, or Deadline
  bool is_without_absent = false;          // the others are enough for the quorum
};

/// What a request that has its quorum is answered with.
struct Outputs {
  Answer answer;                         // without an output where `to_combine` is not empty
  std::vector<MemberOutput> to_combine;  // for the program's own combination
};

/// What a request needs of the ensemble that it belongs to.
///
/// Thread-safety: any thread; those that name a slot by whoever settles the slot's request.
class RequestOwner {
 public:
  RequestOwner() = default;
  virtual ~RequestOwner() = default;
  RequestOwner(const RequestOwner&) = delete;
  RequestOwner& operator=(const RequestOwner&) = delete;

  [[nodiscard]] virtual RequestChannel& channel() noexcept = 0;
  /// How long a thread looks again and again before it sleeps.
  [[nodiscard]] virtual SpinBudget& spin() noexcept = 0;
  /// False in a fork of the program's own.
  [[nodiscard]] virtual bool is_own_process() const noexcept = 0;
  /// Nothing while the request needs more time.
  [[nodiscard]] virtual std::optional<Verdict> judge(std::size_t slot) = 0;
  /// What is to be copied of the slot. Runs no code of the program's.
  /// Throws: `EnsembleError`, and what a combination of the library's throws.
  [[nodiscard]] virtual Outputs outputs_of(std::size_t slot, std::uint64_t number,
                                           const Verdict& verdict) = 0;
  /// Makes the answer's output of what is to be combined.
  /// Throws: what the combination throws.
  virtual void combine(Outputs& outputs) = 0;
  virtual void count_end(std::size_t slot, const Verdict& verdict, bool is_answered) noexcept = 0;
  virtual void count_cancelled() noexcept = 0;
  /// The request in the slot is over.
  virtual void release(std::size_t slot) noexcept = 0;
};

}  // namespace lockstep::inference::detail
