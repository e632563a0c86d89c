// SPDX-License-Identifier: BSD-3-Clause
// Gradients of unusual kinds, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <map>
#include <optional>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using torch::nn::Sequential;

class DdpGradients : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpGradients, ::testing::Values(1, 2, 3));

Sequential embedding(std::int64_t rows) {
  return Sequential(torch::nn::Embedding(torch::nn::EmbeddingOptions(rows, 2).sparse(true)));
}

torch::Tensor weight_of(const Sequential& net) {
  return net->named_parameters()["0.weight"];
}

TEST_P(DdpGradients, OfAnEmbeddingStaySparseAndAddUpByRow) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto net = embedding(7);
    DistributedDataParallel<Sequential> model(net, group);
    for (int step = 0; step < 3; ++step) {
      model->zero_grad();
      // All ranks use row 1, each its own as well, rank 0 more of them.
      std::vector<std::int64_t> rows{1, 2 + group->rank()};
      if (group->rank() == 0) rows.insert(rows.end(), {6, 6});
      model->forward(torch::tensor(rows)).sum().backward();
      const auto gradient = weight_of(net).grad();
      ASSERT_TRUE(gradient.is_sparse());
      auto expected = torch::zeros({7, 2});
      expected[1] = 1;
      const auto ranks = static_cast<float>(group->size());
      for (int rank = 0; rank < group->size(); ++rank) expected[2 + rank] += 1 / ranks;
      expected[6] += 2 / ranks;
      EXPECT_TRUE(torch::allclose(gradient.to_dense(), expected)) << gradient.to_dense();
    }
    group->close();
  });
}

TEST_P(DdpGradients, OfAnEmbeddingThatOnlySomeRanksUse) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto net = embedding(5);
    net->register_parameter("other", torch::ones({1}));
    DistributedDataParallel<Sequential> model(net, group);
    const auto other = net->named_parameters()["other"];
    auto loss = other.sum();
    if (group->rank() == 0) loss = loss + model->forward(torch::tensor({3})).sum();
    loss.backward();
    auto expected = torch::zeros({5, 2});
    expected[3] = 1.0F / static_cast<float>(group->size());
    EXPECT_TRUE(torch::allclose(weight_of(net).grad().to_dense(), expected));
    model->zero_grad();
    other.sum().backward();  // now nobody does
    EXPECT_FALSE(weight_of(net).grad().defined());
    group->close();
  });
}

TEST_P(DdpGradients, AreSparseOnOneRankAndDenseOnAnother) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto net = embedding(4);
    DistributedDataParallel<Sequential> model(net, group);
    const auto weight = weight_of(net);
    (group->rank() == 0 ? model->forward(torch::tensor({2})) : weight).sum().backward();
    const auto ranks = static_cast<float>(group->size());
    auto expected = torch::full({4, 2}, (ranks - 1) / ranks);
    expected[2] += 1 / ranks;
    EXPECT_TRUE(torch::allclose(weight.grad().to_dense(), expected)) << weight.grad();
    group->close();
  });
}

/// A backward within its backward gives the table a sparse gradient behind its first one.
struct TwiceUsedTableImpl : torch::nn::Module {
  TwiceUsedTableImpl() {
    first = register_parameter("first", torch::ones({1}));
    words = register_module("words",
                            torch::nn::Embedding(torch::nn::EmbeddingOptions(4, 2).sparse(true)));
  }
  torch::Tensor forward(bool is_dense) {
    const auto hidden = first * 1;
    hidden.register_hook([this](const torch::Tensor&) {
      const torch::AutoGradMode with_gradients(true);
      words(torch::tensor({1})).sum().backward();
    });
    return hidden.sum() + (is_dense ? words->weight : words(torch::tensor({2}))).sum();
  }
  torch::Tensor first;
  torch::nn::Embedding words{nullptr};
};
TORCH_MODULE(TwiceUsedTable);

TEST_P(DdpGradients, ThatComeSeveralTimesMayBeSparse) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    // The second gradient is late, or its bucket still waits for the other parameter.
    for (const std::size_t cap : {std::size_t{1}, std::size_t{1} << 20}) {
      for (const int dense_ranks : {0, 1, group->size()}) {
        TwiceUsedTable net;
        DistributedDataParallel<TwiceUsedTable> model(
            net, group, DistributedDataParallelOptions().bucket_caps_bytes({cap}));
        const auto ranks = static_cast<float>(group->size());
        const float dense = static_cast<float>(dense_ranks) / ranks;
        auto expected = torch::full({4, 2}, dense);
        expected[1] += 1;
        expected[2] += 1 - dense;
        for (int step = 0; step < 3; ++step) {
          model->zero_grad();
          model->forward(group->rank() < dense_ranks).backward();
          EXPECT_TRUE(torch::allclose(net->words->weight.grad().to_dense(), expected))
              << "cap " << cap << ", " << dense_ranks << " dense, step " << step << ":\n"
              << net->words->weight.grad().to_dense();
        }
      }
    }
    group->close();
  });
}

TEST_P(DdpGradients, OfComplexScalarAndEmptyParameters) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Sequential net;
    const auto wave = net->register_parameter("wave", torch::ones({3}, torch::kComplexFloat));
    const auto scalar = net->register_parameter("scalar", torch::ones({}, torch::kDouble));
    const auto half = net->register_parameter("half", torch::ones({5}, torch::kHalf));
    net->register_parameter("nothing", torch::ones({0}));
    DistributedDataParallel<Sequential> model(net, group);
    const int rank = group->rank();
    const c10::complex<float> factor(1.0F, static_cast<float>(rank));
    const auto loss = torch::real(wave * factor).sum().to(torch::kDouble) + scalar * rank +
                      half.sum().to(torch::kDouble) * (rank + 1);
    loss.backward();
    const auto mean_rank = static_cast<float>(group->size() - 1) / 2;
    // The conjugate, as PyTorch defines gradients of complex numbers.
    const auto expected =
        torch::full({3}, c10::complex<float>(1.0F, -mean_rank), torch::kComplexFloat);
    EXPECT_TRUE(torch::allclose(wave.grad(), expected)) << wave.grad();
    EXPECT_EQ(scalar.grad().dim(), 0);
    EXPECT_DOUBLE_EQ(scalar.grad().item<double>(), mean_rank);
    EXPECT_EQ(half.grad()[4].item<float>(), mean_rank + 1);
    group->close();
  });
}

// Autograd keeps such a gradient as a view that only says that it is conjugated.
TEST_P(DdpGradients, OfAConjugatedParameter) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Sequential net;
    const auto wave = net->register_parameter("wave", torch::ones({40}, torch::kComplexDouble));
    DistributedDataParallel<Sequential> model(net, group);
    const c10::complex<double> factor(1, group->rank());
    torch::real(wave.conj() * factor).sum().backward();
    const auto mean_rank = static_cast<double>(group->size() - 1) / 2;
    EXPECT_TRUE(torch::allclose(
        wave.grad(), torch::full({40}, c10::complex<double>(1, mean_rank), torch::kComplexDouble)))
        << wave.grad();
    group->close();
  });
}

TEST_P(DdpGradients, OfAStaticGraphMayBeSparseOnSomeRanks) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    auto net = embedding(5);
    const auto other = net->register_parameter("other", torch::ones({1}));
    DistributedDataParallel<Sequential> model(net, group,
                                              DistributedDataParallelOptions().static_graph(true));
    for (int step = 0; step < 3; ++step) {
      model->zero_grad();
      auto loss = other.sum();
      if (group->rank() == 0) loss = loss + model->forward(torch::tensor({3})).sum();
      loss.backward();
      EXPECT_FLOAT_EQ(weight_of(net).grad().to_dense()[3][1].item<float>(),
                      1.0F / static_cast<float>(group->size()));
    }
    group->close();
  });
}

TEST_P(DdpGradients, ThatAStaticGraphExcludesAreRefusedByName) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    Sequential net(torch::nn::Linear(3, 1));
    const auto extra = net->register_parameter("extra", torch::ones({1}));
    DistributedDataParallel<Sequential> model(net, group,
                                              DistributedDataParallelOptions().static_graph(true));
    const auto x = torch::ones({1, 3});
    model->forward(x).sum().backward();
    (model->forward(x).sum() + extra.sum()).backward();
  });
  for (const auto& error : errors)
    expect_error<c10::Error>(error, "parameter 'extra' has a gradient");
}

TEST_P(DdpGradients, WithAGraphOfTheirOwnAreRefusedByName) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    ConvNet net;
    DistributedDataParallel<ConvNet> model(net, group);
    model->forward(make_input(0, 2)).pow(2).sum().backward({}, true, /*create_graph=*/true);
  });
  for (const auto& error : errors) expect_error<c10::Error>(error, "backward with create_graph");
}

TEST_P(DdpGradients, OfAnInnerDerivativeAreFine) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Sequential net(torch::nn::Linear(3, 1));
    DistributedDataParallel<Sequential> model(net, group);
    const auto x = torch::full({2, 3}, static_cast<float>(group->rank() + 1)).requires_grad_(true);
    const auto output = model->forward(x).pow(2).sum();
    const auto inner = torch::autograd::grad({output}, {x}, {}, true, /*create_graph=*/true)[0];
    (output + inner.pow(2).sum()).backward();  // a gradient penalty
    EXPECT_TRUE(weight_of(net).grad().defined());
    group->close();
  });
}

TEST_P(DdpGradients, OfAnUnusedParameterStayAsTheyWere) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Sequential net(torch::nn::Linear(3, 1));
    const auto extra = net->register_parameter("extra", torch::ones({2}));
    DistributedDataParallel<Sequential> model(net, group);
    const auto x = torch::ones({2, 3});
    (model->forward(x).sum() + extra.sum() / 3).backward();
    const auto before = extra.grad().clone();
    model->forward(x).sum().backward();  // no zero_grad, and nobody uses it
    EXPECT_TRUE(torch::equal(extra.grad(), before));
    const auto own = torch::full({2}, static_cast<float>(group->rank()));
    extra.mutable_grad() = own;
    model->forward(x).sum().backward();
    EXPECT_TRUE(extra.grad().is_same(own));
    if (group->size() > 1) {
      EXPECT_EQ(model->statistics().unused_parameters, (std::vector<std::string>{"extra"}));
    }
    group->close();
  });
}

struct PlainOutput {
  torch::Tensor a, b;
  template <typename F>
  void for_each_tensor(F f) const {
    f(a);
    f(b);
  }
};

/// Gives its parameters no gradient before the recomputed part does: only outputs that are watched
/// tell when the outer backward ends.
struct StructuredImpl : torch::nn::Module {
  StructuredImpl() { fc = register_module("fc", torch::nn::Linear(3, 2)); }
  template <typename Wrap>
  auto forward(const torch::Tensor& x, const Wrap& wrap) {
    return wrap(fc(x));
  }
  torch::nn::Linear fc{nullptr};
};
TORCH_MODULE(Structured);

TEST_P(DdpGradients, OfOutputsOfAnyStructure) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    DistributedDataParallel<Structured> model(Structured(), group);
    const auto x = torch::full({1, 3}, static_cast<float>(group->rank()));
    const auto mean_rank = static_cast<float>(group->size() - 1) / 2;
    const auto check = [&](const torch::Tensor& output) {
      model->zero_grad();
      EXPECT_TRUE(group->size() == 1 || !torch::autograd::impl::hooks(output).empty())
          << "not watched";
      output.sum().backward();
      EXPECT_TRUE(
          torch::allclose(model->module()->fc->weight.grad(), torch::full({2, 3}, mean_rank)));
    };
    using Tensor = torch::Tensor;
    check(model->forward(x, [](const Tensor& y) { return std::array<Tensor, 1>{y}; })[0]);
    check(*model->forward(x, [](const Tensor& y) { return std::optional(y); }));
    check(model->forward(x, [](const Tensor& y) {
      return std::map<std::string, std::vector<Tensor>>{{"y", {y}}};
    })["y"][0]);
    check(model->forward(x, [](const Tensor& y) { return PlainOutput{y, y * 2}; }).a);
    torch::OrderedDict<std::string, Tensor> dictionary = model->forward(x, [](const Tensor& y) {
      torch::OrderedDict<std::string, Tensor> result;
      result.insert("y", y);
      return result;
    });
    check(dictionary["y"]);
    check(std::get<1>(model->forward(x, [](const Tensor& y) {
            return std::make_tuple(3, std::make_pair(y, std::string("text")));
          })).first);
    group->close();
  });
}

TEST_P(DdpGradients, OfParametersThatWereReplacedFrozenOrThawedAreAveragedAnew) {
  run_ranks_or_throw(GetParam(), [](const Group& group) {
    Sequential net(torch::nn::Linear(3, 3), torch::nn::Linear(3, 3));
    DistributedDataParallel<Sequential> model(net, group);
    const auto x = torch::full({1, 3}, static_cast<float>(group->rank()));
    const auto mean_rank = static_cast<float>(group->size() - 1) / 2;
    model->forward(x).sum().backward();
    auto& first = *net[0]->as<torch::nn::LinearImpl>();
    auto& second = *net[1]->as<torch::nn::LinearImpl>();
    model->zero_grad();
    first.weight.set_requires_grad(false);
    first.bias.set_requires_grad(false);
    model->forward(x).sum().backward();
    EXPECT_FALSE(first.weight.grad().defined());
    EXPECT_TRUE(second.bias.grad().defined());
    model->zero_grad();
    first.weight.set_requires_grad(true);
    second.weight = second.register_parameter("weight2", torch::ones({3, 3}));
    (model->forward(x).sum()).backward();
    EXPECT_TRUE(torch::allclose(first.weight.grad(), torch::full({3, 3}, 3 * mean_rank)));
    EXPECT_TRUE(second.weight.grad().defined());
    if (group->size() > 1) {
      EXPECT_EQ(model->statistics().steps, 3U) << "what happened before is not forgotten";
    }
    group->close();
  });
}

TEST_P(DdpGradients, OfParametersThatWereReplacedOnOneRankAloneAreAnErrorOnAll) {
  if (GetParam() == 1) return;
  const auto errors = run_ranks(GetParam(), [](const Group& group) {
    Sequential net(torch::nn::Linear(3, 3), torch::nn::Linear(3, 3));
    DistributedDataParallel<Sequential> model(net, group);
    if (group->rank() == 1) net[0]->as<torch::nn::LinearImpl>()->bias.set_requires_grad(false);
    model->forward(torch::ones({1, 3})).sum().backward();
  });
  for (const auto& error : errors) {
    expect_error<MismatchError>(error, "'model 1, 1 frozen: ");
  }
}

}  // namespace
}  // namespace lockstep::testing
