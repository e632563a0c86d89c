// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "comm/hierarchical/hierarchy.h"
#include "comm/shared_memory/operation.h"

namespace lockstep {
namespace {

// The connections of a process that dies break before its death is seen, and the word of those that
// see it has to go round. Far below any useful deadline.
constexpr std::chrono::milliseconds kTimeToHear{1000};
constexpr std::chrono::milliseconds kTimeBetweenLooks{5};

class LostRankOperation final : public Operation {
 public:
  LostRankOperation(Hierarchy& hierarchy, std::unique_ptr<Operation> operation)
      : hierarchy_(hierarchy), operation_(std::move(operation)) {}

  bool try_start(bool is_oldest) override { return operation_->try_start(is_oldest); }
  bool try_finish() override {
    if (!failure_) {
      try {
        return operation_->try_finish();
      } catch (const OperationFailure& failure) {
        keep(failure);
      }
    }
    look_for_reason();
    return false;
  }
  bool spin() override { return !failure_ && operation_->spin(); }
  void sleep(std::chrono::nanoseconds limit) override {
    if (!failure_) return operation_->sleep(limit);
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(kTimeBetweenLooks, limit));
  }
  void check_peers() override {
    if (failure_) return;
    try {
      operation_->check_peers();
    } catch (const OperationFailure& failure) {
      keep(failure);
    }
  }
  [[nodiscard]] std::string describe_missing() const override {
    return failure_ ? failure_->reason : operation_->describe_missing();
  }

 private:
  /// Called while that failure is handled.
  void keep(const OperationFailure& failure) {
    if (failure.kind != OperationFailure::Kind::ConnectionLost) throw;
    failure_ = failure;
    since_ = std::chrono::steady_clock::now();
  }

  void look_for_reason() {
    if (hierarchy_.local != nullptr) {
      const SharedMemoryCounters& counters = hierarchy_.local->counters();
      for (int index = 0; index < counters.world_size(); ++index) {
        if (!counters.can_still_come(index)) throw lost(counters, index);
      }
    }
    hierarchy_.transport.check_peers();
    if (std::chrono::steady_clock::now() - since_ > kTimeToHear) throw *failure_;
  }

  Hierarchy& hierarchy_;
  std::unique_ptr<Operation> operation_;
  std::optional<OperationFailure> failure_;
  std::chrono::steady_clock::time_point since_;
};

}  // namespace

std::unique_ptr<Operation> with_lost_rank_named(Hierarchy& hierarchy,
                                                std::unique_ptr<Operation> operation) {
  return std::make_unique<LostRankOperation>(hierarchy, std::move(operation));
}

}  // namespace lockstep
