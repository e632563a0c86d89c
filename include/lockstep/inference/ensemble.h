// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/core/export.h>
#include <lockstep/inference/answer.h>
#include <lockstep/inference/ensemble_error.h>
#include <lockstep/inference/ensemble_options.h>
#include <lockstep/inference/member.h>
#include <lockstep/inference/statistics.h>
#include <lockstep/inference/tuning.h>

#include <memory>
#include <vector>

namespace lockstep::inference {

namespace detail {
class EnsembleCore;
}

/// Several models that answer the same requests, each in a process of its own.
///
///     lockstep::inference::Ensemble ensemble(
///         {lockstep::inference::member("a", [] { return load_a(); }),
///          lockstep::inference::member("b", [] { return load_b(); })},
///         lockstep::inference::EnsembleOptions().quorum(1));
///     auto answer = ensemble.submit(image).get();  // answer.output, answer.missing
///
/// A request's input lies once in shared memory, where all members read it. A member process that
/// dies is started again, and each request is answered exactly once all the same: by the new
/// process, by another copy, without the member where the quorum allows it, or by an error. A
/// request that has ended a member twice is refused. Build an ensemble before the program starts
/// threads that hold locks while others fork, outside of parallel regions, and before CUDA is used
/// where members use it; asking `torch::cuda::is_available()` is use.
///
/// Thread-safety: `submit`, `statistics`, `ready` and `close` may be called by several threads.
/// Owns: the members' processes, which end with `close`, with the destructor, and with the process,
/// however it ends; the shared memory, until the last `PendingAnswer` is gone, too.
class LOCKSTEP_API Ensemble {
 public:
  /// Starts the members.
  ///
  /// Blocks: until all are ready.
  /// Throws: `c10::Error` for bad options; `EnsembleError` when a member cannot be made: its
  /// factory or its first call throws or ends three processes in a row; `std::system_error` when
  /// there is no memory or no process.
  explicit Ensemble(std::vector<Member> members, EnsembleOptions options = {});
  /// As `close`. In a fork of the program's own nothing happens.
  ~Ensemble();
  Ensemble(Ensemble&& other) noexcept;             ///< the other one may only be destroyed then
  Ensemble& operator=(Ensemble&& other) noexcept;  ///< closes the ensemble before
  Ensemble(const Ensemble&) = delete;
  Ensemble& operator=(const Ensemble&) = delete;

  /// Asks all members. `input` is copied once, and may be changed after the call.
  ///
  /// Shapes: any of up to 8 dimensions; with `max_batch` and `BatchForm::Rows`, at least 1.
  /// Blocks: for the copy; with `WhenFull::Wait`, for room.
  /// Throws: `QueueFull`; `EnsembleError` after `close`; `c10::Error` for an input that is not
  /// dense; `std::system_error` when there is no memory for it.
  [[nodiscard]] PendingAnswer submit(const at::Tensor& input);

  /// Whether as many members as the quorum have a copy that can answer now.
  [[nodiscard]] bool ready() const;

  /// What was counted so far.
  [[nodiscard]] EnsembleStatistics statistics() const;

  /// Measures ensembles of the same members with other numbers of copies and threads and with
  /// batches, as many requests under way as they can take. This ensemble should have no requests
  /// meanwhile. Changes nothing here: build an ensemble with the best setting.
  ///
  /// Blocks: for each setting, for as long as the members take to start, and `duration`.
  /// Throws: as the constructor, and as a request.
  [[nodiscard]] TuneReport tune(const at::Tensor& sample, const TuneOptions& options = {}) const;

  /// Ends the members. Requests under way that have no answer yet get an `EnsembleError`.
  ///
  /// Blocks: as a rule milliseconds; where a member is in a call, up to a second, and two for
  /// threads, which are left alone then; longer where the machine is so busy that they get no time.
  void close();

 private:
  [[nodiscard]] detail::EnsembleCore& core() const;

  std::shared_ptr<detail::EnsembleCore> core_;
};

}  // namespace lockstep::inference
