// SPDX-License-Identifier: BSD-3-Clause
// DistributedDataParallel over a NCCL and GPUs that are made up (support/fake_nccl.h), whose memory
// is the CPU's: what DDP enqueues, in which order, and that nothing is touched before it is there.
// These tests say nothing about real GPUs.
#include <gtest/gtest.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <algorithm>

#include "support/nccl_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

using NcclGroup = std::shared_ptr<ProcessGroup>;
using Options = DistributedDataParallelOptions;

/// Expects what the fake's tests expect: no rank throws, nothing is done wrong, nothing is left.
void run_over_fake(int ranks, const std::function<void(FakeNccl&, const NcclGroup&)>& body) {
  const auto world = std::make_shared<FakeNccl>();
  const auto errors = run_nccl_ranks(world, ranks, [&](const NcclGroup& group) {
    body(*world, group);
    group->close();
  });
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  EXPECT_EQ(world->complaints(), std::vector<std::string>());
  EXPECT_EQ(world->aborts(), 0);
}

class DdpOverNccl : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpOverNccl, ::testing::Values(2, 3));

TEST_P(DdpOverNccl, EqualsOneProcessOnTheGlobalBatch) {
  for (const bool is_static : {false, true}) {
    run_over_fake(GetParam(), [=](FakeNccl&, const NcclGroup& group) {
      ConvNet net;
      fill_parameters(*net, group->rank());
      const auto options =
          Options().bucket_cap_bytes(600).first_bucket_cap_bytes(100).static_graph(is_static);
      DistributedDataParallel<ConvNet> model(net, group, options);
      train(model, 6, group->rank(), group->size());
      ConvNet reference;
      fill_parameters(*reference);
      train(reference, 6, 0, 1);
      EXPECT_LT((flat_parameters(model) - flat_parameters(reference)).abs().max().item<float>(),
                5e-6F);
    });
  }
}

// With the promise of a static graph, a step is its buckets, and the stream waits, not the host.
TEST_P(DdpOverNccl, AStepOfAStaticGraphIsItsBucketsAlone) {
  run_over_fake(GetParam(), [](FakeNccl& world, const NcclGroup& group) {
    DistributedDataParallel<ConvNet> model(
        ConvNet(), group,
        Options().bucket_cap_bytes(600).first_bucket_cap_bytes(100).static_graph(true));
    const auto backward = [&] { model->forward(make_input(group->rank(), 2)).sum().backward(); };
    backward();
    backward();
    const auto before = world.calls(group->rank());
    backward();
    const auto after = world.calls(group->rank());
    const auto buckets = model->bucket_bytes().size();
    ASSERT_EQ(after.size() - before.size(), buckets);
    EXPECT_TRUE(std::all_of(after.end() - static_cast<std::ptrdiff_t>(buckets), after.end(),
                            [&](const std::string& call) { return call == after.back(); }))
        << after.back();
    group->barrier();
  });
}

TEST_P(DdpOverNccl, AccumulatesJoinsAndRebinds) {
  run_over_fake(GetParam(), [](FakeNccl&, const NcclGroup& group) {
    ConvNet net;
    fill_parameters(*net);
    DistributedDataParallel<ConvNet> model(net, group);
    const auto input = make_input(0, 2);
    {
      const auto guard = model->no_sync();
      model->forward(input).sum().backward();
    }
    model->rebind();
    model->forward(input).sum().backward();
    const auto twice = net->fc->bias.grad().clone();
    model->zero_grad();
    const auto check = [&] { EXPECT_TRUE(torch::allclose(net->fc->bias.grad() * 2, twice)); };
    if (group->rank() == 0) {
      model->forward(input).sum().backward();
      check();
    }
    model->join(check);
  });
}

}  // namespace
}  // namespace lockstep::testing
