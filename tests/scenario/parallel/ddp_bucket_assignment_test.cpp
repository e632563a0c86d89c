// SPDX-License-Identifier: BSD-3-Clause
// How parameters are assigned to buckets, and the options that concern it, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include "support/in_process_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using Options = DistributedDataParallelOptions;
using Names = std::vector<std::string>;

class DdpBucketAssignment : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpBucketAssignment, ::testing::Values(2, 3));

/// Registers its layers in another order than it uses them.
struct ShuffledImpl : torch::nn::Module {
  ShuffledImpl() {
    c = register_module("c", torch::nn::Linear(torch::nn::LinearOptions(4, 4).bias(false)));
    a = register_module("a", torch::nn::Linear(torch::nn::LinearOptions(4, 4).bias(false)));
    b = register_module("b", torch::nn::Linear(torch::nn::LinearOptions(4, 4).bias(false)));
  }
  torch::Tensor forward(const torch::Tensor& x) { return c(torch::tanh(b(torch::tanh(a(x))))); }
  torch::nn::Linear a{nullptr}, b{nullptr}, c{nullptr};
};
TORCH_MODULE(Shuffled);

Names bucket_names(const DistributedDataParallelStatistics& statistics) {
  Names names;
  for (const auto& bucket : statistics.buckets) {
    std::string text;
    for (const auto& name : bucket.parameters) text += name + " ";
    names.push_back(text);
  }
  return names;
}

/// Gradients after each of some steps, one behind the other.
template <typename Net>
torch::Tensor gradients_over_steps(const Group& group, const Options& options, int steps,
                                   DistributedDataParallelStatistics* statistics = nullptr) {
  Net net;
  fill_parameters(*net);
  DistributedDataParallel<Net> model(net, group, options);
  torch::optim::SGD optimizer(model->parameters(), 0.1);
  std::vector<torch::Tensor> all;
  for (int step = 0; step < steps; ++step) {
    model->zero_grad();
    model->forward(torch::sin(torch::arange(8.0).view({2, 4}) + group->rank() + step))
        .pow(2)
        .sum()
        .backward();
    for (const auto& parameter : net->parameters())
      all.push_back(parameter.grad().flatten().clone());
    optimizer.step();
  }
  if (statistics != nullptr) *statistics = model->statistics();
  return torch::cat(all).clone();
}

TEST_P(DdpBucketAssignment, FollowsTheOrderOfTheFirstBackward) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto options = Options().bucket_cap_bytes(64).first_bucket_cap_bytes(64);
    DistributedDataParallelStatistics statistics;
    static_cast<void>(gradients_over_steps<Shuffled>(group, options, 1, &statistics));
    EXPECT_EQ(bucket_names(statistics), (Names{"b.weight ", "a.weight ", "c.weight "}));
    EXPECT_EQ(statistics.plan_reason, "reverse order of registration");
    const auto learned = gradients_over_steps<Shuffled>(group, options, 3, &statistics);
    EXPECT_EQ(bucket_names(statistics), (Names{"c.weight ", "b.weight ", "a.weight "}));
    EXPECT_EQ(statistics.plan, 2U);
    EXPECT_EQ(statistics.plan_reason, "order of the first backward's gradients");
    const auto fixed =
        gradients_over_steps<Shuffled>(group, Options(options).learn_order(false), 3, &statistics);
    EXPECT_EQ(statistics.plan, 1U);
    EXPECT_TRUE(torch::equal(learned, fixed)) << "bits do not depend on the buckets";
    group->close();
  });
}

/// A backward within its backward gives `last` another gradient, behind all others or not.
struct RepeatingImpl : torch::nn::Module {
  RepeatingImpl() {
    for (const char* name : {"first", "middle", "last"}) {
      register_parameter(name, torch::ones({16}));
    }
  }
  torch::Tensor forward(const torch::Tensor& x) {
    const auto parts = parameters(false);
    const auto hidden = torch::tanh(parts[0] * x);
    hidden.register_hook([last = parts[2]](const torch::Tensor&) {
      const torch::AutoGradMode with_gradients(true);
      last.sum().backward();
    });
    return (torch::tanh(hidden * parts[1]) * parts[2]).sum();
  }
};
TORCH_MODULE(Repeating);

TEST_P(DdpBucketAssignment, CountsTheLastOfSeveralGradients) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // The second gradient of `last` is late where it has a bucket of its own, and is added to the
    // first one where its bucket still waits for `first`.
    for (const std::size_t cap : {64U, 192U}) {
      Repeating net;
      DistributedDataParallel<Repeating> model(net, group, Options().bucket_caps_bytes({cap}));
      for (int step = 0; step < 3; ++step) {
        model->zero_grad();
        model->forward(torch::full({16}, group->rank() + 1.0)).backward();
        EXPECT_EQ(model->statistics().late_parameters.empty(), cap > 64 || step > 0) << step;
      }
      Names order;
      for (const auto& bucket : model->statistics().buckets) {
        order.insert(order.end(), bucket.parameters.begin(), bucket.parameters.end());
      }
      EXPECT_EQ(order, (Names{"middle", "last", "first"})) << cap;
    }
    group->close();
  });
}

TEST_P(DdpBucketAssignment, IsTunedByTimesWithoutChangingABit) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallelStatistics statistics;
    const auto options = Options().bucket_cap_bytes(200).first_bucket_cap_bytes(64);
    const auto tuned = gradients_over_steps<Shuffled>(group, Options(options).tune_buckets_after(4),
                                                      8, &statistics);
    EXPECT_EQ(statistics.plan_reason.substr(0, 6), "tuned:") << statistics.plan_reason;
    EXPECT_EQ(statistics.plan, 3U);
    EXPECT_TRUE(torch::equal(tuned, gradients_over_steps<Shuffled>(group, options, 8)));
    // The same boundaries on all ranks, or they would not have met.
    group->close();
  });
}

TEST_P(DdpBucketAssignment, KeepsWhatAccumulatedWhileItChanges) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto options = Options().bucket_cap_bytes(64).first_bucket_cap_bytes(64);
    Shuffled net;
    fill_parameters(*net);
    DistributedDataParallel<Shuffled> model(net, group, options);
    const auto backward = [&] { model->forward(torch::ones({2, 4})).sum().backward(); };
    backward();
    const auto once = net->a->weight.grad().clone();
    backward();  // gradients are views of buckets that are divided anew now
    EXPECT_EQ(model->statistics().plan, 2U);
    EXPECT_TRUE(torch::allclose(net->a->weight.grad(), 2 * once));
    EXPECT_TRUE(torch::allclose(net->c->weight.grad()[0], net->c->weight.grad()[1]));
    group->close();
  });
}

TEST_P(DdpBucketAssignment, HasACapForEachBucket) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallelStatistics statistics;
    static_cast<void>(gradients_over_steps<Shuffled>(group, Options().bucket_caps_bytes({64, 128}),
                                                     2, &statistics));
    EXPECT_EQ(bucket_names(statistics), (Names{"c.weight ", "b.weight a.weight "}));
    EXPECT_THROW(
        DistributedDataParallel<Shuffled>(Shuffled(), group, Options().bucket_caps_bytes({64, 0})),
        c10::Error);
    group->close();
  });
}

TEST_P(DdpBucketAssignment, LeavesIgnoredParametersAlone) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Shuffled net;
    fill_parameters(*net, group->rank());
    const auto own = net->b->weight.detach().clone();
    DistributedDataParallel<Shuffled> model(net, group, Options().ignored_names({"b.weight"}));
    EXPECT_TRUE(torch::equal(net->b->weight, own)) << "it was overwritten";
    model->forward(torch::full({1, 4}, static_cast<float>(group->rank()))).sum().backward();
    EXPECT_TRUE(net->b->weight.grad().defined());
    const auto described = bucket_names(model->statistics());
    EXPECT_EQ(described, (Names{"a.weight c.weight "}));
    EXPECT_THROW(
        DistributedDataParallel<Shuffled>(Shuffled(), group, Options().ignored_names({"d.weight"})),
        c10::Error);
    group->close();
  });
}

TEST_P(DdpBucketAssignment, AStaticGraphGivesTheSameBits) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto expected = gradients_over_steps<Shuffled>(group, Options(), 4);
    const auto actual = gradients_over_steps<Shuffled>(group, Options().static_graph(true), 4);
    EXPECT_TRUE(torch::equal(actual, expected));
    group->close();
  });
}

TEST_P(DdpBucketAssignment, ReducesInASmallerDtype) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    const auto wide = gradients_over_steps<Shuffled>(group, Options(), 2);
    for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
      DistributedDataParallelStatistics statistics;
      const auto narrow =
          gradients_over_steps<Shuffled>(group, Options().reduce_dtype(dtype), 2, &statistics);
      EXPECT_EQ(narrow.scalar_type(), torch::kFloat);
      EXPECT_FALSE(torch::equal(narrow, wide));
      // bfloat16 has 8 bits: two roundings of 2^-9, and what a step makes of them.
      EXPECT_TRUE(torch::allclose(narrow, wide, 2e-2, 2e-3));
      EXPECT_EQ(statistics.buckets[0].bytes, 3U * 64) << "each on a cache line of its own";
    }
    EXPECT_THROW(DistributedDataParallel<Shuffled>(Shuffled(), group,
                                                   Options().reduce_dtype(torch::kDouble)),
                 c10::Error);
    group->close();
  });
}

TEST_P(DdpBucketAssignment, TellsTimesAndParametersOfAStep) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallelStatistics statistics;
    static_cast<void>(gradients_over_steps<Shuffled>(group, Options(), 3, &statistics));
    EXPECT_EQ(statistics.steps, 3U);
    for (const auto& times : {statistics.last, statistics.total}) {
      EXPECT_GT(times.forward.count(), 0);
      EXPECT_GT(times.backward.count(), 0);
      EXPECT_GT(times.communication.count(), 0);
      EXPECT_GT(times.exposed.count(), 0);
      EXPECT_LE(times.exposed, times.communication);
    }
    EXPECT_GE(statistics.total.forward, statistics.last.forward);
    EXPECT_TRUE(statistics.unused_parameters.empty());
    EXPECT_EQ(statistics.buckets.size(), 1U);
    group->close();
  });
}

TEST(DdpAlone, NeedsNoOtherRankForAnything) {
  const auto group = init_process_group(ProcessGroupOptions().environment(LaunchEnvironment()));
  Shuffled net;
  DistributedDataParallel<Shuffled> model(net, group);
  {
    const auto guard = model->no_sync();
    model->forward(torch::ones({1, 4})).sum().backward();
  }
  model->register_communication_hook(
      [](ProcessGroup&, const GradientBucketView& bucket) { return make_future(bucket.buffer()); });
  model->join();
  model->average_buffers();
  model->set_samples(3);
  model->rebind();
  EXPECT_TRUE(model->statistics().buckets.empty());
  EXPECT_GT(model->statistics().total.forward.count(), 0);
  group->close();
}

}  // namespace
}  // namespace lockstep::testing
