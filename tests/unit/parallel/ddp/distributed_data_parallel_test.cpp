// SPDX-License-Identifier: BSD-3-Clause
// DistributedDataParallel with ranks as threads: against one process on the global batch, and where
// backward is unusual.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <numeric>
#include <sstream>

#include "support/in_process_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

class Ddp : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, Ddp, ::testing::Values(1, 2, 3));

// Small buckets, so that there are several.
DistributedDataParallelOptions small_buckets(std::size_t cap = 600) {
  return DistributedDataParallelOptions().bucket_cap_bytes(cap).first_bucket_cap_bytes(100);
}

/// Both sum the same terms in another order.
void expect_same_gradients(const std::vector<torch::Tensor>& actual,
                           const std::vector<torch::Tensor>& expected, float factor = 1) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    EXPECT_TRUE(torch::allclose(actual[i].grad(), expected[i].grad() * factor, 1e-4, 1e-6))
        << "parameter " << i;
  }
}

std::vector<torch::Tensor> train_ranks(int ranks, const DistributedDataParallelOptions& options) {
  std::vector<torch::Tensor> results(static_cast<std::size_t>(ranks));
  run_ranks_or_throw(ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
    ConvNet net;
    fill_parameters(*net, group->rank());  // all start as rank 0
    DistributedDataParallel<ConvNet> model(net, group, options);
    train(model, 20, group->rank(), group->size());
    results[static_cast<std::size_t>(group->rank())] = flat_parameters(model);
    group->close();
  });
  return results;
}

TEST_P(Ddp, EqualsOneProcessOnTheGlobalBatch) {
  const auto results = train_ranks(GetParam(), small_buckets());
  ConvNet net;
  fill_parameters(*net);
  train(net, 20, 0, 1);
  // Both sum the same terms in another order: a few units in the last place of float (6e-8
  // relative) a step, which 20 steps of momentum SGD on values up to 1 carry to about 1e-6; a wrong
  // gradient moves them by 1e-2.
  EXPECT_LT((results[0] - flat_parameters(net)).abs().max().item<float>(), 5e-6F);
}

TEST_P(Ddp, IsBitwiseEqualOnAllRanksInASecondRunAndForAllBucketSizes) {
  const auto first = train_ranks(GetParam(), small_buckets());
  const auto second = train_ranks(GetParam(), small_buckets());
  const auto one_bucket = train_ranks(GetParam(), DistributedDataParallelOptions());
  for (const auto& other : {first, second, one_bucket}) {
    for (const auto& parameters : other) EXPECT_TRUE(torch::equal(parameters, first[0]));
  }
}

TEST_P(Ddp, PutsGradientsIntoSeveralBucketsInReverseOrder) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    DistributedDataParallel<ConvNet> model(ConvNet(), group, small_buckets());
    const auto bytes = model->bucket_bytes();
    if (group->size() == 1) {
      EXPECT_TRUE(bytes.empty());
    } else {
      // fc.bias | fc.weight | conv2.bias | conv2.weight | conv1.bias, conv1.weight; each gradient
      // starts on a cache line.
      EXPECT_EQ(bytes, (std::vector<std::size_t>{64, 1088, 64, 896, 64 + 320}));
    }
    group->close();
  });
}

TEST_P(Ddp, GradientsAreAveragesWhateverZeroGradDid) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    ConvNet net;
    fill_parameters(*net);
    ConvNet reference;
    fill_parameters(*reference);
    DistributedDataParallel<ConvNet> model(net, group, small_buckets());
    const auto input = make_input(0, 12);
    reference->forward(input).mean().backward();
    const auto check = [&](float factor) {
      expect_same_gradients(model->parameters(), reference->parameters(), factor);
    };
    const auto backward = [&] {
      model->forward(share(input, group->rank(), group->size())).mean().backward();
    };
    backward();
    check(1);
    model->zero_grad(/*set_to_none=*/false);
    backward();
    check(1);
    model->zero_grad();
    backward();
    check(1);
    backward();  // no zero_grad: gradients add up, as everywhere in LibTorch
    check(2);
    for (auto& parameter : model->parameters())
      parameter.mutable_grad() = torch::zeros_like(parameter);
    backward();  // gradients that the user put there
    check(1);
    group->close();
  });
}

/// Two branches, of which each call uses those it is told to.
struct BranchesImpl : torch::nn::Module {
  BranchesImpl() {
    left = register_module("left", torch::nn::Linear(3, 2));
    right = register_module("right", torch::nn::Linear(3, 2));
  }
  torch::Tensor forward(const torch::Tensor& x, bool use_left, bool use_right) {
    auto sum = torch::zeros({x.size(0), 2});
    if (use_left) sum = sum + left(x);
    if (use_right) sum = sum + right(x);
    return sum;
  }
  torch::nn::Linear left{nullptr}, right{nullptr};
};
TORCH_MODULE(Branches);

TEST_P(Ddp, AParameterUnusedSomewhereCountsAsZeroThere) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    DistributedDataParallel<Branches> model(Branches(), group, small_buckets(16));
    const auto x = torch::ones({4, 3});
    for (int step = 0; step < 3; ++step) {
      model->zero_grad();
      // Every rank uses the left branch, only rank 0 the right one.
      model->forward(x, true, group->rank() == 0).sum().backward();
      const auto ranks = static_cast<float>(group->size());
      EXPECT_TRUE(torch::allclose(model->module()->left->weight.grad(), torch::full({2, 3}, 4.0F)));
      EXPECT_TRUE(torch::allclose(model->module()->right->weight.grad(),
                                  torch::full({2, 3}, 4.0F / ranks)));
      if (group->size() == 1) continue;
      const auto statistics = model->statistics();
      EXPECT_TRUE(statistics.unused_parameters.empty());
      EXPECT_EQ(statistics.locally_unused_parameters.size(), group->rank() == 0 ? 0U : 2U);
    }
    group->close();
  });
}

TEST_P(Ddp, AParameterUnusedEverywhereKeepsAnUndefinedGradient) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    DistributedDataParallel<Branches> model(Branches(), group, small_buckets(16));
    for (const bool use_right : {false, true, false}) {
      model->zero_grad();
      model->forward(torch::ones({4, 3}), true, use_right).sum().backward();
      EXPECT_TRUE(model->module()->left->weight.grad().defined());
      EXPECT_EQ(model->module()->right->weight.grad().defined(), use_right);
    }
    group->close();
  });
}

TEST_P(Ddp, TwoForwardsMayShareABackwardAndOneForwardMayHaveTwo) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    DistributedDataParallel<Branches> model(Branches(), group);
    const auto x = torch::full({1, 3}, static_cast<float>(group->rank()));
    const auto mean_rank = static_cast<float>(group->size() - 1) / 2;
    (model->forward(x, true, true).sum() + model->forward(x, true, false).sum()).backward();
    EXPECT_TRUE(
        torch::allclose(model->module()->left->weight.grad(), torch::full({2, 3}, 2 * mean_rank)));
    model->zero_grad();
    const auto loss = model->forward(x, true, true).sum();
    loss.backward({}, /*keep_graph=*/true);
    loss.backward();
    EXPECT_TRUE(
        torch::allclose(model->module()->left->weight.grad(), torch::full({2, 3}, 2 * mean_rank)));
    group->close();
  });
}

/// Runs a part of the model again in backward, with a backward of its own, as activation
/// checkpointing does.
struct RecomputeFunction : torch::autograd::Function<RecomputeFunction> {
  static torch::Tensor forward(torch::autograd::AutogradContext* context, const torch::Tensor& x,
                               const std::function<torch::Tensor(torch::Tensor)>& part) {
    context->save_for_backward({x});
    context->saved_data["part"] = reinterpret_cast<std::int64_t>(&part);
    const torch::NoGradGuard no_grad;
    return part(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const auto& part = *reinterpret_cast<const std::function<torch::Tensor(torch::Tensor)>*>(
        context->saved_data["part"].toInt());
    const torch::AutoGradMode grad_mode(true);
    const auto x = context->get_saved_variables()[0].detach().requires_grad_(true);
    torch::autograd::backward({part(x)}, {gradients[0]});
    return {x.grad(), torch::Tensor()};
  }
};

struct CheckpointedImpl : torch::nn::Module {
  CheckpointedImpl() {
    first = register_module("first", torch::nn::Linear(4, 4));
    middle = register_module("middle", torch::nn::Linear(4, 4));
    last = register_module("last", torch::nn::Linear(4, 4));
    part = [this](const torch::Tensor& x) { return torch::tanh(middle(x)); };
  }
  /// The middle part `times` times, then the last layer unless the middle is to be the end.
  torch::Tensor forward(torch::Tensor x, bool is_checkpointed, bool has_last = true,
                        int times = 1) {
    x = first(x);
    if (!has_last) x = last(x);
    for (int i = 0; i < times; ++i) {
      x = is_checkpointed ? RecomputeFunction::apply(x, part) : part(x);
    }
    return has_last ? last(x) : x;
  }
  torch::nn::Linear first{nullptr}, middle{nullptr}, last{nullptr};
  std::function<torch::Tensor(torch::Tensor)> part;
};
TORCH_MODULE(Checkpointed);

TEST_P(Ddp, ABackwardWithinBackwardDoesNotEndTheStep) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    Checkpointed net;
    fill_parameters(*net);
    DistributedDataParallel<Checkpointed> model(net, group, small_buckets(32));
    std::vector<std::vector<torch::Tensor>> gradients;
    for (const bool is_checkpointed : {false, true}) {
      model->zero_grad();
      const auto x = torch::full({2, 4}, 0.1F * static_cast<float>(group->rank() + 1));
      model->forward(x, is_checkpointed).pow(2).sum().backward();
      gradients.emplace_back();
      for (const auto& parameter : model->parameters()) {
        gradients.back().push_back(parameter.grad().clone());
      }
    }
    for (std::size_t i = 0; i < gradients[0].size(); ++i) {
      EXPECT_TRUE(torch::allclose(gradients[0][i], gradients[1][i], 1e-5, 1e-7));
    }
    group->close();
  });
}

TEST_P(Ddp, ABackwardThatBeginsInsideAnotherIsPartOfItsStep) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    Checkpointed net;
    fill_parameters(*net);
    DistributedDataParallel<Checkpointed> model(net, group, small_buckets(32));
    for (int step = 0; step < 3; ++step) {
      // On rank 0 the first gradient appears in an inner backward, elsewhere there is none: all
      // must make the same all-reduces.
      model->forward(torch::ones({2, 4}), group->rank() == 0, /*has_last=*/false).sum().backward();
    }
    group->close();
  });
}

// Each recomputation has a backward of its own, and with it a gradient of its own.
TEST_P(Ddp, APartThatRunsSeveralTimesInABackwardGetsTheSumOfItsGradients) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    Checkpointed net;
    fill_parameters(*net);
    DistributedDataParallel<Checkpointed> model(net, group, small_buckets(32));
    // Rank 1 runs it once only, and rank 2 recomputes nothing.
    const int times = group->rank() == 1 ? 1 : 3;
    const auto gradients_of = [&](bool is_checkpointed) {
      model->zero_grad();
      const auto x = torch::full({2, 4}, 0.1F * static_cast<float>(group->rank() + 1));
      model->forward(x, is_checkpointed, true, times).pow(2).sum().backward();
      std::vector<torch::Tensor> gradients;
      for (const auto& parameter : model->parameters()) {
        gradients.push_back(parameter.grad().clone());
      }
      return gradients;
    };
    const auto expected = gradients_of(false);
    for (int step = 0; step < 3; ++step) {  // the second one knows how many gradients come
      const auto actual = gradients_of(group->rank() != 2);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(torch::allclose(actual[i], expected[i], 1e-5, 1e-7)) << step << ", " << i;
      }
      if (group->size() == 2) {
        const auto late = model->statistics().late_parameters;
        EXPECT_EQ(late, step == 0 ? (std::vector<std::string>{"middle.weight", "middle.bias"})
                                  : std::vector<std::string>());
      }
    }
    group->close();
  });
}

TEST_P(Ddp, AnExceptionInBackwardDoesNotSpoilTheNextStep) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    ConvNet net;
    fill_parameters(*net);
    DistributedDataParallel<ConvNet> model(net, group, small_buckets());
    auto output = model->forward(share(make_input(0, 12), group->rank(), group->size()));
    const auto hook = model->module()->conv1->bias.register_hook(
        [](const torch::Tensor&) -> void { throw std::runtime_error("in the middle"); });
    EXPECT_THROW(output.sum().backward(), std::runtime_error);
    model->module()->conv1->bias.remove_hook(hook);
    fill_parameters(*net);
    train(model, 3, group->rank(), group->size());
    ConvNet reference;
    fill_parameters(*reference);
    train(reference, 3, 0, 1);
    EXPECT_TRUE(torch::allclose(flat_parameters(model), flat_parameters(reference), 1e-4, 1e-6));
    group->close();
  });
}

struct SeveralOutputsImpl : torch::nn::Module {
  SeveralOutputsImpl() { fc = register_module("fc", torch::nn::Linear(3, 2)); }
  std::tuple<torch::Tensor, std::vector<torch::Tensor>> forward(const torch::Tensor& x) {
    return {fc(x), {fc(x * 2), x}};
  }
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(SeveralOutputs);

TEST_P(Ddp, OutputsMayBeTuplesAndLists) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    DistributedDataParallel<SeveralOutputs> model(SeveralOutputs(), group);
    auto [first, others] = model->forward(torch::ones({1, 3}) * group->rank());
    others[0].sum().backward();  // one of them is enough
    const auto mean_rank = static_cast<float>(group->size() - 1) / 2;
    EXPECT_TRUE(
        torch::allclose(model->module()->fc->weight.grad(), torch::full({2, 3}, 2 * mean_rank)));
    first.relu_();  // an output may be changed in place
    group->close();
  });
}

TEST_P(Ddp, SharedAndFrozenParametersAndOtherDtypes) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::Sequential net(torch::nn::Linear(3, 3), torch::nn::Linear(3, 3));
    auto shared = net[0]->as<torch::nn::LinearImpl>()->weight;
    net->register_parameter("again", shared);
    net[1]->as<torch::nn::LinearImpl>()->weight.set_requires_grad(false);
    net->register_parameter("wide", torch::ones({4}, torch::kDouble));
    DistributedDataParallel<torch::nn::Sequential> model(net, group);
    if (group->size() > 1) {
      // The shared weight once, the frozen one not at all: 9 + 3 + 3 floats, each on its own cache
      // lines, and 4 doubles.
      const auto bytes = model->bucket_bytes();
      EXPECT_EQ(std::accumulate(bytes.begin(), bytes.end(), std::size_t{0}), (64 + 64 + 64) + 64);
    }
    const auto output = model->forward(torch::ones({1, 3}) * group->rank());
    (output.sum() + net->named_parameters()["wide"].sum() * group->rank()).backward();
    EXPECT_FALSE(net[1]->as<torch::nn::LinearImpl>()->weight.grad().defined());
    EXPECT_TRUE(shared.grad().defined());
    const auto mean_rank = static_cast<double>(group->size() - 1) / 2;
    EXPECT_TRUE(torch::allclose(net->named_parameters()["wide"].grad(),
                                torch::full({4}, mean_rank, torch::kDouble)));
    group->close();
  });
}

TEST_P(Ddp, KeepsChannelsLast) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::Sequential net(torch::nn::Conv2d(4, 4, 3));
    auto& weight = net[0]->as<torch::nn::Conv2dImpl>()->weight;
    weight.set_data(weight.contiguous(torch::MemoryFormat::ChannelsLast));
    DistributedDataParallel<torch::nn::Sequential> model(net, group);
    model->forward(torch::ones({1, 4, 5, 5}).contiguous(torch::MemoryFormat::ChannelsLast))
        .sum()
        .backward();
    EXPECT_EQ(weight.grad().strides(), weight.strides());
    group->close();
  });
}

TEST_P(Ddp, ModelsThatDifferAreNamedOnEveryRank) {
  if (GetParam() == 1) return;
  const auto construct = [](const std::function<torch::nn::Sequential(int)>& make,
                            const std::function<DistributedDataParallelOptions(int)>& options,
                            const std::string& part) {
    const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
      DistributedDataParallel<torch::nn::Sequential> model(make(group->rank()), group,
                                                           options(group->rank()));
    });
    for (const auto& error : errors) {
      ASSERT_NE(error, nullptr) << part;
      try {
        std::rethrow_exception(error);
      } catch (const MismatchError& caught) {
        EXPECT_NE(std::string(caught.what()).find(part), std::string::npos) << caught.what();
      }
    }
  };
  const auto same = [](int) { return DistributedDataParallelOptions(); };
  using torch::nn::Linear;
  using torch::nn::Sequential;
  construct([](int rank) { return Sequential(Linear(3, 3), Linear(3, 4 + rank)); }, same,
            "rank 1 has '1.weight' Float [5, 3]");
  construct(
      [](int rank) {
        return rank == 0 ? Sequential(Linear(3, 3)) : Sequential(Linear(3, 3), Linear(3, 3));
      },
      same, "rank 0 has nothing more, rank 1 has '1.weight'");
  construct(
      [](int rank) {
        Sequential net(Linear(3, 3));
        if (rank == 1) net->to(torch::kDouble);
        return net;
      },
      same, "rank 1 has '0.weight' Double");
  construct([](int) { return Sequential(Linear(3, 3)); },
            [](int rank) { return small_buckets(100 + static_cast<std::size_t>(rank)); },
            "bucket_cap_bytes=101");
}

TEST_P(Ddp, RefusesWhatCannotWork) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    using Model = DistributedDataParallel<torch::nn::Sequential>;
    EXPECT_THROW(Model(torch::nn::Sequential(), group), c10::Error);
    EXPECT_THROW(Model(torch::nn::Sequential(torch::nn::Linear(2, 2)), nullptr), c10::Error);
    torch::nn::Sequential narrow(torch::nn::Linear(2, 2));
    narrow->to(torch::kFloat8_e5m2);
    EXPECT_THROW(Model(narrow, group), c10::Error);
    EXPECT_THROW(Model(torch::nn::Sequential(torch::nn::Linear(2, 2)), group,
                       DistributedDataParallelOptions().bucket_cap_bytes(0)),
                 c10::Error);
    group->close();
  });
}

TEST_P(Ddp, BuffersStartAsThoseOfRankZeroAndFollowOnRequest) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::Sequential net(torch::nn::Linear(2, 2), torch::nn::BatchNorm1d(2));
    auto& mean = net[1]->as<torch::nn::BatchNorm1dImpl>()->running_mean;
    mean.fill_(group->rank() + 5);
    DistributedDataParallel<torch::nn::Sequential> model(net, group);
    EXPECT_EQ(mean[0].item<float>(), 5.0F);
    mean.fill_(group->rank());
    model->broadcast_buffers(group->size() - 1);
    EXPECT_EQ(mean[1].item<float>(), static_cast<float>(group->size() - 1));
    group->close();
  });
}

TEST_P(Ddp, SavesAndLoadsUnderTheNamesOfTheWrappedModule) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    ConvNet net;
    fill_parameters(*net, 3);
    DistributedDataParallel<ConvNet> model(net, group);
    EXPECT_EQ(model->named_parameters().keys(), net->named_parameters().keys());
    std::stringstream stream;
    torch::save(model, stream);
    ConvNet plain;
    torch::load(plain, stream);
    EXPECT_TRUE(torch::equal(flat_parameters(plain), flat_parameters(model)));
    model->eval();
    EXPECT_FALSE(net->is_training());
    group->close();
  });
}

TEST_P(Ddp, TakesItsHooksAwayWhenItGoes) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    ConvNet net;
    fill_parameters(*net);
    auto output = torch::Tensor();
    {
      DistributedDataParallel<ConvNet> model(net, group);
      output = model->forward(make_input(group->rank(), 2));
    }
    if (group->rank() == 0) output.sum().backward();  // alone: nothing to meet in
    for (const auto& parameter : net->parameters()) {
      EXPECT_TRUE(torch::autograd::impl::grad_accumulator(parameter)->post_hooks().empty());
    }
    group->close();
  });
}

TEST_P(Ddp, EvaluationNeedsNoOtherRank) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    DistributedDataParallel<ConvNet> model(ConvNet(), group);
    if (group->rank() == 0) {
      const torch::NoGradGuard no_grad;
      EXPECT_EQ(model(make_input(0, 2)).size(0), 2);
    }
    group->close();
  });
}

TEST_P(Ddp, AutogradGradNeedsNoOtherRank) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    DistributedDataParallel<ConvNet> model(ConvNet(), group);
    if (group->rank() == 0) {
      const auto input = make_input(0, 2).requires_grad_(true);
      const auto output = model->forward(input).sum();
      EXPECT_TRUE(torch::autograd::grad({output}, {input})[0].defined());
    }
    train(model, 2, group->rank(), group->size());
    group->close();
  });
}

TEST_P(Ddp, ABackwardThatThrewCanBeRepeated) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    ConvNet net;
    fill_parameters(*net);
    ConvNet reference;
    fill_parameters(*reference);
    DistributedDataParallel<ConvNet> model(net, group, small_buckets());
    const auto loss = model->forward(share(make_input(0, 12), group->rank(), group->size())).mean();
    bool is_broken = true;
    net->conv1->bias.register_hook([&](const torch::Tensor&) -> void {
      if (is_broken) throw std::runtime_error("in the middle");
    });
    EXPECT_THROW(loss.backward({}, /*keep_graph=*/true), std::runtime_error);
    is_broken = false;
    model->zero_grad();
    loss.backward();  // no forward in between
    reference->forward(make_input(0, 12)).mean().backward();
    expect_same_gradients(net->parameters(), reference->parameters());
    group->close();
  });
}

TEST_P(Ddp, ARankThatSkipsItsBackwardIsNamed) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    DistributedDataParallel<ConvNet> model(ConvNet(), group);
    const auto output = model->forward(make_input(0, 2));
    if (group->rank() == 1) return;
    output.sum().backward();
  });
  ASSERT_NE(errors[0], nullptr);
  EXPECT_THROW(std::rethrow_exception(errors[0]), PeerLostError);
}

}  // namespace
}  // namespace lockstep::testing
