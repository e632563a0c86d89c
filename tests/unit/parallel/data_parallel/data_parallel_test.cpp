// SPDX-License-Identifier: BSD-3-Clause
// One module on several devices of a process, against the module alone and against
// DistributedDataParallel by hand.
#include <gtest/gtest.h>
#include <lockstep/comm/local_ranks.h>
#include <lockstep/parallel/data_parallel.h>
#include <lockstep/parallel/sync_batch_norm.h>
#include <torch/torch.h>

#include <atomic>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

namespace nn = torch::nn;
namespace F = torch::nn::functional;

/// Convolution, batch norm and two layers, cloned by `reset`.
struct SmallNetImpl : nn::Cloneable<SmallNetImpl> {
  explicit SmallNetImpl(bool with_norm) : has_norm(with_norm) { reset(); }
  void reset() override {
    conv = register_module("conv", nn::Conv2d(nn::Conv2dOptions(2, 4, 3).padding(1)));
    if (has_norm) norm = register_module("norm", nn::BatchNorm2d(4));
    head = register_module("head", nn::Linear(4 * 4 * 4, 3));
  }
  torch::Tensor forward(torch::Tensor x) {
    ++forwards;
    TORCH_CHECK(!x.isnan().any().item<bool>(), "not a number");
    x = conv(x);
    if (has_norm) x = norm(x);
    return head(torch::relu(x).flatten(1));
  }
  bool has_norm;
  int forwards = 0;  // of this replica
  nn::Conv2d conv{nullptr};
  nn::BatchNorm2d norm{nullptr};
  nn::Linear head{nullptr};
};
TORCH_MODULE(SmallNet);

SmallNet small_net(bool has_norm = false) {
  torch::manual_seed(3);
  return SmallNet(has_norm);
}

SmallNet copy_of(const SmallNet& net) {
  return SmallNet(std::dynamic_pointer_cast<SmallNetImpl>(net.ptr()->clone()));
}

struct Samples {
  torch::Tensor data, target;
};
Samples samples(std::int64_t count, int seed = 1) {
  auto generator = torch::make_generator<torch::CPUGeneratorImpl>(static_cast<std::uint64_t>(seed));
  return {torch::randn({count, 2, 4, 4}, generator), torch::randint(3, {count}, generator)};
}

const auto loss_of = [](const torch::Tensor& output, const torch::Tensor& target) {
  return F::cross_entropy(output, target);
};

std::vector<torch::Device> cpu_ranks(int ranks) {
  return std::vector<torch::Device>(static_cast<std::size_t>(ranks), torch::Device(torch::kCPU));
}
LocalRanksOptions one_thread() {
  return LocalRanksOptions().timeout(kRankTimeout).threads(1);
}

using Tensors = std::vector<torch::Tensor>;
Tensors gradients_of(const nn::Module& net) {
  Tensors list;
  for (const auto& parameter : net.parameters()) {
    list.push_back(parameter.grad().defined() ? parameter.grad().clone() : torch::Tensor());
  }
  return list;
}
Tensors copies_of(const Tensors& tensors) {
  Tensors list;
  for (const auto& tensor : tensors) list.push_back(tensor.detach().clone());
  return list;
}

void expect_equal(const Tensors& actual, const Tensors& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].defined(), expected[i].defined()) << what << ' ' << i;
    if (!actual[i].defined()) continue;
    EXPECT_TRUE(torch::equal(actual[i], expected[i])) << what << ' ' << i;
  }
}
/// Sums of the parts are rounded at other places than that of the whole batch.
void expect_close(const Tensors& actual, const Tensors& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i].defined(), expected[i].defined()) << what << ' ' << i;
    if (!actual[i].defined()) continue;
    EXPECT_TRUE(torch::allclose(actual[i], expected[i], 1e-4, 1e-6))
        << what << ' ' << i << ": differs by "
        << (actual[i] - expected[i]).abs().max().item<double>();
  }
}

class Replicated : public ::testing::TestWithParam<int> {
 protected:
  LocalRanks ranks_{cpu_ranks(GetParam()), one_thread()};
};
INSTANTIATE_TEST_SUITE_P(Ranks, Replicated, ::testing::Values(1, 2, 3, 4));

TEST_P(Replicated, GradientsAreThoseOfTheMeanOverTheWholeBatch) {
  // Even parts, a smaller last one, and fewer samples than ranks, also in the first step.
  for (const auto& counts : {std::vector<std::int64_t>{12, 7, 2, 1, 5}, {1, 12, 3}}) {
    SmallNet net = small_net();
    SmallNet plain = copy_of(net);
    DataParallel<SmallNet> replicated(net, ranks_);
    for (const auto count : counts) {
      const auto batch = samples(count, static_cast<int>(count));
      net->zero_grad();
      plain->zero_grad();
      const auto loss = replicated.step(batch.data, batch.target, loss_of);
      const auto expected = loss_of(plain->forward(batch.data), batch.target);
      expected.backward();
      EXPECT_FALSE(loss.requires_grad());
      EXPECT_EQ(loss.dim(), 0);
      EXPECT_NEAR(loss.item<double>(), expected.item<double>(), 1e-6);
      expect_close(gradients_of(*net), gradients_of(*plain),
                   std::to_string(count) + " samples: gradient");
    }
  }
}

TEST(DataParallel, OneRankHasTheBitsOfTheModuleAlone) {
  torch::set_num_threads(1);
  LocalRanks ranks(cpu_ranks(1), one_thread());
  SmallNet net = small_net(true);
  SmallNet plain = copy_of(net);
  DataParallel<SmallNet> replicated(net, ranks);
  torch::optim::SGD own(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  torch::optim::SGD other(plain->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
  for (int step = 0; step < 4; ++step) {
    const auto batch = samples(6, step);
    own.zero_grad();
    other.zero_grad();
    const auto loss = replicated.step(batch.data, batch.target, loss_of);
    const auto expected = loss_of(plain->forward(batch.data), batch.target);
    expected.backward();
    EXPECT_TRUE(torch::equal(loss, expected));
    expect_equal(gradients_of(*net), gradients_of(*plain), "gradient");
    own.step();
    other.step();
  }
  expect_equal(copies_of(net->parameters()), copies_of(plain->parameters()), "parameter");
  expect_equal(net->buffers(), plain->buffers(), "buffer");
}

/// Trains with a DistributedDataParallel a rank; returns parameters and buffers of each rank.
std::vector<Tensors> train_by_hand(LocalRanks& ranks, const SmallNet& net, BufferSync sync,
                                   int steps) {
  std::vector<Tensors> results(static_cast<std::size_t>(ranks.size()));
  ranks.run([&](const std::shared_ptr<ProcessGroup>& group, torch::Device) {
    const auto rank = static_cast<std::size_t>(group->rank());
    DistributedDataParallel<SmallNet> model(
        copy_of(net), group,
        DistributedDataParallelOptions().averaging(GradientAveraging::Samples).buffer_sync(sync));
    torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
    for (int step = 0; step < steps; ++step) {
      const auto batch = samples(11, step);
      optimizer.zero_grad();
      const auto data = batch.data.chunk(ranks.size())[rank];
      loss_of(model->forward(data), batch.target.chunk(ranks.size())[rank]).backward();
      optimizer.step();
    }
    results[rank] = copies_of(model->parameters());
    for (const auto& buffer : copies_of(model->buffers())) results[rank].push_back(buffer);
  });
  return results;
}

TEST_P(Replicated, HasTheBitsOfDistributedDataParallelInEachRank) {
  for (const auto sync : {BufferSync::Local, BufferSync::Broadcast, BufferSync::Average}) {
    SmallNet net = small_net(true);
    const auto expected = train_by_hand(ranks_, net, sync, 4);
    DataParallel<SmallNet> replicated(net, ranks_,
                                      DistributedDataParallelOptions().buffer_sync(sync));
    torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
    for (int step = 0; step < 4; ++step) {
      const auto batch = samples(11, step);
      optimizer.zero_grad();
      replicated.step(batch.data, batch.target, loss_of);
      optimizer.step();
    }
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      const auto& replica = replicated.replica(rank);
      Tensors own = copies_of(replica->parameters());
      for (const auto& buffer : copies_of(replica->buffers())) own.push_back(buffer);
      expect_equal(own, expected[static_cast<std::size_t>(rank)],
                   "rank " + std::to_string(rank) + ": parameter or buffer");
    }
  }
}

TEST_P(Replicated, GradientsAddToThoseThatTheModuleHas) {
  for (const bool set_to_none : {true, false}) {
    SmallNet net = small_net();
    SmallNet plain = copy_of(net);
    DataParallel<SmallNet> replicated(net, ranks_);
    for (int step = 0; step < 3; ++step) {
      if (step == 2) {
        net->zero_grad(set_to_none);
        plain->zero_grad(set_to_none);
      }
      const auto batch = samples(7, step);
      replicated.step(batch.data, batch.target, loss_of);
      loss_of(plain->forward(batch.data), batch.target).backward();
      if (step == 0) {  // as clipping does
        const torch::NoGradGuard no_grad;
        for (auto& parameter : net->parameters()) parameter.mutable_grad().mul_(0.5);
        for (auto& parameter : plain->parameters()) parameter.mutable_grad().mul_(0.5);
      }
      expect_close(gradients_of(*net), gradients_of(*plain), "gradient");
    }
  }
}

TEST_P(Replicated, ReplicasFollowWhatTheProgramChangesAboutTheModule) {
  SmallNet net = small_net(true);
  DataParallel<SmallNet> replicated(net, ranks_);
  const auto first = samples(12);
  replicated.step(first.data, first.target, loss_of);
  for (int i = 1; i < 4; ++i) {
    static_cast<void>(replicated.forward(first.data));
    // The memory of the old values may become that of the new ones.
    net->norm->running_mean.set_data(torch::empty({0}));
    net->norm->running_mean.set_data(torch::full({4}, 10.0 * i));
    replicated.step(first.data, first.target, loss_of);
    const auto last = replicated.replica(GetParam() - 1)->norm->running_mean;
    EXPECT_TRUE(torch::allclose(last, torch::full({4}, 9.0 * i), 0, 1)) << last;
  }
  {
    const torch::NoGradGuard no_grad;
    net->head->weight.mul_(2);                                // in place
    net->head->bias.set_data(torch::ones({3}));               // other memory
    net->norm->running_mean.fill_(0.25);                      // a buffer
    net->norm->running_var.set_data(torch::full({4}, 2.0F));  // a buffer in other memory
  }
  net->conv->weight.set_requires_grad(false);
  net->to(torch::kDouble);
  net->eval();
  SmallNet plain = copy_of(net);
  plain->conv->weight.set_requires_grad(false);  // clones do not know it
  net->zero_grad();
  const auto batch = samples(12, 2);
  const auto data = batch.data.to(torch::kDouble);
  replicated.step(data, batch.target, loss_of);
  loss_of(plain->forward(data), batch.target).backward();
  expect_close(gradients_of(*net), gradients_of(*plain), "gradient");
  for (int rank = 0; rank < ranks_.size(); ++rank) {
    const auto& replica = replicated.replica(rank);
    EXPECT_FALSE(replica->norm->is_training());
    EXPECT_FALSE(replica->conv->weight.requires_grad());
    expect_equal(replica->buffers(), net->buffers(), "buffer");
    const auto own = replica->parameters();
    const auto all = net->parameters();
    for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(own[i].data_ptr(), all[i].data_ptr());
  }
  net->train();
  net->norm->eval();  // a part in another mode than the whole
  replicated.step(data, batch.target, loss_of);
  EXPECT_TRUE(replicated.replica(ranks_.size() - 1)->is_training());
  EXPECT_FALSE(replicated.replica(ranks_.size() - 1)->norm->is_training());
}

TEST_P(Replicated, ForwardGivesWhatTheModuleGives) {
  SmallNet net = small_net(true);
  DataParallel<SmallNet> replicated(net, ranks_);
  for (int step = 0; step < 2; ++step) {
    const auto batch = samples(12, step);
    replicated.step(batch.data, batch.target, loss_of);  // each replica has statistics of its own
    net->eval();
    for (const std::int64_t count : {12, 7, 1}) {
      const auto data = samples(count, 9).data;
      const auto scores = replicated.forward(data);
      EXPECT_FALSE(scores.requires_grad());
      const torch::NoGradGuard no_grad;
      EXPECT_TRUE(torch::allclose(scores, net->forward(data), 1e-5, 1e-6)) << count << " samples";
    }
    net->train();
  }
}

TEST_P(Replicated, ForwardHasTheBuffersOfTheModuleWhateverHappenedBefore) {
  SmallNet net = small_net(true);
  DataParallel<SmallNet> replicated(
      net, ranks_, DistributedDataParallelOptions().buffer_sync(BufferSync::Local));
  const auto data = samples(12, 9).data;
  const auto expect_same = [&](const std::string& when) {
    const auto scores = replicated.forward(data);
    const torch::NoGradGuard no_grad;
    EXPECT_TRUE(torch::allclose(scores, net->forward(data), 1e-5, 1e-6)) << when;
    for (int rank = 0; rank < ranks_.size(); ++rank) {
      expect_equal(replicated.replica(rank)->buffers(), net->buffers(), when + ": buffer");
    }
  };
  auto batch = samples(12);
  replicated.step(batch.data, batch.target, loss_of);
  net->eval();
  expect_same("after a step");
  net->train();
  // The first rank fails before it writes a buffer; others write theirs.
  batch.data[0].fill_(std::numeric_limits<float>::quiet_NaN());
  expect_refusal([&] { replicated.step(batch.data, batch.target, loss_of); }, "not a number");
  EXPECT_EQ(ranks_.failed_rank(), 0);
  net->eval();
  expect_same("after an error in step");
  net->norm->train();  // a part in another mode than the whole
  static_cast<void>(replicated.forward(data));
  net->norm->eval();
  expect_same("after a forward that wrote buffers");
}

TEST_P(Replicated, IdleReplicasDoNothing) {
  SmallNet net = small_net(true);
  DataParallel<SmallNet> replicated(net, ranks_);
  const auto batch = samples(1);
  replicated.step(batch.data, batch.target, loss_of);
  for (int rank = 0; rank < ranks_.size(); ++rank) {
    const auto& replica = replicated.replica(rank);
    EXPECT_EQ(replica->forwards, rank == 0 ? 1 : 0);
    EXPECT_EQ(replica->norm->num_batches_tracked.item<std::int64_t>(), rank == 0 ? 1 : 0);
  }
}

/// Takes and gives structures of tensors, and has no clone().
struct StructuredNetImpl : nn::Module {
  StructuredNetImpl() { linear = register_module("linear", nn::Linear(3, 2)); }
  using Input = std::map<std::string, torch::Tensor>;
  std::tuple<torch::Tensor, std::vector<torch::Tensor>> forward(const Input& input) {
    const auto y = linear(input.at("x") * input.at("scale"));
    return {y, {y.sum(), input.at("x")}};
  }
  nn::Linear linear{nullptr};
};
TORCH_MODULE(StructuredNet);

TEST_P(Replicated, StructuresOfTensorsAreCutAndJoined) {
  StructuredNet net;
  DataParallel<StructuredNet> replicated(net, ranks_, [] { return StructuredNet(); });
  const StructuredNetImpl::Input input{{"scale", torch::tensor(2.0)}, {"x", torch::rand({5, 3})}};
  const auto [y, others] = replicated.forward(input);
  const auto [expected, expected_others] = net->forward(input);
  EXPECT_TRUE(torch::allclose(y, expected));
  EXPECT_TRUE(torch::equal(others[1], input.at("x")));
  EXPECT_EQ(others[0].dim(), GetParam() == 1 ? 0 : 1);
  EXPECT_NEAR(others[0].sum().item<double>(), expected.sum().item<double>(), 1e-5);
  net->zero_grad();
  const std::vector<torch::Tensor> targets{torch::rand({5, 2}), torch::rand({5})};
  const auto loss = [](const auto& output, const std::vector<torch::Tensor>& target) {
    return ((std::get<0>(output) - target[0]).square().sum(1) + target[1]).mean();
  };
  replicated.step(input, targets, loss);
  const auto own = gradients_of(*net);
  net->zero_grad();
  loss(net->forward(input), targets).backward();
  expect_close(own, gradients_of(*net), "gradient");
}

/// Gives what the test tells it, for each part of the batch.
struct OutputsImpl : nn::Cloneable<OutputsImpl> {
  using Output = std::vector<std::optional<torch::Tensor>>;
  explicit OutputsImpl(std::function<Output(const torch::Tensor&)> function)
      : outputs(std::move(function)) {}
  void reset() override {}
  Output forward(const torch::Tensor& x) { return outputs(x); }
  std::function<Output(const torch::Tensor&)> outputs;
};
TORCH_MODULE(Outputs);

TEST_P(Replicated, OutputsWithoutATensorStaySoAndRanksThatDifferAreNamed) {
  const auto data = torch::arange(4 * GetParam()).view({-1, 2});  // two samples a rank
  const auto forward = [&](std::function<OutputsImpl::Output(const torch::Tensor&)> function) {
    DataParallel<Outputs> replicated(Outputs(std::move(function)), ranks_);
    return replicated.forward(data);
  };
  const auto both = forward([](const torch::Tensor& x) {
    return OutputsImpl::Output{torch::Tensor(), x};
  });
  EXPECT_FALSE(both[0]->defined());
  EXPECT_TRUE(torch::equal(*both[1], data));
  if (GetParam() == 1) return;
  const int last = GetParam() - 1;
  const auto is_last = [&](const torch::Tensor& x) {
    return x[0][0].item<std::int64_t>() == 4 * last;
  };
  expect_refusal(
      [&] {
        forward([&](const torch::Tensor& x) {
          return OutputsImpl::Output{x, is_last(x) ? torch::Tensor() : x};
        });
      },
      "tensor 1 of the output is undefined in rank " + std::to_string(last) +
          ", and defined in rank 0");
  expect_refusal(
      [&] {
        forward([&](const torch::Tensor& x) {
          return is_last(x) ? OutputsImpl::Output{x, x, x} : OutputsImpl::Output{x, x};
        });
      },
      "the output of rank " + std::to_string(last) + " has 3 tensors, that of rank 0 has 2");
}

TEST_P(Replicated, TheMeanOfHalfLossesIsAHalfNumberWhereTheSumIsNone) {
  SmallNet net = small_net();
  DataParallel<SmallNet> replicated(net, ranks_);
  const auto batch = samples(7);
  const auto loss = replicated.step(batch.data, batch.target, [](const auto& output, const auto&) {
    return (output.mean() * 0 + 30000).to(torch::kHalf);
  });
  EXPECT_EQ(loss.scalar_type(), torch::kHalf);
  EXPECT_NEAR(loss.item<double>(), 30000, 64);
}

TEST_P(Replicated, AnErrorInOneReplicaIsThrownAndTheNextStepWorks) {
  const int last = GetParam() - 1;
  SmallNet net = small_net();
  SmallNet plain = copy_of(net);
  DataParallel<SmallNet> replicated(net, ranks_);
  const auto batch = samples(8);
  loss_of(plain->forward(batch.data), batch.target).backward();
  const auto is_last = [&](const torch::Tensor& target) {
    return torch::equal(target, batch.target.chunk(GetParam()).back());
  };
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto failing_loss = [&](const torch::Tensor& output, const torch::Tensor& target) {
      if (is_last(target)) throw std::out_of_range("a bad sample");
      return loss_of(output, target);
    };
    try {
      replicated.step(batch.data, batch.target, failing_loss);
      ADD_FAILURE() << "no error";
    } catch (const std::out_of_range& error) {
      EXPECT_EQ(std::string(error.what()), "rank " + std::to_string(last) + " of " +
                                               std::to_string(GetParam()) + ": a bad sample");
    }
    EXPECT_EQ(ranks_.failed_rank(), last);
    net->zero_grad();
    replicated.step(batch.data, batch.target, loss_of);
    EXPECT_FALSE(ranks_.failed_rank());
    expect_close(gradients_of(*net), gradients_of(*plain), "gradient");
  }
}

/// A layer beside one that the program gives.
struct OnBackboneImpl : nn::Module {
  explicit OnBackboneImpl(nn::Linear given) {
    backbone = register_module("backbone", std::move(given));
    head = register_module("head", nn::Linear(3, 2));
  }
  torch::Tensor forward(const torch::Tensor& x) { return head(backbone(x)); }
  nn::Linear backbone{nullptr}, head{nullptr};
};
TORCH_MODULE(OnBackbone);

TEST_P(Replicated, ModulesThatCannotHaveReplicasAreRefused) {
  const auto refuse = [](const std::function<void()>& make, const std::string& part) {
    expect_refusal(make, part);
  };
  refuse([&] { DataParallel<SmallNet> model(nullptr, ranks_); }, "the module is empty");
  refuse([&] { DataParallel<nn::AnyModule> model(nn::AnyModule(), ranks_); },
         "the module is empty");
  refuse([&] { DataParallel<SmallNet> model(nullptr, ranks_, [] { return small_net(); }); },
         "the module is empty");
  refuse([&] { DataParallel<SmallNet> model(small_net(), ranks_, std::function<SmallNet()>()); },
         "the function that makes a replica is empty");
  nn::Linear elsewhere(3, 2);
  elsewhere->register_parameter("more", torch::empty({1}, torch::kMeta));
  refuse(
      [&] { DataParallel<nn::Linear> model(elsewhere, ranks_, [] { return nn::Linear(3, 2); }); },
      "parameter 'more' is on meta");
  nn::Sequential normalized(nn::Linear(3, 2), lockstep::nn::SyncBatchNorm(nn::BatchNormOptions(2)));
  refuse([&] { DataParallel<nn::Sequential> model(normalized, ranks_); },
         "module '1' is a SyncBatchNorm");
  if (GetParam() == 1) return;
  refuse(
      [&] { DataParallel<SmallNet> model(small_net(), ranks_, [] { return SmallNet(nullptr); }); },
      "gave an empty module for rank 1");
  refuse(
      [&] {
        DataParallel<SmallNet> model(small_net(true), ranks_, [] {
          SmallNet replica = small_net(true);
          replica->register_buffer("more", torch::ones({1}));
          return replica;
        });
      },
      "the replica of rank 1 has 4 buffers, the module has 3");
  const nn::Linear backbone(3, 3);
  refuse(
      [&] {
        DataParallel<OnBackbone> model(OnBackbone(backbone), ranks_,
                                       [&] { return OnBackbone(backbone); });
      },
      "the replicas of ranks 0 and 1 share the parameter 'backbone.weight'");
  if (GetParam() == 2) return;
  OnBackbone cached(nn::Linear(3, 3));
  refuse(
      [&] { DataParallel<OnBackbone> model(OnBackbone(backbone), ranks_, [&] { return cached; }); },
      "the replicas of ranks 1 and 2 share the parameter");
}

TEST_P(Replicated, OtherModulesOrParametersThanAtConstructionAreRefused) {
  if (GetParam() == 1) return;
  const auto data = torch::rand({4, 3});
  const auto make = [] { return OnBackbone(nn::Linear(3, 3)); };
  OnBackbone net = make();
  DataParallel<OnBackbone> replicated(net, ranks_, make);
  static_cast<void>(replicated.forward(data));
  net->replace_module("head", nn::Linear(3, 2));
  expect_refusal([&] { static_cast<void>(replicated.forward(data)); },
                 "another parameter or module stands where");
  net->replace_module("head", net->head.ptr());
  static_cast<void>(replicated.forward(data));
}

TEST_P(Replicated, WrongArgumentsAreRefused) {
  SmallNet net = small_net();
  const auto refuse = [](const std::function<void()>& make, const std::string& part) {
    expect_refusal(make, part);
  };
  refuse([&] { DataParallel<SmallNet> model(nullptr, ranks_, [] { return small_net(); }); },
         "the module is empty");
  refuse(
      [&] {
        DataParallel<SmallNet> model(net, ranks_,
                                     DistributedDataParallelOptions().static_graph(true));
      },
      "static_graph is refused");
  if (GetParam() > 1) {
    refuse([&] { DataParallel<StructuredNet> model(StructuredNet(), ranks_); },
           "needs a function that makes a replica");
    refuse([&] { DataParallel<SmallNet> model(net, ranks_, [] { return small_net(true); }); },
           "the replica of rank 1 has 6 parameters, the module has 4");
    refuse([&] { DataParallel<SmallNet> model(net, ranks_, [&] { return net; }); },
           "each rank needs one of its own");
  }
  DataParallel<SmallNet> model(net, ranks_);
  const auto batch = samples(4);
  refuse(
      [&] {
        model.step(torch::rand({0, 2, 4, 4}), batch.target, loss_of);
      },
      "DataParallel::step: the batch is empty");
  refuse([&] { static_cast<void>(model.forward(torch::tensor(1.0))); },
         "DataParallel::forward: the input has no tensor with a first dimension");
  refuse([&] { model.step(batch.data.clone().requires_grad_(), batch.target, loss_of); },
         "a tensor of the batch requires grad");
  refuse([&] { model.step(batch.data, samples(5).target, loss_of); },
         "has 5 samples in its first dimension, the input has 4");
  refuse(
      [&] {
        model.step(batch.data, batch.target,
                   [](const auto& output, const auto&) { return output; });
      },
      "it must give the mean over its samples, one element");
  refuse(
      [&] {
        model.step(batch.data, batch.target,
                   [](const auto&, const auto&) { return torch::Tensor(); });
      },
      "gave no tensor");
  net->register_parameter("late", torch::ones({1}));
  if (GetParam() > 1) {
    refuse([&] { model.step(batch.data, batch.target, loss_of); },
           "make a new DataParallel after such a change");
  }
}

TEST(DataParallel, TakesSequentialAndAnyModule) {
  LocalRanks ranks(cpu_ranks(2), one_thread());
  nn::Sequential sequential(nn::Linear(3, 2));
  DataParallel<nn::Sequential> first(sequential, ranks);
  nn::AnyModule any(nn::Linear(3, 2));
  DataParallel<nn::AnyModule> second(any, ranks);
  const auto loss = [](const torch::Tensor& output, const torch::Tensor& target) {
    return (output - target).square().mean();
  };
  const auto data = torch::rand({4, 3});
  for (int step = 0; step < 2; ++step) {
    first.step(data, torch::ones({4, 2}), loss);
    second.step(data, torch::ones({4, 2}), loss);
    EXPECT_EQ(first.forward(data).sizes(), (std::vector<std::int64_t>{4, 2}));
    EXPECT_EQ(second.forward(data).sizes(), (std::vector<std::int64_t>{4, 2}));
  }
  EXPECT_EQ(first.statistics().steps, 2U);
}

}  // namespace
}  // namespace lockstep::testing
