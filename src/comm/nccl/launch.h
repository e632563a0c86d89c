// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/collective/operation.h"
#include "comm/nccl/check.h"
#include "comm/nccl/communicator.h"

namespace lockstep {

/// What one call of the program asks of NCCL.
struct NcclTask {
  /// Everything that the calls below read and write; kept until they are done, so that no allocator
  /// gives it away before.
  std::vector<at::Tensor> tensors;
  std::vector<NcclCall> preparations;  ///< copies on the stream, before the group
  std::vector<NcclCall> calls;         ///< inside one group
  std::vector<NcclCall> completions;   ///< copies on the stream, after it
  std::unique_ptr<NcclCheck> check;    ///< null: nothing is compared
  const Operation* owner = nullptr;    ///< whose failure it is where the comparing fails
};

/// One or several tasks that are enqueued as one group of NCCL calls: after what their own ranks'
/// streams did before them, with an event behind them.
///
/// The steps, none of which blocks: checks pass, NCCL has nothing else in progress, the calls are
/// enqueued, NCCL has taken them, the end is recorded.
class NcclLaunch {
 public:
  NcclLaunch(std::shared_ptr<NcclCommunicator> communicator, const Deadline& deadline,
             std::string op);

  /// Also notes where the current stream stands. Only before `seal`.
  void add(NcclTask task);
  /// Nothing is added any more. Until then nothing is enqueued.
  void seal() noexcept { is_sealed_ = true; }

  /// True when the end is recorded. Throws: `OperationFailure`, with the culprit where a check
  /// failed; what the side group throws.
  [[nodiscard]] bool try_enqueue();
  [[nodiscard]] bool is_enqueued() const noexcept { return flight_ != nullptr; }
  /// Requires `is_enqueued()`. Throws: `OperationFailure`.
  [[nodiscard]] bool is_done() { return communicator_->is_done(*flight_); }
  /// Makes the calling thread's current stream wait for the end.
  void order_current_stream();
  [[nodiscard]] std::string describe_missing();

 private:
  [[nodiscard]] bool have_checks_passed();
  [[nodiscard]] bool try_give();

  std::shared_ptr<NcclCommunicator> communicator_;
  Deadline deadline_;
  std::string op_;
  std::vector<NcclTask> tasks_;
  std::vector<std::unique_ptr<native::DeviceEvent>> starts_;
  std::shared_ptr<NcclFlight> flight_;
  bool is_sealed_ = false;
  bool is_given_ = false;
};

/// The launches of a group that are not enqueued yet, oldest first. All ranks must enqueue in the
/// order of their calls, collectives and messages alike: they share a stream.
struct NcclLine {
  std::deque<std::shared_ptr<NcclLaunch>> launches;
  std::function<void()> check_peers;  ///< throws `OperationFailure`

  void advance();
};

/// The queue's view of a launch.
class NcclOperation final : public Operation {
 public:
  NcclOperation(std::shared_ptr<NcclLine> line, std::shared_ptr<NcclLaunch> launch)
      : line_(std::move(line)), launch_(std::move(launch)) {}

  bool try_start(bool is_oldest) override;
  bool try_finish() override;
  bool make_stream_wait() override;
  void sleep(std::chrono::nanoseconds limit) override;
  /// Once it is enqueued, the watchdog looks at the peers: one that has gone may have done its
  /// part.
  void check_peers() override {
    if (!launch_->is_enqueued()) line_->check_peers();
  }
  [[nodiscard]] std::string describe_missing() const override;

 private:
  std::shared_ptr<NcclLine> line_;
  std::shared_ptr<NcclLaunch> launch_;
};

/// All ranks meet on the side group; nothing is enqueued.
class NcclBarrier final : public Operation {
 public:
  NcclBarrier(std::shared_ptr<NcclLine> line, std::unique_ptr<NcclCheck> check)
      : line_(std::move(line)), check_(std::move(check)) {}

  bool try_start(bool) override { return true; }
  bool try_finish() override { return check_->is_passed(); }
  void sleep(std::chrono::nanoseconds limit) override;
  void check_peers() override { line_->check_peers(); }
  [[nodiscard]] std::string describe_missing() const override { return check_->describe_missing(); }

 private:
  std::shared_ptr<NcclLine> line_;
  std::unique_ptr<NcclCheck> check_;
};

}  // namespace lockstep
