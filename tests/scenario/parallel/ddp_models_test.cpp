// SPDX-License-Identifier: BSD-3-Clause
// Models as programs have them: however they are held, and whatever kinds of tensors they hold.
#include <gtest/gtest.h>
#include <lockstep/core/error.h>
#include <lockstep/parallel/distributed_data_parallel.h>

#include <functional>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/small_nets.h"

namespace lockstep::testing {
namespace {

using Options = DistributedDataParallelOptions;

class DdpModels : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, DdpModels, ::testing::Values(1, 2, 3));

/// y = weight x, with a parameter or a buffer of any kind beside it.
struct OddImpl : torch::nn::Module {
  OddImpl() { weight = register_parameter("weight", torch::ones({2})); }
  torch::Tensor forward(const torch::Tensor& x) { return (x * weight).sum(); }
  torch::Tensor weight, odd;
};
TORCH_MODULE(Odd);

Odd with_buffer(const torch::Tensor& tensor) {
  Odd net;
  net->odd = net->register_buffer("odd", tensor);
  return net;
}

Odd with_parameter(const torch::Tensor& tensor, bool requires_grad) {
  Odd net;
  net->odd = net->register_parameter("odd", tensor, requires_grad);
  return net;
}

/// Tensors that cannot get another rank's values, and what the error says of them.
std::vector<std::pair<torch::Tensor, std::string>> tensors_that_stay() {
  const auto dense = torch::ones({2, 2});
  return {{dense.to_sparse(), "layout Sparse"},
          {dense.to_sparse_csr(), "layout SparseCsr"},
          {torch::ones({2, 1}).expand({2, 2}), "expanded"},
          {torch::quantize_per_tensor(dense, 0.1, 0, torch::kQInt8), "quantized"},
          {torch::ones({2}, torch::kMeta), "meta"}};
}

void expect_refused(const std::function<void()>& wrap, const std::string& name,
                    const std::string& what) {
  try {
    wrap();
    ADD_FAILURE() << name << ", " << what << ": no error";
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    EXPECT_NE(text.find(name), std::string::npos) << text;
    EXPECT_NE(text.find(what), std::string::npos) << text;
    EXPECT_NE(text.find("ignored_names"), std::string::npos) << text;
  }
}

TEST_P(DdpModels, NameTensorsThatCannotBeTheSameOnAllRanks) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    using Model = DistributedDataParallel<Odd>;
    for (const auto& [tensor, what] : tensors_that_stay()) {
      expect_refused([&, &tensor = tensor] { Model(with_buffer(tensor), group); }, "buffer 'odd'",
                     what);
      expect_refused([&, &tensor = tensor] { Model(with_parameter(tensor, false), group); },
                     "parameter 'odd'", what);
      if (at::isFloatingType(tensor.scalar_type())) {
        expect_refused([&, &tensor = tensor] { Model(with_parameter(tensor, true), group); },
                       "parameter 'odd'", what);
      }
      // What is ignored stays each rank's own.
      const auto options = DistributedDataParallelOptions().ignored_names({"odd"});
      Odd net = with_buffer(tensor);
      Model model(net, group, options);
      model->forward(torch::full({2}, static_cast<float>(group->rank()))).backward();
      EXPECT_EQ(net->weight.grad()[1].item<float>(), static_cast<float>(group->size() - 1) / 2);
      model->broadcast_buffers();
    }
    group->close();
  });
}

TEST_P(DdpModels, ThatOneRankAloneCannotWrapAreAnErrorOnAll) {
  if (GetParam() == 1) return;
  const auto expect_on_all = [](const Options& options, bool is_odd, const std::string& what) {
    const auto errors = run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
      const bool is_it = group->rank() == 1;
      const auto dense = torch::ones({2, 2});
      DistributedDataParallel<Odd>(with_buffer(is_it && is_odd ? dense.to_sparse() : dense), group,
                                   is_it ? options : Options());
    });
    for (const auto& error : errors) {
      expect_error<c10::Error>(error, what);
      expect_error<c10::Error>(error, "(on rank 1)");
    }
  };
  expect_on_all(Options(), true, "buffer 'odd' has layout Sparse");
  expect_on_all(Options().bucket_cap_bytes(0), false, "bucket_cap_bytes is 0");
  expect_on_all(Options().ignored_names({"nothing"}), false, "ignored_names has 'nothing'");
}

torch::Tensor complex_of_rank(int rank) {
  const auto part = torch::full({3}, static_cast<double>(rank + 1), torch::kDouble);
  return torch::complex(part, part * 10).to(torch::kComplexFloat);
}

TEST_P(DdpModels, HaveConjugatedAndNegatedTensorsOfRankZero) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto first = complex_of_rank(0).conj();
    const auto own = complex_of_rank(group->rank()).conj();
    Odd conjugated = with_buffer(own);
    DistributedDataParallel<Odd> model(conjugated, group);
    EXPECT_TRUE(torch::equal(conjugated->odd.resolve_conj(), first.resolve_conj()));
    Odd negated = with_buffer(torch::imag(complex_of_rank(group->rank()).conj()));
    ASSERT_TRUE(negated->odd.is_neg());
    DistributedDataParallel<Odd> second(negated, group);
    EXPECT_EQ(negated->odd[2].item<float>(), -10);
    group->close();
  });
}

TEST_P(DdpModels, AverageTheGradientOfAConjugatedParameter) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    Odd net = with_parameter(complex_of_rank(group->rank()).conj(), true);
    ASSERT_TRUE(net->odd.is_conj());
    DistributedDataParallel<Odd> model(net, group);
    EXPECT_TRUE(
        torch::equal(net->odd.detach().resolve_conj(), complex_of_rank(0).conj().resolve_conj()));
    torch::Tensor sum = torch::zeros({3}, torch::kComplexFloat);
    for (int rank = 0; rank < group->size(); ++rank) sum += complex_of_rank(rank + 4).conj();
    const auto expected = sum / group->size();
    for (int step = 0; step < 3; ++step) {
      model->zero_grad();
      // The derivative of Re(p x) by p is conj(x).
      const auto loss = model->forward(torch::ones({2})) +
                        torch::real(net->odd * complex_of_rank(group->rank() + 4)).sum();
      loss.backward();
      EXPECT_TRUE(torch::allclose(net->odd.grad().resolve_conj(), expected.resolve_conj()))
          << net->odd.grad();
    }
    group->close();
  });
}

TEST_P(DdpModels, AverageComplexBuffers) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const float mean = static_cast<float>(group->size() + 1) / 2;
    for (const bool is_conjugated : {false, true}) {
      const auto of_rank = [&](int rank) {
        return is_conjugated ? complex_of_rank(rank).conj() : complex_of_rank(rank);
      };
      Odd net = with_buffer(of_rank(0));
      DistributedDataParallel<Odd> model(net, group);
      net->odd.copy_(of_rank(group->rank()));
      model->average_buffers();
      const auto value = net->odd[1].item<c10::complex<float>>();
      EXPECT_FLOAT_EQ(value.real(), mean);
      EXPECT_FLOAT_EQ(value.imag(), is_conjugated ? -10 * mean : 10 * mean);
    }
    group->close();
  });
}

TEST_P(DdpModels, MakeBuffersEqualWithoutDisturbingGraphsOfOtherForwards) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    for (const auto sync : {BufferSync::Broadcast, BufferSync::Average}) {
      torch::nn::BatchNorm1d norm(2);
      DistributedDataParallel<torch::nn::BatchNorm1d> model(
          norm, group, DistributedDataParallelOptions().buffer_sync(sync));
      const auto x = torch::arange(8.0).view({4, 2}) + group->rank();
      const auto first = model->forward(x).pow(2).sum();
      const auto second = model->forward(x * 2).pow(2).sum();
      first.backward();  // makes the running statistics equal, which the second graph holds
      second.backward();
      EXPECT_TRUE(norm->weight.grad().defined());
    }
    group->close();
  });
}

// --- how a model is held ---

TEST_P(DdpModels, AreHeldByAPointer) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto net = std::make_shared<OddImpl>();
    DistributedDataParallel model(net, group);  // finds std::shared_ptr<OddImpl> by itself
    model(torch::full({2}, static_cast<float>(group->rank()))).backward();
    EXPECT_EQ(net->weight.grad()[0].item<float>(), static_cast<float>(group->size() - 1) / 2);
    EXPECT_EQ(model->module(), net);
    EXPECT_EQ(model->named_parameters().keys(), std::vector<std::string>{"weight"});
    group->close();
  });
}

/// A program's trainer, whose model comes later.
struct TrainerImpl : torch::nn::Module {
  explicit TrainerImpl(const std::shared_ptr<ProcessGroup>& group) {
    EXPECT_TRUE(model.is_empty());
    EXPECT_THROW(model->zero_grad(), c10::Error);
    model = register_module("model", DistributedDataParallel<Odd>(Odd(), group));
  }
  DistributedDataParallel<Odd> model{nullptr};
};

TEST_P(DdpModels, AreMembersThatGetTheirModelLater) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    TrainerImpl trainer(group);
    trainer.model(torch::full({2}, static_cast<float>(group->rank()))).backward();
    EXPECT_EQ(trainer.parameters()[0].grad()[0].item<float>(),
              static_cast<float>(group->size() - 1) / 2);
    trainer.model = nullptr;
    trainer.model = DistributedDataParallel<Odd>(Odd(), group);
    trainer.model->forward(torch::ones({2})).backward();
    group->close();
  });
}

template <typename Net>
void expect_empty(Net net, const std::shared_ptr<ProcessGroup>& group) {
  try {
    DistributedDataParallel<Net>(std::move(net), group);
    ADD_FAILURE() << "no error";
  } catch (const c10::Error& error) {
    EXPECT_STREQ(error.what_without_backtrace(), "DistributedDataParallel: the module is empty");
  }
}

TEST_P(DdpModels, AreAnyModules) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    Odd net;
    DistributedDataParallel<torch::nn::AnyModule> model(torch::nn::AnyModule(net), group);
    model->forward(torch::full({2}, static_cast<float>(group->rank()))).backward();
    EXPECT_EQ(net->weight.grad()[0].item<float>(), static_cast<float>(group->size() - 1) / 2);
    group->close();
  });
}

TEST_P(DdpModels, AreNotEmpty) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    expect_empty(torch::nn::AnyModule(), group);
    expect_empty(Odd(nullptr), group);
    expect_empty(std::shared_ptr<OddImpl>(), group);
    group->close();
  });
}

struct PairImpl : torch::nn::Module {
  PairImpl() { weight = register_parameter("weight", torch::ones({2})); }
  std::tuple<torch::Tensor, torch::Tensor> forward(const torch::Tensor& x) {
    return {x * weight, x + weight};
  }
  torch::Tensor weight;
};
TORCH_MODULE(Pair);

/// Sequentials inside of a module, and its result out of one.
struct TowerImpl : torch::nn::Module {
  TowerImpl() {
    layers = register_module("layers", torch::nn::Sequential(torch::nn::Linear(2, 2),
                                                             torch::nn::Functional(torch::tanh)));
  }
  torch::Tensor forward(const torch::Tensor& x) { return layers->forward(x); }
  torch::nn::Sequential layers{nullptr};
};
TORCH_MODULE(Tower);

TEST_P(DdpModels, AreSequentialsAndHaveThemInside) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    const auto x = torch::arange(4.0).view({2, 2}) + group->rank();
    torch::nn::Sequential layers(torch::nn::Linear(2, 2), torch::nn::Functional(torch::tanh));
    fill_parameters(*layers);
    DistributedDataParallel<torch::nn::Sequential> chain(layers, group);
    chain->forward(x).sum().backward();
    Tower tower;
    fill_parameters(*tower);
    DistributedDataParallel<Tower> wrapped(tower, group);
    wrapped->forward(x).sum().backward();
    ASSERT_TRUE(chain->parameters()[0].grad().defined());
    EXPECT_TRUE(torch::equal(chain->parameters()[0].grad(), wrapped->parameters()[0].grad()));

    // One whose last module gives no tensor, and an AnyModule likewise.
    using Result = std::tuple<torch::Tensor, torch::Tensor>;
    torch::nn::Sequential pair{Pair()};
    DistributedDataParallel<torch::nn::Sequential> of_pair(pair, group);
    const auto [product, sum] = of_pair->forward_as<Result>(x);
    (product.sum() + sum.sum()).backward();
    DistributedDataParallel<torch::nn::AnyModule> any(torch::nn::AnyModule(Pair()), group);
    const auto [any_product, any_sum] = any->forward_as<Result>(x);
    (any_product.sum() + any_sum.sum()).backward();
    ASSERT_TRUE(any->parameters()[0].grad().defined());
    EXPECT_TRUE(torch::equal(of_pair->parameters()[0].grad(), any->parameters()[0].grad()));
    group->close();
  });
}

// What cannot be wrapped is one sentence of a static_assert.
static_assert(!detail::WrapsModule<OddImpl>);
static_assert(!detail::WrapsModule<OddImpl*>);
static_assert(!detail::WrapsModule<std::unique_ptr<OddImpl>>);
static_assert(!detail::WrapsModule<std::shared_ptr<int>>);
static_assert(!detail::ForwardTakes<Odd, int, int>);
static_assert(!detail::ForwardTakes<torch::nn::ModuleList, torch::Tensor>);

}  // namespace
}  // namespace lockstep::testing
