// SPDX-License-Identifier: BSD-3-Clause
// Symmetric memory and captured calls over a NCCL and GPUs that are made up, and events that are
// used again. These tests say nothing about real GPUs.
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <string>
#include <string_view>

#include "comm/group/group_core.h"
#include "comm/nccl/in_flight_operation.h"
#include "native/cuda/event_pool.h"
#include "support/nccl_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

using SharedGroup = std::shared_ptr<ProcessGroup>;
using Texts = std::vector<std::string>;

TEST(EventPool, GivesEventsOfTheirDeviceAgain) {
  std::set<void*> destroyed;
  int made = 0;
  char places[4];
  {
    native::EventPool pool([&](void* event) { destroyed.insert(event); });
    const auto create = [&]() -> void* { return &places[made++]; };
    void* const first = pool.take(0, create);
    void* const other = pool.take(1, create);
    EXPECT_NE(first, other);
    pool.give_back(first);
    EXPECT_EQ(pool.idle(0), 1U);
    EXPECT_NE(pool.take(1, create), first);
    EXPECT_EQ(pool.take(0, create), first);
    EXPECT_EQ(made, 3);
    pool.give_back(other);
    pool.give_back(other);  // not its any more
    EXPECT_EQ(pool.idle(1), 1U);
    EXPECT_TRUE(destroyed.empty());
    EXPECT_THROW(static_cast<void>(
                     pool.take(2, []() -> void* { throw std::runtime_error("no events left"); })),
                 std::runtime_error);
  }
  EXPECT_EQ(destroyed, std::set<void*>{&places[1]});
}

/// Expects what the fake's tests expect, in groups that are closed in the end.
void run_streams(int ranks, const std::function<void(FakeNccl&, const SharedGroup&)>& body) {
  const auto world = std::make_shared<FakeNccl>();
  expect_no_errors(run_nccl_ranks(world, ranks, [&](const SharedGroup& group) {
    body(*world, group);
    group->close();
  }));
  EXPECT_EQ(world->complaints(), Texts());
  EXPECT_EQ(world->aborts(), 0);
}

class NcclStreams : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, NcclStreams, ::testing::Values(1, 2, 3));

TEST_P(NcclStreams, SumsInSymmetricMemoryLieInSymmetricWindows) {
  run_streams(GetParam(), [](FakeNccl& world, const SharedGroup& group) {
    GroupCore& core = group->core();
    const auto ordinary = group->allocate({100}, torch::kFloat);
    const auto symmetric = core.allocate({100}, torch::kFloat, /*is_symmetric=*/true);
    EXPECT_FALSE(core.prefers_sum(ordinary));
    EXPECT_FALSE(core.prefers_sum(torch::ones({100})));
    EXPECT_TRUE(core.prefers_sum(symmetric));
    EXPECT_TRUE(core.prefers_sum(symmetric.narrow(0, 90, 10)));
    // Halves may overflow in a sum, doubles have no such kernel, and whole numbers are exact.
    for (const auto dtype : {torch::kHalf, torch::kDouble, torch::kLong}) {
      EXPECT_FALSE(core.prefers_sum(core.allocate({4}, dtype, true))) << dtype;
    }
    EXPECT_TRUE(core.prefers_sum(core.allocate({4}, torch::kBFloat16, true)));
    for (const auto& tensor : {ordinary, symmetric, symmetric.narrow(0, 10, 20)}) {
      tensor.fill_(group->rank() + 1);
      group->all_reduce(tensor).wait();
      const auto sum = static_cast<float>(group->size() * (group->size() + 1) / 2);
      EXPECT_TRUE(torch::equal(tensor, torch::full_like(tensor, sum)));
    }
    group->all_reduce(symmetric, ReduceOp::Avg).wait();
    EXPECT_EQ(world.symmetric_calls(group->rank()),
              (Texts{"all_reduce sum", "all_reduce sum", "all_reduce average"}));
  });
}

class LogLines {
 public:
  LogLines() {
    set_log_sink([this](logging::Level, std::string_view line) {
      const std::lock_guard lock(mutex_);
      lines_.emplace_back(line);
    });
  }
  ~LogLines() { set_log_sink({}); }
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;

  [[nodiscard]] std::size_t count(std::string_view part) {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(std::count_if(
        lines_.begin(), lines_.end(),
        [part](const std::string& line) { return line.find(part) != std::string::npos; }));
  }

 private:
  std::mutex mutex_;
  Texts lines_;
};

// NCCL says nothing where GPUs do not reach each other's memory. Sums would be a pass more for
// nothing then.
TEST_P(NcclStreams, WithoutSymmetricMemoryGradientsAreAverages) {
  const int ranks = GetParam();
  LogLines log;
  const auto world = std::make_shared<FakeNccl>();
  for (int rank = 0; rank < ranks; ++rank) world->deny_symmetric_windows(rank);
  expect_no_errors(run_nccl_ranks(world, ranks, [ranks](const SharedGroup& group) {
    GroupCore& core = group->core();
    EXPECT_FALSE(core.prefers_sum(core.allocate({100}, torch::kFloat, /*is_symmetric=*/true)));
    if (ranks > 1) {
      ConvNet net;
      fill_parameters(*net);
      DistributedDataParallel<ConvNet> model(
          net, group, DistributedDataParallelOptions().symmetric_memory(true));
      ConvNet plain_net;
      fill_parameters(*plain_net);
      DistributedDataParallel<ConvNet> plain(plain_net, group);
      train(model, 3, group->rank(), ranks);
      train(plain, 3, group->rank(), ranks);
      EXPECT_TRUE(torch::equal(flat_parameters(model), flat_parameters(plain)));
    }
    group->close();
  }));
  EXPECT_EQ(world->complaints(), Texts());
  EXPECT_EQ(log.count("NCCL has no symmetric memory for these ranks"), 1U);
}

// Ranks that differ must not differ in what they send.
TEST_P(NcclStreams, OneRankWithoutSymmetricMemoryIsEnough) {
  const int ranks = GetParam();
  LogLines log;
  const auto world = std::make_shared<FakeNccl>();
  world->deny_symmetric_windows(ranks - 1);
  expect_no_errors(run_nccl_ranks(world, ranks, [](const SharedGroup& group) {
    GroupCore& core = group->core();
    EXPECT_FALSE(core.prefers_sum(core.allocate({100}, torch::kFloat, /*is_symmetric=*/true)));
    EXPECT_FALSE(core.prefers_sum(core.allocate({10}, torch::kFloat, /*is_symmetric=*/true)));
    group->close();
  }));
  EXPECT_EQ(world->complaints(), Texts());
  EXPECT_EQ(log.count("NCCL has no symmetric memory for these ranks"), 1U);
}

// What NCCL trusts is the program's promise: the fake checks it.
TEST(SymmetricMemory, PlacesThatDifferAreAMistake) {
  const auto world = std::make_shared<FakeNccl>();
  expect_no_errors(run_nccl_ranks(world, 2, [](const SharedGroup& group) {
    const auto memory = group->core().allocate({100}, torch::kFloat, true);
    group->all_reduce(memory.narrow(0, group->rank(), 10)).wait();
    group->close();
  }));
  EXPECT_EQ(world->complaints(), Texts{"ranks use different places of symmetric memory"});
}

// Gradients as sums that are divided by hand are those of averages.
TEST_P(NcclStreams, GradientsInSymmetricMemoryAreSummedAndDivided) {
  const int ranks = GetParam();
  if (ranks == 1) return;
  for (const bool is_static : {true, false}) {
    run_streams(ranks, [=](FakeNccl& world, const SharedGroup& group) {
      const int rank = group->rank();
      const auto make = [&](bool is_symmetric) {
        ConvNet net;
        fill_parameters(*net);
        return DistributedDataParallel<ConvNet>(net, group,
                                                DistributedDataParallelOptions()
                                                    .bucket_cap_bytes(600)
                                                    .first_bucket_cap_bytes(100)
                                                    .symmetric_memory(is_symmetric)
                                                    .static_graph(is_static));
      };
      auto plain = make(false);
      auto symmetric = make(true);
      train(plain, 4, rank, ranks);
      EXPECT_TRUE(world.symmetric_calls(rank).empty());
      const auto before = world.calls(rank).size();
      train(symmetric, 4, rank, ranks);
      const auto buckets = world.symmetric_calls(rank);
      EXPECT_GE(buckets.size(), 4 * symmetric->bucket_bytes().size());
      EXPECT_EQ(std::set<std::string>(buckets.begin(), buckets.end()),
                std::set<std::string>{"all_reduce sum"});
      EXPECT_GE(world.calls(rank).size() - before, buckets.size());
      // Two ranks divide by a power of two, which rounds nothing.
      const auto difference = (flat_parameters(symmetric) - flat_parameters(plain)).abs().max();
      EXPECT_LE(difference.item<float>(), ranks == 2 ? 0.0F : 1e-6F);
    });
  }
}

// A rank that works alone divides by the ranks that work, not by the world.
TEST_P(NcclStreams, SymmetricGradientsCountTheActiveRanks) {
  const int ranks = GetParam();
  if (ranks == 1) return;
  run_streams(ranks, [](FakeNccl&, const SharedGroup& group) {
    ConvNet net;
    fill_parameters(*net);
    DistributedDataParallel<ConvNet> model(net, group,
                                           DistributedDataParallelOptions().symmetric_memory(true));
    ConvNet alone;
    fill_parameters(*alone);
    const auto input = make_input(1, 3);
    alone->forward(input).sum().backward();
    const auto check = [&] {
      for (std::size_t i = 0; i < net->parameters().size(); ++i) {
        EXPECT_TRUE(torch::allclose(net->parameters()[i].grad(), alone->parameters()[i].grad()));
      }
    };
    if (group->rank() == 0) {
      model->forward(input).sum().backward();
      check();
    }
    model->join(check);
  });
}

// A late gradient is an average already, what it is added to is a sum.
TEST_P(NcclStreams, LateGradientsAreAddedToSums) {
  run_streams(GetParam(), [](FakeNccl&, const SharedGroup& group) {
    TwiceUsed net;
    DistributedDataParallel<TwiceUsed> model(
        net, group, DistributedDataParallelOptions().bucket_caps_bytes({1}).symmetric_memory(true));
    for (int step = 0; step < 3; ++step) {
      model->zero_grad();
      model->forward(group->rank() + 1).backward();
      const auto mean = 0.5 * (group->size() + 1);
      EXPECT_TRUE(torch::allclose(net->weight.grad(), torch::full({3}, 11 * mean)))
          << "step " << step << ": " << net->weight.grad();
      // Later steps know that a second gradient comes.
      const Texts late = step == 0 && group->size() > 1 ? Texts{"weight"} : Texts();
      EXPECT_EQ(model->statistics().late_parameters, late);
    }
    group->barrier();
  });
}

TEST_P(NcclStreams, CapturedCallsAreNotAskedForTheirEnd) {
  run_streams(GetParam(), [](FakeNccl& world, const SharedGroup& group) {
    const int rank = group->rank();
    sum_up(*group);
    group->barrier();
    world.capture(rank, true);
    auto tensor = torch::full({8}, rank + 1, torch::kFloat);
    Work work = group->all_reduce(tensor);
    // The operation keeps the tensor until the program's stream waits for it: the memory is the
    // graph's until then.
    for (int i = 0; i < 50; ++i) EXPECT_FALSE(work.is_completed());
    EXPECT_GT(tensor.use_count(), 1U);
    work.wait();
    EXPECT_TRUE(work.is_completed());
    group->progress();
    EXPECT_EQ(tensor.use_count(), 1U);
    world.capture(rank, false);
    // The watchdog looks on: nothing of the graph is in flight.
    const int looks = world.looks(rank);
    while (world.looks(rank) < looks + 10) std::this_thread::yield();
    sum_up(*group);
    group->core().watch_graph(c10::kCPU, "graphed step");
    group->barrier();
  });
}

TEST(CapturedCalls, WatchdogsLeaveCapturesAlone) {
  run_streams(2, [](FakeNccl& world, const SharedGroup& group) {
    sum_up(*group);
    const auto end = std::chrono::steady_clock::now() + kRankTimeout;
    while (world.threads_that_allow_captures() < 2 && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(world.threads_that_allow_captures(), 2);
    group->barrier();
  });
}

// Many graphs may be enqueued at once: each has its time from the end of the one before it.
TEST(CapturedCalls, TheTimeOfAGraphBeginsWithItsTurn) {
  const auto world = std::make_shared<FakeNccl>();
  const auto services = world->services(0);
  InFlightQueue queue;
  const auto push = [&](const char* op, bool has_time_alone) {
    auto operation = std::make_shared<InFlightOperation>(
        services, 0, OperationLimit{Deadline::after(std::chrono::seconds(0)), op});
    if (has_time_alone) operation->time_alone = std::chrono::hours(1);
    operation->end.record(services.device->current_stream(0));
    queue.push(operation);
  };
  push("call", false);
  world->stop_programs(true);
  push("graphed step", true);
  const auto end = std::chrono::steady_clock::now() + kRankTimeout;
  while (queue.oldest_limit()->op == "call" && std::chrono::steady_clock::now() < end) {
    EXPECT_TRUE(queue.oldest_limit()->deadline.has_passed());
    queue.drop_done();
  }
  EXPECT_EQ(queue.oldest_limit()->op, "graphed step");
  EXPECT_FALSE(queue.oldest_limit()->deadline.has_passed());
}

// A graph hangs where a rank is gone: its end is watched, and the communicator aborted in time.
TEST(CapturedCalls, AGraphThatDoesNotEndIsAborted) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 2, [&](const SharedGroup& group) {
    sum_up(*group);
    group->barrier();
    world->stop_programs(true);
    const auto scope = with_short_timeout(*group);
    group->core().watch_graph(c10::kCPU, "graphed step");
    const auto end = std::chrono::steady_clock::now() + kRankTimeout;
    while (world->aborts() < 2 && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    group->all_reduce(torch::ones({4})).wait();
  });
  for (const auto& error : errors) {
    expect_error<CommError>(error, "graphed step was enqueued and does not end");
  }
  EXPECT_EQ(world->complaints(), Texts());
}

}  // namespace
}  // namespace lockstep::testing
