// SPDX-License-Identifier: BSD-3-Clause
// What the rank learns of workers that end or stand still. The test writes what workers and their
// host would say.
#include "data/loader/worker_monitor.h"

#include "support/loader_test_support.h"

namespace lockstep::data::detail {
namespace {

using workers::TaskChannel;
using workers::WorkerState;

class FakeHost : public workers::WorkerHost {
 public:
  explicit FakeHost(std::optional<int>& status) : status_(status) {}
  bool stop() noexcept override { return true; }
  [[nodiscard]] bool replaces_workers() const noexcept override { return false; }
  [[nodiscard]] int supervisor_pid() const noexcept override { return 4711; }
  [[nodiscard]] std::optional<int> supervisor_status() noexcept override { return status_; }

 private:
  std::optional<int>& status_;
};

class WorkerMonitorTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kWorkers = 3;

  [[nodiscard]] workers::WorkerRecord& record(std::size_t worker) const {
    return job->channel->table().workers[worker];
  }
  void end(std::size_t worker) { record(worker).state.store(WorkerState::GivenUp); }
  // The worker that is reported now; nothing when none is.
  std::optional<int> reported() {
    try {
      monitor.report_ended_workers();
    } catch (const WorkerError& error) {
      return error.worker();
    }
    return std::nullopt;
  }

  std::shared_ptr<WorkerJob> job = [] {
    auto made = std::make_shared<WorkerJob>();
    made->channel = std::make_shared<TaskChannel>(workers::ChannelShape{4, kWorkers, 4, 64});
    return made;
  }();
  std::optional<int> supervisor_status;
  WorkerMonitor monitor{job, options_with(kWorkers).timeout(std::chrono::milliseconds(40)),
                        std::make_unique<FakeHost>(supervisor_status)};
};

TEST_F(WorkerMonitorTest, EachWorkerThatEndsIsReportedOnce) {
  EXPECT_FALSE(reported());
  end(1);
  EXPECT_EQ(reported(), 1);
  EXPECT_FALSE(reported());
  end(0);
  EXPECT_EQ(reported(), 0);
  EXPECT_FALSE(reported());
}

TEST_F(WorkerMonitorTest, WhereNoWorkerIsLeftEachBatchHasItsError) {
  end(0);
  end(1);
  EXPECT_FALSE(monitor.why_nobody_builds({}));
  end(2);
  EXPECT_FALSE(reported());
  const auto reason = monitor.why_nobody_builds({});
  ASSERT_TRUE(reason);
  EXPECT_EQ(reason->worker, 2);
  EXPECT_NE(reason->message.find("no worker is left"), std::string::npos);
  EXPECT_FALSE(monitor.has_lost_supervisor());
}

TEST_F(WorkerMonitorTest, BatchOfAShardIsLostWithItsWorker) {
  end(1);
  const auto reason = monitor.why_nobody_builds({std::nullopt, 1});
  ASSERT_TRUE(reason);
  EXPECT_EQ(reason->worker, 1);
  EXPECT_FALSE(monitor.why_nobody_builds({std::nullopt, 0}));
}

TEST_F(WorkerMonitorTest, DeathOfTheWorkersParentIsTheReason) {
  supervisor_status = SIGKILL;
  const auto reason = monitor.why_nobody_builds({});
  ASSERT_TRUE(reason);
  EXPECT_EQ(reason->pid, 4711);
  EXPECT_EQ(reason->signal, SIGKILL);
  EXPECT_TRUE(monitor.has_lost_supervisor());
}

TEST_F(WorkerMonitorTest, HostNeedNotSayTwiceHowTheWorkersParentEnded) {
  supervisor_status = SIGKILL;
  ASSERT_TRUE(monitor.why_nobody_builds({}));
  for (const auto later : {std::optional(3 << 8), std::optional<int>()}) {
    supervisor_status = later;
    const auto reason = monitor.why_nobody_builds({});
    ASSERT_TRUE(reason);
    EXPECT_EQ(reason->signal, SIGKILL);
  }
}

TEST_F(WorkerMonitorTest, BatchThatWasFinishedBeforeNeedsNobody) {
  workers::Task task;
  const std::vector<std::int64_t> items{5};
  task.sequence = 1;
  task.items = items;
  job->channel->assign(2, task);
  const auto claim = job->channel->claim(0);
  for (std::size_t worker = 0; worker < kWorkers; ++worker) end(worker);
  EXPECT_TRUE(monitor.why_nobody_builds({2, std::nullopt}));
  job->channel->finish(*claim);
  EXPECT_FALSE(monitor.why_nobody_builds({2, std::nullopt}));
  supervisor_status = SIGKILL;
  EXPECT_FALSE(monitor.why_nobody_builds({2, std::nullopt}));
  EXPECT_TRUE(monitor.has_lost_supervisor());
  EXPECT_TRUE(monitor.why_nobody_builds({1, std::nullopt}));
}

TEST_F(WorkerMonitorTest, WaitEndsWhenNothingHappensAnyMore) {
  const auto nobody = workers::PoolEvents::kAnyTask;
  WorkerMonitor::Wait wait(monitor);
  for (int look = 0; look < 40; ++look) {  // ten times as long as the timeout, at least
    record(1).heartbeats.fetch_add(1);
    wait.sleep(job->channel->events().done_count(), nobody);
    ASSERT_FALSE(wait.why_timed_out({}));
  }
  std::optional<WorkerError::Context> reason;
  while (!reason) {
    wait.sleep(job->channel->events().done_count(), nobody);
    reason = wait.why_timed_out({});
  }
  EXPECT_EQ(reason->failure, WorkerFailure::TimedOut);
  EXPECT_NE(reason->message.find("timeout is 0.04 s"), std::string::npos) << reason->message;
}

}  // namespace
}  // namespace lockstep::data::detail
