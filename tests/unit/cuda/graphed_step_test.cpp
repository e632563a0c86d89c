// SPDX-License-Identifier: BSD-3-Clause
// GraphedStep on the CPU, where every step runs as it is, and over a stream that is made up, which
// runs a step again as a graph would. These tests say nothing about real GPUs.
#include <gtest/gtest.h>
#include <lockstep/optim/adamw.h>
#include <lockstep/optim/sgd.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/graphed_step.h>
#include <lockstep/parallel/hooks/compress.h>

#include <memory>
#include <string>
#include <utility>

#include "comm/group/group_core.h"
#include "support/fake_graph_stream.h"
#include "support/nccl_ranks.h"
#include "support/timed_waits.h"

namespace lockstep::testing {
namespace {

class GraphedOnTheCpu : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, GraphedOnTheCpu, ::testing::Values(1, 2, 3));

TEST_P(GraphedOnTheCpu, HasTheBitsOfEagerSteps) {
  const int ranks = GetParam();
  run_ranks_or_throw(ranks, [ranks](const std::shared_ptr<ProcessGroup>& group) {
    const int rank = group->rank();
    auto eager = wrapped(group);
    std::vector<torch::Tensor> losses;
    {
      torch::optim::SGD optimizer(eager->parameters(), momentum());
      for (int step = 0; step < 8; ++step) {
        const auto batch = batch_of(step, rank, ranks);
        losses.push_back(step_eagerly(eager, optimizer, batch));
      }
    }
    auto model = wrapped(group);
    torch::optim::SGD optimizer(model->parameters(), momentum());
    GraphedStep graphed(model, optimizer, cross_entropy_of, batch_of(0, rank, ranks));
    for (int step = 0; step < 8; ++step) {
      const auto loss = graphed(batch_of(step, rank, ranks));
      EXPECT_TRUE(torch::equal(loss, losses[static_cast<std::size_t>(step)]));
      EXPECT_FALSE(loss.requires_grad());
    }
    EXPECT_TRUE(torch::equal(flat_parameters(model), flat_parameters(eager)));
    EXPECT_EQ(graphed.steps(), 8U);
    EXPECT_EQ(graphed.captures(), 0U);
    EXPECT_FALSE(graphed.is_captured());
  });
}

TEST(GraphedStepCalls, LossesOfEveryForm) {
  ConvNet net;
  fill_parameters(*net);
  torch::optim::SGD optimizer(net->parameters(), 0.01);
  const auto example = batch_of(0, 0, 1);
  const auto expected = cross_entropy_of(net->forward(example.data), example.target);
  const auto check = [&](auto loss_fn, auto batch) {
    fill_parameters(*net);
    GraphedStep graphed(net, optimizer, loss_fn, batch);
    const auto loss = graphed(batch);
    EXPECT_TRUE(torch::equal(loss, expected));
  };
  check(cross_entropy_of, example);
  check(cross_entropy_of, std::pair(example.data, example.target));
  check(cross_entropy_of, std::tuple(example.data, example.target));
  check(
      [](ConvNet& model, const StepExample& batch) {
        return cross_entropy_of(model->forward(batch.data), batch.target);
      },
      example);
  check(
      [](ConvNet& model, const std::vector<torch::Tensor>& batch) {
        return cross_entropy_of(model->forward(batch[0]), batch[1]);
      },
      std::vector<torch::Tensor>{example.data, example.target});
  check([&](const torch::Tensor& output) { return cross_entropy_of(output, example.target); },
        example.data);
  check(
      [net](const StepExample& batch) mutable {
        return cross_entropy_of(net->forward(batch.data), batch.target);
      },
      example);
  check(
      [net](const std::pair<torch::Tensor, torch::Tensor>& batch) mutable {
        return cross_entropy_of(net->forward(batch.first), batch.second);
      },
      std::pair(example.data, example.target));
}

TEST(GraphedStepCalls, RefuseWhatNoGraphCanBe) {
  ConvNet net;
  torch::optim::SGD optimizer(net->parameters(), 0.01);
  const auto example = batch_of(0, 0, 1);
  GraphedStep graphed(net, optimizer, cross_entropy_of, example);
  expect_refusal(
      [&] {
        graphed({example.data.narrow(0, 0, 7), example.target.narrow(0, 0, 7)});
      },
      "tensor 0 of the batch is CPUFloatType of sizes [7, 2, 7, 7]; in the example it "
      "is Float of sizes [12, 2, 7, 7]");
  expect_refusal(
      [&] {
        graphed({example.data, example.target.to(torch::kInt)});
      },
      "tensor 1 of the batch is CPUIntType");
  expect_refusal([&] { graphed({example.data, torch::Tensor()}); }, "tensor 1 of the batch is");
  EXPECT_EQ(graphed.steps(), 0U);
  expect_refusal(
      [&] {
        GraphedStep(net, optimizer, cross_entropy_of, example, GraphedStepOptions().eager_steps(1));
      },
      "eager_steps is 1; it must be 2 or more");
  expect_refusal(
      [&] {
        GraphedStep(
            net, optimizer, [](ConvNet&, int) { return torch::Tensor(); }, 3);
      },
      "the example batch has no tensor");
  expect_refusal([&] { GraphedStep(ConvNet(nullptr), optimizer, cross_entropy_of, example); },
                 "the model is empty");
  expect_refusal([&] { GraphedStep(torch::nn::ReLU(), optimizer, cross_entropy_of, example); },
                 "the model has no parameters");
  const auto no_loss = [](const torch::Tensor& output, const torch::Tensor&) { return output; };
  GraphedStep without(net, optimizer, no_loss, example);
  expect_refusal([&] { without(example); }, "loss_fn gave 60 elements; a loss has one");
}

TEST(GraphedStepCalls, RefuseModelsThatNeedTheHost) {
  run_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    const auto example = batch_of(0, group->rank(), 2);
    auto changing = wrapped(group, StepOptions().name("net"));
    torch::optim::SGD optimizer(changing->parameters(), 0.01);
    expect_refusal([&] { GraphedStep(changing, optimizer, cross_entropy_of, example); },
                   "net (1): its backwards exchange on the CPU which parameters were used");
    auto hooked = wrapped(group);
    hooked->register_communication_hook(hooks::bf16_compress());
    expect_refusal([&] { GraphedStep(hooked, optimizer, cross_entropy_of, example); },
                   "a communication hook runs on the CPU in each step");
    auto synchronized =
        wrapped(group, StepOptions().static_graph(true).buffer_sync(BufferSync::Broadcast));
    expect_refusal([&] { GraphedStep(synchronized, optimizer, cross_entropy_of, example); },
                   "buffer_sync copies buffers through CPU memory in each step");
    auto paused = wrapped(group);
    GraphedStep graphed(paused, optimizer, cross_entropy_of, example);
    {
      const auto guard = paused->no_sync();
      expect_refusal([&] { graphed(example); }, "no_sync is in force");
    }
    EXPECT_EQ(graphed.steps(), 0U);
    // Over CPU memory, gradients of a GPU cannot be part of a graph.
    EXPECT_NE(wrapped(group)->obstacle_to_capture(c10::kCUDA).find("use Backend::Nccl"),
              std::string::npos);
  });
}

TEST(GraphedOnAStream, IsCapturedOnceAndReadsEachBatch) {
  ConvNet eager;
  fill_parameters(*eager);
  torch::optim::SGD plain(eager->parameters(), momentum());
  ConvNet net;
  fill_parameters(*net);
  torch::optim::SGD optimizer(net->parameters(), momentum());
  const auto stream = std::make_shared<FakeGraphStream>(net->parameters());
  FakeGraphedStep graphed(net, optimizer, batch_of(0, 0, 1), stream);
  std::vector<torch::Tensor> losses;
  for (int step = 0; step < 10; ++step) {
    const auto batch = batch_of(step, 0, 1);
    const auto loss = step_eagerly(eager, plain, batch);
    losses.push_back(graphed(batch));
    ASSERT_TRUE(torch::equal(losses.back(), loss)) << "step " << step;
    ASSERT_TRUE(stream->is_left());
    EXPECT_EQ(stream->replays, std::max(0, step - 2));
  }
  EXPECT_TRUE(torch::equal(flat_parameters(net), flat_parameters(eager)));
  EXPECT_EQ(stream->captures, 1);
  EXPECT_EQ(graphed.captures(), 1U);
  EXPECT_TRUE(graphed.is_captured());
  EXPECT_FALSE(torch::equal(losses[8], losses[9]));  // each has memory of its own
}

// What a graph has as a constant may change: then it is captured anew, and no step is lost.
TEST(GraphedOnAStream, IsCapturedAnewWhenTheLearningRateChanges) {
  const auto run = [](auto make_optimizer, auto set_rate, int captures) {
    ConvNet eager;
    fill_parameters(*eager);
    auto plain = make_optimizer(eager->parameters());
    ConvNet net;
    fill_parameters(*net);
    auto optimizer = make_optimizer(net->parameters());
    const auto stream = std::make_shared<FakeGraphStream>(net->parameters());
    FakeGraphedStep graphed(net, optimizer, batch_of(0, 0, 1), stream);
    for (int step = 0; step < 9; ++step) {
      const auto batch = batch_of(step, 0, 1);
      if (step == 6) {
        set_rate(plain);
        set_rate(optimizer);
      }
      if (step == 7) optimizer.zero_grad();  // the graph writes gradients all the same
      step_eagerly(eager, plain, batch);
      graphed(batch);
      ASSERT_TRUE(torch::equal(flat_parameters(net), flat_parameters(eager))) << "step " << step;
    }
    EXPECT_EQ(stream->captures, captures);
    EXPECT_EQ(stream->replays, 6);
  };
  run([](auto parameters) { return torch::optim::SGD(parameters, momentum()); },
      [](auto& optimizer) { optimizer.param_groups()[0].options().set_lr(0.001); }, 2);
  run([](auto parameters) { return optim::SGD(parameters, optim::SGDOptions(0.05).momentum(0.9)); },
      [](auto& optimizer) { optimizer.param_groups()[0].options().set_lr(0.001); }, 2);
  // Its step follows the graph, so that the graph has none of its options.
  run([](auto parameters) { return optim::AdamW(parameters, optim::AdamWOptions(0.01)); },
      [](auto& optimizer) { optimizer.param_groups()[0].options().set_lr(0.001); }, 1);
}

torch::Tensor& momentum_in(torch::optim::SGD& optimizer, const torch::Tensor& parameter) {
  auto& state = optimizer.state()[parameter.unsafeGetTensorImpl()];
  return dynamic_cast<torch::optim::SGDParamState&>(*state).momentum_buffer();
}

// A graph knows places: where the program has put something else there, it is captured anew, behind
// steps that run as they are.
TEST(GraphedOnAStream, IsCapturedAnewWhereMemoryHasBecomeAnother) {
  ConvNet eager;
  fill_parameters(*eager);
  torch::optim::SGD plain(eager->parameters(), momentum());
  ConvNet net;
  fill_parameters(*net);
  torch::optim::SGD optimizer(net->parameters(), momentum());
  const auto stream = std::make_shared<FakeGraphStream>(net->parameters());
  FakeGraphedStep graphed(net, optimizer, batch_of(0, 0, 1), stream);
  for (int step = 0; step < 17; ++step) {
    auto parameters = net->parameters();
    if (step == 5) {  // as a checkpoint that is loaded
      for (auto& parameter : parameters) {
        torch::Tensor& buffer = momentum_in(optimizer, parameter);
        buffer = buffer.clone();
      }
    }
    if (step == 9) parameters[1].set_data(parameters[1].clone());
    if (step == 13) {
      parameters[0].requires_grad_(false);
      eager->parameters()[0].requires_grad_(false);
    }
    const auto batch = batch_of(step, 0, 1);
    step_eagerly(eager, plain, batch);
    graphed(batch);
    ASSERT_TRUE(torch::equal(flat_parameters(net), flat_parameters(eager))) << "step " << step;
    EXPECT_EQ(stream->captures, step < 3 ? 0 : (step + 1) / 4) << "step " << step;
    const bool is_eager = step < 3 || (step >= 5 && step % 4 != 0 && step % 4 != 3);
    EXPECT_EQ(graphed.is_captured(), !is_eager) << "step " << step;
  }
}

TEST(GraphedOnAStream, SaysWhatTheDeviceSays) {
  ConvNet net;
  torch::optim::SGD optimizer(net->parameters(), 0.01);
  const auto stream = std::make_shared<FakeGraphStream>(net->parameters());
  stream->fails = true;
  FakeGraphedStep graphed(net, optimizer, batch_of(0, 0, 1), stream);
  for (int step = 0; step < 3; ++step) graphed(batch_of(step, 0, 1));
  expect_refusal([&] { graphed(batch_of(3, 0, 1)); },
                 "the step cannot be captured. In a graph nothing reads values on the host (item, "
                 "nonzero, printing) or depends on them, and nothing waits for the device. The "
                 "device says: operation not permitted when stream is capturing");
  EXPECT_TRUE(stream->is_left());
  EXPECT_FALSE(graphed.is_captured());
}

// With DDP over a NCCL that is made up: the end of each graph is watched as that of a call.
TEST(GraphedOnAStream, AWrappedModelOverNccl) {
  for (const int ranks : {1, 2, 3}) {
    const auto world = std::make_shared<FakeNccl>();
    const auto errors =
        run_nccl_ranks(world, ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
          auto eager = wrapped(group);
          torch::optim::SGD plain(eager->parameters(), momentum());
          auto model = wrapped(group, StepOptions().static_graph(true).tune_buckets_after(3));
          torch::optim::SGD optimizer(model->parameters(), momentum());
          const auto stream = stream_over(world, group->rank(), model->parameters());
          stream->more_state = [&] {
            std::vector<torch::Tensor> buffers;
            for (const auto& parameter : model->parameters()) {
              buffers.push_back(momentum_in(optimizer, parameter));
            }
            return buffers;
          };
          FakeGraphedStep graphed(model, optimizer, batch_of(0, group->rank(), ranks), stream);
          for (int step = 0; step < 9; ++step) {
            const auto batch = batch_of(step, group->rank(), ranks);
            step_eagerly(eager, plain, batch);
            graphed(batch);
          }
          EXPECT_TRUE(torch::equal(flat_parameters(model), flat_parameters(eager)));
          // Buckets are tuned after the third step, and settled after the fifth.
          EXPECT_EQ(stream->replays, 4);
          group->barrier();
          group->close();
        });
    expect_no_errors(errors);
    EXPECT_EQ(world->complaints(), std::vector<std::string>());
  }
}

TEST(GraphedOnAStream, AHookThatComesLaterIsRefused) {
  run_nccl_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    auto model = wrapped(group);
    torch::optim::SGD optimizer(model->parameters(), 0.01);
    const auto stream = std::make_shared<FakeGraphStream>(model->parameters());
    FakeGraphedStep graphed(model, optimizer, batch_of(0, group->rank(), 2), stream);
    // Before the capture, and where the graph would not call it.
    for (const int steps : {3, 6}) {
      while (static_cast<int>(graphed.steps()) < steps) graphed(batch_of(3, group->rank(), 2));
      model->register_communication_hook(hooks::bf16_compress());
      expect_refusal([&] { graphed(batch_of(3, group->rank(), 2)); }, "a communication hook");
      model->register_communication_hook(nullptr);
    }
    EXPECT_TRUE(graphed.is_captured());
    group->barrier();
    group->close();
  });
}

// The code of a step runs while it is captured, over calls that do not run then.
TEST(GraphedOnAStream, TheReducerOverCapturedCalls) {
  const auto world = std::make_shared<FakeNccl>();
  expect_no_errors(run_nccl_ranks(world, 2, [&](const std::shared_ptr<ProcessGroup>& group) {
    auto eager = wrapped(group);
    torch::optim::SGD plain(eager->parameters(), 0.05);
    auto model = wrapped(group);
    torch::optim::SGD optimizer(model->parameters(), 0.05);
    const auto stream = stream_over(world, group->rank(), model->parameters());
    FakeGraphedStep graphed(model, optimizer, batch_of(0, group->rank(), 2), stream);
    for (int step = 0; step < 6; ++step) {
      const auto batch = batch_of(step, group->rank(), 2);
      step_eagerly(eager, plain, batch);
      graphed(batch);
    }
    EXPECT_EQ(stream->captures, 1);
    EXPECT_TRUE(torch::equal(flat_parameters(model), flat_parameters(eager)));
    group->barrier();
    group->close();
  }));
  EXPECT_EQ(world->complaints(), std::vector<std::string>());
  EXPECT_EQ(world->aborts(), 0);
}

// A capture that ends in the midst of backward, when calls of two groups are under way or wait for
// their turn, leaves a model whose next capture is as good as the first.
TEST(GraphedOnAStream, ACaptureThatThrowsLeavesTheModelUsable) {
  const auto world = std::make_shared<FakeNccl>();
  TimedBarrier together(2);
  expect_no_errors(run_nccl_ranks(world, 2, [&](const std::shared_ptr<ProcessGroup>& group) {
    const auto side = group->split(0);
    side->all_reduce(torch::ones({1})).wait();
    auto eager = wrapped(group);
    torch::optim::SGD plain(eager->parameters(), 0.05);
    auto model = wrapped(group);
    torch::optim::SGD optimizer(model->parameters(), 0.05);
    const auto stream = stream_over(world, group->rank(), model->parameters());
    bool throws = false;
    std::vector<Work> begun;
    const auto loss_fn = [&](const torch::Tensor& output, const torch::Tensor& target) {
      for (int i = 0; throws && i < 2; ++i) begun.push_back(side->all_reduce(torch::ones({1})));
      return cross_entropy_of(output, target);
    };
    FakeGraphedStep graphed(model, optimizer, batch_of(0, group->rank(), 2), stream, loss_fn);
    model->parameters()[0].register_hook([&](const torch::Tensor&) {
      if (std::exchange(throws, false)) throw std::runtime_error("item() in a capture");
    });
    for (int step = 0; step < 6; ++step) {
      const auto batch = batch_of(step, group->rank(), 2);
      step_eagerly(eager, plain, batch);
      if (step == 3) {
        together.arrive_and_wait();
        world->hold_calls(true);
        const auto calls = world->calls(group->rank()).size();
        throws = true;
        expect_refusal([&] { graphed(batch); }, "The device says: item() in a capture");
        EXPECT_FALSE(graphed.is_captured());
        together.arrive_and_wait();
        world->hold_calls(false);
        group->barrier();
        side->barrier();
        EXPECT_EQ(world->calls(group->rank()).size(), calls + 2);  // the first of each group
      }
      graphed(batch);
    }
    EXPECT_EQ(stream->captures, 2);
    EXPECT_TRUE(torch::equal(flat_parameters(model), flat_parameters(eager)));
    group->barrier();
    side->close();
    group->close();
  }));
  EXPECT_EQ(world->complaints(), std::vector<std::string>());
  EXPECT_EQ(world->aborts(), 0);
}

// NCCL ends a communicator when its graphs are gone, so that `close` must not wait for one.
TEST(GraphedOnAStream, CloseDropsTheGraph) {
  const auto world = std::make_shared<FakeNccl>();
  expect_no_errors(run_nccl_ranks(world, 2, [&](const std::shared_ptr<ProcessGroup>& group) {
    auto model = wrapped(group);
    torch::optim::SGD optimizer(model->parameters(), 0.01);
    const auto stream = stream_over(world, group->rank(), model->parameters());
    FakeGraphedStep graphed(model, optimizer, batch_of(0, group->rank(), 2), stream);
    for (int step = 0; step < 5; ++step) graphed(batch_of(step, group->rank(), 2));
    EXPECT_TRUE(graphed.is_captured());
    group->barrier();
    group->close();
    EXPECT_FALSE(graphed.is_captured());
    expect_refusal([&] { graphed(batch_of(5, group->rank(), 2)); }, "close");
  }));
  EXPECT_EQ(world->complaints(), std::vector<std::string>());
  EXPECT_EQ(world->aborts(), 0);
}

TEST(GraphedOnAStream, NoGraphRunsOverAGroupThatHasFailed) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, 2, [&](const std::shared_ptr<ProcessGroup>& group) {
    auto model = wrapped(group);
    torch::optim::SGD optimizer(model->parameters(), 0.01);
    const auto stream = stream_over(world, group->rank(), model->parameters());
    FakeGraphedStep graphed(model, optimizer, batch_of(0, group->rank(), 2), stream);
    for (int step = 0; step < 5; ++step) graphed(batch_of(step, group->rank(), 2));
    group->barrier();
    const auto before = flat_parameters(model).clone();
    group->core().backend().abort("a rank has gone");
    try {
      graphed(batch_of(5, group->rank(), 2));
    } catch (const CommError&) {
      EXPECT_EQ(stream->replays, 2);
      EXPECT_TRUE(torch::equal(flat_parameters(model), before));
      EXPECT_FALSE(graphed.is_captured());  // the abort waits for it
      throw;
    }
  });
  for (const auto& error : errors) expect_error<CommError>(error, "gone");
}

// Gradients of steps before, which the program holds, are none of the graph's memory.
TEST(GraphedOnAStream, GradientsThatAreHeldStayAsTheyAre) {
  run_nccl_ranks_or_throw(2, [](const std::shared_ptr<ProcessGroup>& group) {
    auto model = wrapped(group);
    torch::optim::SGD optimizer(model->parameters(), 0.01);
    const auto stream = std::make_shared<FakeGraphStream>(model->parameters());
    FakeGraphedStep graphed(model, optimizer, batch_of(0, group->rank(), 2), stream);
    for (int step = 0; step < 3; ++step) graphed(batch_of(step, group->rank(), 2));
    const auto held = model->parameters()[0].grad();
    const auto values = held.clone();
    const void* const place = held.const_data_ptr();
    stream->before_capture = [&] { EXPECT_NE(held.const_data_ptr(), place); };
    for (int step = 3; step < 6; ++step) graphed(batch_of(step, group->rank(), 2));
    EXPECT_EQ(stream->captures, 1);
    EXPECT_TRUE(torch::equal(held, values));
    group->barrier();
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
