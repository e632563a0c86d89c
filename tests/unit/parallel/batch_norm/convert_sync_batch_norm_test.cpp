// SPDX-License-Identifier: BSD-3-Clause
// Which batch norms convert_sync_batchnorm replaces, and which it refuses.
#include <gtest/gtest.h>
#include <lockstep/parallel/sync_batch_norm.h>
#include <torch/torch.h>

#include "support/in_process_ranks.h"

namespace lockstep::testing {
namespace {

using nn::convert_sync_batchnorm;
using nn::SyncBatchNorm;
using nn::SyncBatchNormImpl;
using torch::nn::BatchNorm1d;
using torch::nn::BatchNorm2d;
using torch::nn::Sequential;

class ConvertSyncBatchNorm : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(WorldSizes, ConvertSyncBatchNorm, ::testing::Values(1, 2, 3));

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "";
}

/// A Sequential inside another needs a forward that is no template.
struct ChainImpl : torch::nn::SequentialImpl {
  using torch::nn::SequentialImpl::SequentialImpl;
  torch::Tensor forward(torch::Tensor x) { return SequentialImpl::forward(x); }
};
TORCH_MODULE(Chain);

Sequential make_normalised_net() {
  return Sequential(torch::nn::Linear(3, 4), BatchNorm1d(4), torch::nn::ReLU(),
                    Chain(torch::nn::Linear(4, 2), BatchNorm1d(2)));
}

TEST_P(ConvertSyncBatchNorm, ASequentialThenNormalisesTheGlobalBatch) {
  torch::manual_seed(1);
  const auto joined = torch::randn({12, 3});
  auto plain = make_normalised_net();
  const auto expected = plain->forward(joined);
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    Sequential net = make_normalised_net();
    {
      const torch::NoGradGuard no_grad;
      const auto sources = plain->named_parameters();
      for (auto& item : net->named_parameters()) item.value().copy_(sources[item.key()]);
    }
    EXPECT_EQ(convert_sync_batchnorm(net, group), 2);
    const auto samples = 12 / group->size();
    const auto rows = [&](const torch::Tensor& all) {
      return all.narrow(0, group->rank() * samples, samples);
    };
    EXPECT_TRUE(torch::allclose(net->forward(rows(joined)), rows(expected), 1e-4, 1e-5));
    group->close();
  });
}

TEST_P(ConvertSyncBatchNorm, KeepsTensorsNamesOptionsAndMode) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    Sequential net(BatchNorm2d(torch::nn::BatchNormOptions(3).eps(0.25).momentum(std::nullopt)),
                   BatchNorm2d(torch::nn::BatchNormOptions(3).affine(false)));
    net->to(torch::kDouble);
    net->eval();
    auto before = net->named_parameters();
    auto buffers = net->named_buffers();
    before["0.bias"].set_requires_grad(false);
    EXPECT_EQ(convert_sync_batchnorm(net, group), 2);
    EXPECT_EQ(net->named_parameters().keys(), before.keys());
    EXPECT_EQ(net->named_buffers().keys(), buffers.keys());
    for (const auto& item : net->named_parameters()) {
      EXPECT_TRUE(item.value().is_same(before[item.key()])) << item.key();
    }
    for (const auto& item : net->named_buffers()) {
      EXPECT_TRUE(item.value().is_same(buffers[item.key()])) << item.key();
    }
    EXPECT_FALSE(net->named_parameters()["0.bias"].requires_grad());
    const auto first = net->ptr<SyncBatchNormImpl>(0);
    EXPECT_EQ(first->options.eps(), 0.25);
    EXPECT_FALSE(first->options.momentum().has_value());
    EXPECT_FALSE(first->is_training());
    EXPECT_EQ(net->children()[0], net[0]);
    EXPECT_EQ(convert_sync_batchnorm(net, group), 0);
    group->close();
  });
}

struct ListsImpl : torch::nn::Module {
  ListsImpl() {
    list = register_module("list", torch::nn::ModuleList(torch::nn::Linear(2, 2), BatchNorm1d(2)));
    dict = register_module("dict", torch::nn::ModuleDict());
    dict->update({{"norm", BatchNorm1d(2).ptr()}});
    register_module("loose", BatchNorm1d(2));
  }
  torch::Tensor forward(torch::Tensor x) {
    x = list[1]->as<SyncBatchNorm>()->forward(x);
    x = dict["norm"]->as<SyncBatchNorm>()->forward(x);
    return named_children()["loose"]->as<SyncBatchNorm>()->forward(x);
  }
  torch::nn::ModuleList list{nullptr};
  torch::nn::ModuleDict dict{nullptr};
};
TORCH_MODULE(Lists);

TEST_P(ConvertSyncBatchNorm, ReplacesEntriesOfListsAndDictsAndLooseChildren) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    Lists net;
    EXPECT_EQ(convert_sync_batchnorm(net, group), 3);
    EXPECT_EQ(net->forward(torch::randn({4, 2})).size(0), 4);
    EXPECT_EQ(net->list->children()[1], net->list[1]);
    EXPECT_EQ(net->dict->children()[0], net->dict["norm"]);
    group->close();
  });
}

struct TypedImpl : torch::nn::Module {
  TypedImpl() {
    bn = register_module("bn", BatchNorm2d(3));
    body = register_module("body", Sequential(torch::nn::Conv2d(3, 3, 1), BatchNorm2d(3)));
  }
  torch::Tensor forward(const torch::Tensor& x) { return body->forward(bn(x)); }
  BatchNorm2d bn{nullptr};
  Sequential body{nullptr};
};
TORCH_MODULE(Typed);

TEST(ConvertSyncBatchNorms, NameTypedMembersAndChangeNothing) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    Sequential net(torch::nn::Conv2d(3, 3, 1), Typed(), Chain(Typed()));
    const auto error = error_of([&] { convert_sync_batchnorm(net, group); });
    EXPECT_NE(error.find("'1.bn' (torch::nn::BatchNorm2dImpl)"), std::string::npos) << error;
    EXPECT_NE(error.find("'2.0.bn'"), std::string::npos) << error;
    EXPECT_EQ(error.find("'1.body"), std::string::npos) << error;
    EXPECT_NE(error.find("Declare each as lockstep::nn::SyncBatchNorm"), std::string::npos);
    EXPECT_NE(net->ptr<TypedImpl>(1)->body[1]->as<BatchNorm2d>(), nullptr);
    group->close();
  });
}

TEST(ConvertSyncBatchNorms, SeeAVariableThatWouldGoOnUsingTheOldOne) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    BatchNorm1d norm(2);
    Sequential net(torch::nn::Linear(2, 2), norm);
    EXPECT_NE(error_of([&] { convert_sync_batchnorm(net, group); }).find("'1'"), std::string::npos);
    norm = nullptr;
    EXPECT_EQ(convert_sync_batchnorm(net, group), 1);
    group->close();
  });
}

TEST(ConvertSyncBatchNorms, ReplaceASharedOneEverywhereByTheSame) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    Sequential net;
    {
      BatchNorm1d norm(2);
      net->push_back(norm);
      net->push_back(Chain(norm, torch::nn::Linear(2, 2), norm));
    }
    EXPECT_EQ(convert_sync_batchnorm(net, group), 1);
    const auto inner = net->ptr<ChainImpl>(1);
    EXPECT_NE(net[0]->as<SyncBatchNorm>(), nullptr);
    EXPECT_EQ(net[0], inner->ptr(0));
    EXPECT_EQ(net[0], inner->ptr(2));
    net->forward(torch::randn({4, 2}));
    group->close();
  });
}

struct OwnNormImpl : torch::nn::BatchNorm1dImpl {
  using torch::nn::BatchNorm1dImpl::BatchNorm1dImpl;
  torch::Tensor forward(const torch::Tensor& x) { return BatchNorm1dImpl::forward(x) * 2; }
};
TORCH_MODULE(OwnNorm);

TEST(ConvertSyncBatchNorms, RefuseDerivedClassesARootAndANullGroup) {
  run_ranks_or_throw(1, [](const std::shared_ptr<ProcessGroup>& group) {
    Sequential derived{OwnNorm(2)};
    EXPECT_NE(error_of([&] { convert_sync_batchnorm(derived, group); }).find("derived"),
              std::string::npos);
    BatchNorm1d root(2);
    EXPECT_NE(error_of([&] { convert_sync_batchnorm(root, group); }).find("the root"),
              std::string::npos);
    EXPECT_NE(
        error_of([&] { convert_sync_batchnorm(make_normalised_net(), nullptr); }).find("null"),
        std::string::npos);
    group->close();
  });
}

/// Built without a group, as models whose constructors know none.
struct DeferredImpl : torch::nn::Module {
  DeferredImpl() { bn = register_module("bn", SyncBatchNorm(2)); }
  torch::Tensor forward(const torch::Tensor& x) { return bn(x); }
  SyncBatchNorm bn{nullptr};
};
TORCH_MODULE(Deferred);

TEST_P(ConvertSyncBatchNorm, GivesTypedMembersThatWaitForAGroupThisOne) {
  run_ranks_or_throw(GetParam(), [](const std::shared_ptr<ProcessGroup>& group) {
    Deferred net;
    EXPECT_EQ(convert_sync_batchnorm(net, group), 1);
    EXPECT_EQ(net->bn->process_group(), group);
    const auto other = group->split(0);
    net->bn->set_process_group(other);
    EXPECT_EQ(convert_sync_batchnorm(net, group), 0);  // has one of its own
    EXPECT_EQ(net->bn->process_group(), other);
    net->forward(torch::randn({4, 2}));
    other->close();
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::testing
