// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <lockstep/inference/combination.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::inference {

namespace detail {
class Request;
}

/// What an `Ensemble` answers to a request.
///
/// Thread-safety: a value.
struct Answer {
  at::Tensor output;                  ///< combined, on the CPU, the program's own
  std::vector<std::string> missing;   ///< names of members without an answer, in their order
  std::vector<std::string> reasons;   ///< why, for each of `missing`
  std::vector<MemberOutput> members;  ///< only where `EnsembleOptions::member_outputs`
};

/// An answer to come. Letting it go takes the request back: members that have not begun with it
/// leave it out.
///
/// Thread-safety: one thread at a time; several of them may be used by several threads.
/// Owns: the request's place in the queue, until the answer is made or the request is taken back.
class LOCKSTEP_API PendingAnswer {
 public:
  /// Made by `Ensemble::submit`.
  explicit PendingAnswer(std::shared_ptr<detail::Request> request);
  ~PendingAnswer();
  PendingAnswer(PendingAnswer&& other) noexcept;             ///< the other one has no request then
  PendingAnswer& operator=(PendingAnswer&& other) noexcept;  ///< takes back the request before
  PendingAnswer(const PendingAnswer&) = delete;
  PendingAnswer& operator=(const PendingAnswer&) = delete;

  /// The answer, the same one in each call. A combination of the program's own runs here, in the
  /// first call.
  ///
  /// Blocks: until all members have answered or failed, but for those that are being started again
  /// where the others are enough for the quorum; at most until the request's deadline.
  /// Throws: `EnsembleError` where fewer members than the quorum answered; what the combination
  /// throws; `c10::Error` after `cancel`.
  [[nodiscard]] Answer get();

  /// Whether `get` would not wait any more.
  /// Blocks: at most `limit`.
  [[nodiscard]] bool wait_for(std::chrono::nanoseconds limit);

  /// Whether `get` would not wait. Never waits for members; what has its answers is copied here.
  [[nodiscard]] bool ready();

  /// Takes the request back. Nothing happens to one that has its answer.
  void cancel() noexcept;

  /// The number of the request, as errors name it: 1 for the first of an ensemble.
  [[nodiscard]] std::uint64_t number() const;

 private:
  [[nodiscard]] detail::Request& request() const;

  std::shared_ptr<detail::Request> request_;
};

}  // namespace lockstep::inference
