// SPDX-License-Identifier: BSD-3-Clause
// Graphs with calls of several groups, and captures that the device refuses, over a NCCL and GPUs
// that are made up. These tests say nothing about real GPUs.
#include "comm/group/captured_groups.h"

#include <ATen/ThreadLocalState.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "comm/group/group_core.h"
#include "support/fake_graph_stream.h"
#include "support/nccl_ranks.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

using GroupPointer = std::shared_ptr<ProcessGroup>;
using Complaints = std::vector<std::string>;

enum class CallIn { Model, Forward, Backward };

/// A loss with a call of a group in forward, or one in backward alone.
FakeGraphedStep::LossOf loss_with_call(const GroupPointer& group, CallIn where) {
  return [group, where](const torch::Tensor& output, const torch::Tensor& target) {
    if (where == CallIn::Backward) {
      output.register_hook([group](const torch::Tensor& gradient) {
        auto sum = gradient.clone();
        group->all_reduce(sum).wait();
        return sum;
      });
    } else if (where == CallIn::Forward) {
      const auto ranks = torch::ones({1});
      group->all_reduce(ranks).wait();
      return cross_entropy_of(output, target) * ranks.squeeze();
    }
    return cross_entropy_of(output, target);
  };
}

/// Runs graphed steps, until one does not end. Throws what the step after it throws.
template <typename Model>
void expect_abort(const std::shared_ptr<FakeNccl>& world, const GroupPointer& group, Model model,
                  CallIn where) {
  const int rank = group->rank();
  const int ranks = group->size();
  torch::optim::SGD optimizer(model->parameters(), 0.05);
  const auto stream = stream_over(world, rank, model->parameters());
  FakeGraphedStep graphed(model, optimizer, batch_of(0, rank, ranks), stream,
                          loss_with_call(group, where));
  for (int step = 0; step < 5; ++step) graphed(batch_of(step, rank, ranks));
  ASSERT_TRUE(graphed.is_captured());
  group->barrier();
  stream->instead = [&] { world->stop_programs(true); };
  {
    const auto scope = with_short_timeout(*group);
    graphed(batch_of(5, rank, ranks));
  }
  const auto before = flat_parameters(model).clone();
  const auto end = std::chrono::steady_clock::now() + kRankTimeout;
  while (world->aborts() < ranks && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  world->stop_programs(false);  // so that memory can be freed
  try {
    graphed(batch_of(6, rank, ranks));
  } catch (const CommError&) {
    EXPECT_FALSE(graphed.is_captured());  // the abort waits for it
    EXPECT_EQ(stream->replays, 3);
    EXPECT_TRUE(torch::equal(flat_parameters(model), before));
    throw;
  }
}

class GroupsOfAGraph : public ::testing::TestWithParam<std::tuple<int, CallIn>> {};
INSTANTIATE_TEST_SUITE_P(All, GroupsOfAGraph,
                         ::testing::Combine(::testing::Values(2, 3),
                                            ::testing::Values(CallIn::Model, CallIn::Forward,
                                                              CallIn::Backward)));

// A graph hangs in the call of any group: that of a wrapped model, or one that loss_fn knows.
TEST_P(GroupsOfAGraph, AreAbortedWhenItDoesNotEnd) {
  const auto [ranks, where] = GetParam();
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, ranks, [&](const GroupPointer& group) {
    ConvNet net;
    fill_parameters(*net);
    if (where == CallIn::Model) {
      expect_abort(world, group, wrapped(group), where);
    } else {
      expect_abort(world, group, net, where);
    }
  });
  for (const auto& error : errors) {
    expect_error<CommError>(error, "graphed step was enqueued and does not end");
  }
  EXPECT_EQ(world->complaints(), Complaints());
}

// Each of the groups drops the graph when it is closed, since NCCL ends a communicator only then.
TEST(GraphOfGroups, IsDroppedByEachOfThem) {
  for (const bool closes_model : {true, false}) {
    const auto world = std::make_shared<FakeNccl>();
    expect_no_errors(run_nccl_ranks(world, 2, [&](const GroupPointer& group) {
      const int rank = group->rank();
      const auto side = group->split(0);
      auto model = wrapped(group);
      torch::optim::SGD optimizer(model->parameters(), 0.05);
      const auto stream = stream_over(world, rank, model->parameters());
      FakeGraphedStep graphed(model, optimizer, batch_of(0, rank, 2), stream,
                              loss_with_call(side, CallIn::Forward));
      for (int step = 0; step < 5; ++step) graphed(batch_of(step, rank, 2));
      EXPECT_TRUE(graphed.is_captured());
      group->barrier();
      (closes_model ? group : side)->close();
      EXPECT_FALSE(graphed.is_captured());
      expect_refusal([&] { graphed(batch_of(5, rank, 2)); }, "closed");
      (closes_model ? side : group)->close();
    }));
    EXPECT_EQ(world->complaints(), Complaints());
    EXPECT_EQ(world->aborts(), 0);
  }
}

// The program lets go of a group: its communicator stays as long as the graph that uses it.
TEST(GraphOfGroups, KeepsThem) {
  const auto world = std::make_shared<FakeNccl>();
  expect_no_errors(run_nccl_ranks(world, 2, [&](const GroupPointer& group) {
    const int rank = group->rank();
    ConvNet net;
    fill_parameters(*net);
    torch::optim::SGD optimizer(net->parameters(), 0.05);
    {
      auto side = group->split(0);
      const auto stream = stream_over(world, rank, net->parameters());
      const auto loss_fn = [&side](const torch::Tensor& output, const torch::Tensor& target) {
        side->all_reduce(torch::ones({1})).wait();
        return cross_entropy_of(output, target);
      };
      FakeGraphedStep graphed(net, optimizer, batch_of(0, rank, 2), stream, loss_fn);
      for (int step = 0; step < 5; ++step) graphed(batch_of(step, rank, 2));
      stream->instead = [] {};
      side.reset();
      graphed(batch_of(5, rank, 2));
      EXPECT_TRUE(graphed.is_captured());
      EXPECT_EQ(world->aborts(), 0);
      group->barrier();
    }
    EXPECT_GT(world->aborts(), 0);
    group->close();
  }));
  EXPECT_EQ(world->complaints(), Complaints());
}

// The groups of the next graph are those whose calls are in it, whatever became of those before.
TEST(GraphOfGroups, ForgetsThoseOfTheOneBefore) {
  const auto world = std::make_shared<FakeNccl>();
  expect_no_errors(run_nccl_ranks(world, 2, [&](const GroupPointer& group) {
    const int rank = group->rank();
    ConvNet net;
    fill_parameters(*net);
    torch::optim::SGD optimizer(net->parameters(), 0.05);
    const auto stream = stream_over(world, rank, net->parameters());
    GroupPointer used = group->split(0);
    const auto loss_fn = [&used](const torch::Tensor& output, const torch::Tensor& target) {
      if (used) used->all_reduce(torch::ones({1})).wait();
      return cross_entropy_of(output, target);
    };
    FakeGraphedStep graphed(net, optimizer, batch_of(0, rank, 2), stream, loss_fn);
    for (int step = 0; step < 5; ++step) graphed(batch_of(step, rank, 2));
    used->close();
    EXPECT_FALSE(graphed.is_captured());
    used = group->split(0);
    graphed(batch_of(5, rank, 2));
    EXPECT_TRUE(graphed.is_captured());
    EXPECT_EQ(stream->captures, 2);

    const auto set_rate = [&](double rate) {
      optimizer.param_groups()[0].options().set_lr(rate);
      graphed(batch_of(6, rank, 2));
    };
    for (const double rate : {0.04, 0.03}) set_rate(rate);
    EXPECT_EQ(stream->captures, 4);
    group->barrier();
    EXPECT_EQ(world->aborts(), 0);
    group->barrier();
    used.reset();
    set_rate(0.02);  // a graph without calls: the last one's group goes with that
    EXPECT_TRUE(happens([&] { return world->aborts() == 2; }));

    used = group;
    for (const double rate : {0.04, 0.03, 0.02}) set_rate(rate);
    const int drops = stream->drops;
    group->barrier();
    group->close();
    EXPECT_EQ(stream->drops, drops + 1);  // however often it was captured
    EXPECT_FALSE(graphed.is_captured());
  }));
  EXPECT_EQ(world->complaints(), Complaints());
}

// One group has failed when the graph is in the stream already: those behind it have their limit
// for it all the same. The next graph does not ask about groups that it has no calls of.
TEST(GraphOfGroups, IsWatchedForAllOfThemWhereOneHasFailed) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier together(2);
  expect_no_errors(run_nccl_ranks(world, 2, [&](const GroupPointer& group) {
    const int rank = group->rank();
    const auto side = group->split(0);
    const auto core = side->core().weak_from_this();
    const auto uses = core.use_count();
    bool has_calls = true;
    ConvNet net;
    fill_parameters(*net);
    torch::optim::SGD optimizer(net->parameters(), 0.05);
    const auto stream = stream_over(world, rank, net->parameters());
    const auto loss_fn = [&](const torch::Tensor& output, const torch::Tensor& target) {
      if (has_calls) {
        for (const auto& one : {group, side}) one->all_reduce(torch::ones({1})).wait();
      }
      return cross_entropy_of(output, target);
    };
    FakeGraphedStep graphed(net, optimizer, batch_of(0, rank, 2), stream, loss_fn);
    for (int step = 0; step < 5; ++step) graphed(batch_of(step, rank, 2));
    group->barrier();
    stream->instead = [&] {
      together.arrive_and_wait();
      world->stop_programs(true);
      group->core().backend().abort("a rank has gone");
    };
    {
      const auto scope = with_short_timeout(*side);
      std::exception_ptr error;
      try {
        graphed(batch_of(5, rank, 2));
      } catch (const CommError&) {
        error = std::current_exception();
      }
      expect_error<CommError>(error, "gone");
    }
    EXPECT_TRUE(happens([&] { return world->aborts() == 4; }, kRankTimeout));
    together.arrive_and_wait();
    world->stop_programs(false);
    EXPECT_FALSE(graphed.is_captured());
    EXPECT_EQ(core.use_count(), uses);  // it goes with the graph
    stream->instead = nullptr;
    has_calls = false;
    graphed(batch_of(5, rank, 2));
    EXPECT_TRUE(graphed.is_captured());
  }));
  EXPECT_EQ(world->complaints(), Complaints());
}

class UnwaitedCalls : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, UnwaitedCalls, ::testing::Values(1, 2, 3));

// They are in the graph before the one that is waited for; nothing outside waits for them again.
TEST_P(UnwaitedCalls, EndWithTheCaptureWhereALaterOneIsWaitedFor) {
  const int ranks = GetParam();
  const auto world = std::make_shared<FakeNccl>();
  expect_no_errors(run_nccl_ranks(world, ranks, [&](const GroupPointer& group) {
    const int rank = group->rank();
    ConvNet net;
    fill_parameters(*net);
    torch::optim::SGD optimizer(net->parameters(), 0.05);
    std::vector<torch::Tensor> tensors;
    std::vector<Work> begun;
    const auto loss_fn = [&](const torch::Tensor& output, const torch::Tensor& target) {
      tensors.push_back(torch::ones({1}));
      begun.push_back(group->all_reduce(tensors.back()));
      group->all_reduce(torch::ones({1})).wait();
      return cross_entropy_of(output, target);
    };
    FakeGraphedStep graphed(net, optimizer, batch_of(0, rank, ranks),
                            stream_over(world, rank, net->parameters()), loss_fn);
    for (int step = 0; step < 5; ++step) graphed(batch_of(step, rank, ranks));
    EXPECT_EQ(graphed.captures(), 1U);
    for (auto& work : begun) work.wait();
    group->barrier();
    for (const auto& tensor : tensors) EXPECT_EQ(tensor.use_count(), 1U);
    group->close();
  }));
  EXPECT_EQ(world->complaints(), Complaints());
  EXPECT_EQ(world->aborts(), 0);
}

// NCCL is busy with one of them when the capture ends, another is in the queue: this rank's graph
// would lack both.
TEST_P(UnwaitedCalls, AreRefusedWhereTheyAreNotInTheGraph) {
  const int ranks = GetParam();
  for (const int calls : {1, 2}) {
    const auto world = std::make_shared<FakeNccl>();
    TimedBarrier together(ranks);
    expect_no_errors(run_nccl_ranks(world, ranks, [&](const GroupPointer& group) {
      const int rank = group->rank();
      ConvNet net;
      fill_parameters(*net);
      torch::optim::SGD optimizer(net->parameters(), 0.05);
      int to_begin = 0;
      std::vector<Work> begun;
      const auto loss_fn = [&](const torch::Tensor& output, const torch::Tensor& target) {
        for (; to_begin > 0; --to_begin) begun.push_back(group->all_reduce(torch::ones({1})));
        return cross_entropy_of(output, target);
      };
      FakeGraphedStep graphed(net, optimizer, batch_of(0, rank, ranks),
                              stream_over(world, rank, net->parameters()), loss_fn);
      sum_up(*group);
      for (int step = 0; step < 3; ++step) graphed(batch_of(step, rank, ranks));
      together.arrive_and_wait();
      world->hold_calls(true);
      to_begin = calls;
      expect_refusal([&] { graphed(batch_of(3, rank, ranks)); },
                     "the step began all_reduce and does not wait for it");
      EXPECT_FALSE(graphed.is_captured());
      together.arrive_and_wait();
      world->hold_calls(false);
      for (auto& work : begun) work.wait();
      group->barrier();
      graphed(batch_of(3, rank, ranks));
      EXPECT_TRUE(graphed.is_captured());
      sum_up(*group);
      group->close();
    }));
    EXPECT_EQ(world->complaints(), Complaints());
    EXPECT_EQ(world->aborts(), 0);
  }
}

// Backward of a GPU runs in a thread of autograd, which LibTorch gives the state of its caller.
TEST(CapturedGroups, AreNotedInThreadsOfAutogradToo) {
  run_nccl_ranks_or_throw(1, [](const GroupPointer& group) {
    const auto core = group->core().shared_from_this();
    EXPECT_FALSE(CapturedGroups::is_open());
    CapturedGroups::note(core);
    const CapturedGroups captured;
    const at::ThreadLocalState state;
    const auto note_twice = [&core](bool is_open) {
      EXPECT_EQ(CapturedGroups::is_open(), is_open);
      CapturedGroups::note(core);
      CapturedGroups::note(core);
    };
    std::thread(note_twice, false).join();
    EXPECT_TRUE(captured.groups().empty());
    std::thread([&] {
      const at::ThreadLocalStateGuard guard(state);
      note_twice(true);
    }).join();
    ASSERT_EQ(captured.groups().size(), 1U);
    EXPECT_EQ(captured.groups().front(), core);
    group->close();
  });
}

// As in a callback that a loss_fn has left: the capture is over, and its groups are let go of.
TEST(CapturedGroups, EndWithTheCaptureWhereItsStateIsKept) {
  run_nccl_ranks_or_throw(1, [](const GroupPointer& group) {
    const auto core = group->core().shared_from_this();
    const auto uses = core.use_count();
    std::optional<at::ThreadLocalState> kept;
    {
      const CapturedGroups captured;
      CapturedGroups::note(core);
      EXPECT_GT(core.use_count(), uses);
      kept.emplace();
    }
    const at::ThreadLocalStateGuard guard(*kept);
    EXPECT_FALSE(CapturedGroups::is_open());
    CapturedGroups::note(core);
    EXPECT_EQ(core.use_count(), uses);
    group->close();
  });
}

class RefusedCaptures : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, RefusedCaptures, ::testing::Values(1, 2, 3));

// NCCL is still busy with a call when the capture is refused. Those behind it are not enqueued:
// they would begin at a place of the program's stream that never comes. The busy one ends, but what
// follows it on the stream does not: it would copy what NCCL may never have written.
TEST_P(RefusedCaptures, DropCallsThatAreNotEnqueued) {
  const int ranks = GetParam();
  for (const auto& [check_calls, is_busy_captured] :
       {std::pair(false, false), std::pair(false, true), std::pair(true, false)}) {
    const auto world = std::make_shared<FakeNccl>();
    TimedBarrier together(ranks);
    const bool captures_busy = is_busy_captured;
    const auto body = [&](const GroupPointer& group) {
      const int rank = group->rank();
      sum_up(*group);
      group->barrier();
      together.arrive_and_wait();
      world->hold_calls(true);
      const auto values = torch::full({4}, rank + 1, torch::kFloat);
      const auto received = torch::zeros({4});
      std::vector<torch::Tensor> gathered;
      for (int other = 0; other < ranks; ++other) gathered.push_back(torch::zeros({4}));
      world->capture(rank, captures_busy);
      const CapturedGroups captured;
      Work busy = group->all_gather(gathered, values);
      world->capture(rank, true);
      Work queued = group->all_reduce(values);
      std::vector<Work> messages;
      if (ranks > 1) {
        messages.push_back(group->send(values, (rank + 1) % ranks));
        messages.push_back(group->recv(received, (rank + ranks - 1) % ranks));
      }
      world->capture(rank, false);
      ASSERT_EQ(captured.groups().size(), 1U);
      EXPECT_EQ(captured.groups().front()->end_capture(),
                captures_busy ? "all_gather" : "all_reduce");
      for (auto& message : messages) EXPECT_TRUE(message.is_completed());
      EXPECT_FALSE(busy.is_completed());
      together.arrive_and_wait();
      world->hold_calls(false);
      queued.wait();
      busy.wait();
      sum_up(*group);
      EXPECT_EQ(values[0].item<float>(), static_cast<float>(rank + 1));
      EXPECT_EQ(received[0].item<float>(), 0.0F);
      for (int other = 0; ranks > 1 && other < ranks; ++other) {
        const auto expected = static_cast<float>(captures_busy ? 0 : other + 1);
        EXPECT_EQ(gathered[static_cast<std::size_t>(other)][0].item<float>(), expected);
      }
      EXPECT_EQ(world->calls(rank), (Complaints{"all_reduce", "all_gather", "all_reduce"}));
      group->close();
    };
    expect_no_errors(run_nccl_ranks(world, ranks, body, check_calls));
    EXPECT_EQ(world->complaints(), Complaints());
    EXPECT_EQ(world->aborts(), 0);
  }
}

}  // namespace
}  // namespace lockstep::testing
