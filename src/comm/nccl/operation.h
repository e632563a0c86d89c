// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "comm/collective/operation.h"
#include "comm/nccl/collective_check.h"
#include "comm/nccl/launch_queue.h"

namespace lockstep {

/// A launch, or one task of several, as the group's queue of operations sees it.
class NcclOperation final : public Operation {
 public:
  NcclOperation(std::shared_ptr<LaunchQueue> queue, std::shared_ptr<NcclLaunch> launch)
      : queue_(std::move(queue)), launch_(std::move(launch)) {}

  bool try_start(bool is_oldest) override;
  bool try_finish() override;
  bool make_stream_wait() override;
  void sleep(std::chrono::nanoseconds limit) override;
  /// Once the launch is enqueued, the watchdog looks at the peers: one that has gone may have done
  /// its part before.
  void check_peers() override {
    if (!launch_->is_enqueued()) queue_->check_peers();
  }
  [[nodiscard]] std::string describe_missing() const override;

 private:
  std::shared_ptr<LaunchQueue> queue_;
  std::shared_ptr<NcclLaunch> launch_;
};

/// A barrier over the control group; nothing is enqueued.
class NcclBarrier final : public Operation {
 public:
  NcclBarrier(std::shared_ptr<LaunchQueue> queue, std::unique_ptr<CollectiveCheck> check)
      : queue_(std::move(queue)), check_(std::move(check)) {}

  bool try_start(bool) override { return true; }
  bool try_finish() override { return check_->is_passed(); }
  void sleep(std::chrono::nanoseconds limit) override;
  void check_peers() override { queue_->check_peers(); }
  [[nodiscard]] std::string describe_missing() const override { return check_->describe_missing(); }

 private:
  std::shared_ptr<LaunchQueue> queue_;
  std::unique_ptr<CollectiveCheck> check_;
};

}  // namespace lockstep
