// SPDX-License-Identifier: BSD-3-Clause
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "tensor_ranks.h"

namespace lockstep::testing {
namespace {

class FullState : public TensorRanks {};
INSTANTIATE_TEST_SUITE_P(Ranks, FullState, ::testing::Values(1, 2, 3, 4));

/// One of each layer, and a table that has two names.
struct TiedImpl : torch::nn::Module {
  explicit TiedImpl(const GroupPointer& group) {
    table = register_module("table", nn::VocabParallelEmbedding(13, 4, group));
    up = register_module(
        "up", nn::ColumnParallelLinear(nn::ParallelLinearOptions(4, 36, group).parts(3)));
    down = register_module("down", nn::RowParallelLinear(nn::ParallelLinearOptions(36, 4, group)));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})));
    register_parameter("head", table->weight);
    steps = register_buffer("steps", torch::zeros({}, torch::kLong));
  }
  nn::VocabParallelEmbedding table{nullptr};
  nn::ColumnParallelLinear up{nullptr};
  nn::RowParallelLinear down{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  torch::Tensor steps;
};
TORCH_MODULE(Tied);

struct PlainTiedImpl : torch::nn::Module {
  PlainTiedImpl() {
    table = register_module("table", torch::nn::Embedding(13, 4));
    up = register_module("up", torch::nn::Linear(4, 36));
    down = register_module("down", torch::nn::Linear(36, 4));
    norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})));
    register_parameter("head", table->weight);
    register_buffer("steps", torch::full({}, 3, torch::kLong));
  }
  torch::nn::Embedding table{nullptr};
  torch::nn::Linear up{nullptr}, down{nullptr};
  torch::nn::LayerNorm norm{nullptr};
};
TORCH_MODULE(PlainTied);

/// A folder of this test alone.
class Folder {
 public:
  Folder() {
    auto name = (std::filesystem::temp_directory_path() / "tensor_parallel_XXXXXX").string();
    TORCH_CHECK(::mkdtemp(name.data()) != nullptr, "no folder");
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::filesystem::path file(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

PlainTied plain_model() {
  PlainTied plain;
  fill_model(*plain, false);
  return plain;
}

TEST_P(FullState, HasTheBytesOfTheUnsplitModelAndComesBack) {
  const Folder folder;
  const auto plain = plain_model();
  training::save_state(plain, folder.file("plain"));
  run([&](const GroupPointer& group) {
    Tied split(group);
    nn::load_full(split, folder.file("plain"));
    EXPECT_EQ(split->steps.item<int>(), 3);
    nn::save_full(split, folder.file("split"));
    EXPECT_EQ(bytes_of(folder.file("split")), bytes_of(folder.file("plain")));
    expect_same(nn::full_state(split), training::state_of(*plain), 0);
  });
}

TEST(FullStates, OfThreeRanksAreLoadedByTwoAndByNone) {
  const Folder folder;
  run_ranks_or_throw(3, [&](const GroupPointer& group) {
    Tied split(group);
    nn::load_full_state(split, training::state_of(*plain_model()));
    nn::save_full(split, folder.file("three"));
  });
  run_ranks_or_throw(2, [&](const GroupPointer& group) {
    Tied split(group);
    nn::load_full(split, folder.file("three"));
    nn::save_full(split, folder.file("two"));
  });
  EXPECT_EQ(bytes_of(folder.file("three")), bytes_of(folder.file("two")));
  PlainTied alone;
  training::load_state(alone, folder.file("two"));
  expect_same(training::state_of(*alone), training::state_of(*plain_model()), 0);
}

TEST_P(FullState, RefusesWhatDoesNotFitAndLoadsNothing) {
  run([](const GroupPointer& group) {
    Tied split(group);
    fill_model(*split, true);
    const auto before = nn::full_state(split);
    const auto good = training::state_of(*plain_model());
    auto state = good;
    state.erase("up.bias");
    state["more"] = torch::ones({1});
    expect_refusal(
        [&] { nn::load_full_state(split, state); },
        "load_full_state: its names are not those of the module. Missing there: up.bias. "
        "Not in the module: more. Nothing was loaded");
    state = good;
    state["up.weight"] = torch::ones({36, 5});
    state["steps"] = torch::ones({});
    expect_refusal([&] { nn::load_full_state(split, state); },
                   "load_full_state: steps is Float there and Long in the module, up.weight has "
                   "shape [36, 5] there and, full, [36, 4] in the module. Nothing was loaded");
    state = good;
    state["head"] = state["head"] + 1;
    expect_refusal([&] { nn::load_full_state(split, state); },
                   "the tensors head and table.weight differ, and are one tensor in the module");
    expect_refusal([&] { nn::load_full(split, "/nowhere/file"); }, "/nowhere/file");
    expect_same(nn::full_state(split), before, 0);
    // One name of a tied tensor is enough; another width of float is converted.
    state = good;
    state.erase("head");
    state["norm.weight"] = state["norm.weight"].to(torch::kDouble);
    nn::load_full_state(split, state);
    expect_same(nn::full_state(split), good, 0);
  });
}

TEST_P(FullState, NamesParametersThatRanksNoLongerHaveAlike) {
  if (GetParam() == 1) return;
  run([](const GroupPointer& group) {
    Tied split(group);
    nn::load_full_state(split, training::state_of(*plain_model()));
    {
      const torch::NoGradGuard no_grad;
      if (group->rank() == 1) split->norm->weight[2] += 1;
    }
    std::string part = "these are no longer the same on all ";
    part += std::to_string(group->size()) + " ranks of the tensor group: norm.weight.";
    expect_refusal([&] { (void)nn::full_state(split); }, part);
    expect_refusal([&] { nn::save_full(split, "/tmp/never"); }, part);
  });
}

TEST_P(FullState, ThatCannotBeWrittenIsAnErrorOnAllRanks) {
  run([](const GroupPointer& group) {
    Tied split(group);
    nn::load_full_state(split, training::state_of(*plain_model()));
    expect_refusal([&] { nn::save_full(split, "/nowhere/at/all"); },
                   group->rank() == 0
                       ? "/nowhere/at/all"
                       : "could not be written; rank 0 of the tensor group says why");
    group->barrier();  // the group can go on
  });
}

TEST_P(FullState, TakesWhatTheFirstRankHasOnceThatWasBroadcast) {
  run([](const GroupPointer& group) {
    Tied split(group);
    nn::load_full_state(split, training::state_of(*plain_model()));
    {
      const torch::NoGradGuard no_grad;
      if (group->rank() > 0) split->norm->weight.add_(1);
    }
    nn::broadcast_replicated(split);
    expect_same(nn::full_state(split), training::state_of(*plain_model()), 0);
  });
}

TEST_P(FullState, OfLayersOfSeveralGroupsIsSavedByNone) {
  run([](const GroupPointer& group) {
    const Mesh mesh(group, {{"tensor", group->size()}});
    torch::nn::Sequential net(
        nn::ColumnParallelLinear(nn::ParallelLinearOptions(4, 12, group)),
        nn::RowParallelLinear(nn::ParallelLinearOptions(12, 4, mesh.group("tensor"))));
    expect_refusal([&] { nn::save_full(*net, "/tmp/never"); },
                   "save_full: /tmp/never: the model's layers have 2 tensor groups");
    fill_model(*net, true);  // the ranks' biases alike
    EXPECT_EQ(nn::full_state(*net).at("1.weight").sizes(), at::IntArrayRef({4, 12}));
  });
}

struct LiarImpl : torch::nn::Module, nn::ShardedModule {
  LiarImpl(GroupPointer its_group, nn::ShardedTensor its_claim)
      : group(std::move(its_group)), claim(std::move(its_claim)) {
    register_parameter("weight", torch::ones({2}));
  }
  [[nodiscard]] std::vector<nn::ShardedTensor> sharded_tensors() const override { return {claim}; }
  [[nodiscard]] const GroupPointer& tensor_group() const override { return group; }
  GroupPointer group;
  nn::ShardedTensor claim;
};

TEST(FullStates, NeedTheTensorsThatAModuleSaysItCuts) {
  run_ranks_or_throw(1, [](const GroupPointer& group) {
    const auto refuse = [&](const nn::ShardedTensor& claim, const std::string& part) {
      const LiarImpl liar(group, claim);
      expect_refusal([&] { (void)nn::full_state(liar); }, part);
    };
    refuse({"wait", 0, 1}, "says that it cuts wait, and has no parameter or buffer of that name");
    refuse({"weight", -1, 1}, "weight is said to be cut along dimension -1; its dimensions are");
    refuse({"weight", 1, 1}, "weight is said to be cut along dimension 1");
    refuse({"weight", 0, 0}, "weight is said to have 0 parts");
    refuse({"weight", 0, 3},
           "weight is said to have 3 parts; this rank's size along dimension 0, 2");
    refuse({"weight", 0, 2, 2}, "weight is said to have a full size and 2 parts");
    refuse({"weight", 0, 1, 3},
           "weight is said to have the full size 3 along dimension 0, of which rank 0 of 1 has 3; "
           "its size is 2");
  });
}

TEST_P(FullState, GivesTheNormOfTheFullGradients) {
  run([](const GroupPointer& group) {
    for (const double norm_type : {1.0, 2.0, 3.0, std::numeric_limits<double>::infinity()}) {
      const auto plain = plain_model();
      Tied split(group);
      nn::load_full_state(split, training::state_of(*plain));
      const auto loss = [](auto& net) {
        torch::Tensor sum = torch::zeros({});
        for (const auto& parameter : net->parameters()) sum = sum + parameter.pow(3).sum();
        return sum;
      };
      loss(plain).backward();
      loss(split).backward();
      const auto expected = optim::clip_grad_norm_(plain->parameters(), 0.5, norm_type);
      const auto norm = nn::clip_grad_norm_(split, 0.5, norm_type);
      EXPECT_NEAR(norm.item<double>() / expected.item<double>(), 1, 1e-6) << norm_type;
      EXPECT_EQ(norm.scalar_type(), torch::kFloat);
      expect_same(full_gradients(*split), gradients_of(*plain), 1e-6);
      const auto all = torch::empty({group->size()});
      group->all_gather(all, norm).wait();
      EXPECT_TRUE(torch::equal(all, norm.expand({group->size()})));
    }
    Tied split(group);
    EXPECT_EQ(nn::clip_grad_norm_(split, 1.0).item<double>(), 0);
    expect_refusal([&] { (void)nn::clip_grad_norm_(split, -1.0); },
                   "clip_grad_norm_: max_norm is -1; it must be 0 or more");
    expect_refusal([&] { (void)nn::clip_grad_norm_(split, 1.0, 0.0); },
                   "clip_grad_norm_: norm_type is 0; it must be positive, or infinity");
    const bool is_last = group->rank() == group->size() - 1;
    split->up->weight.mutable_grad() =
        torch::full_like(split->up->weight, is_last ? INFINITY : 1.0);
    expect_refusal([&] { (void)nn::clip_grad_norm_(split, 1.0, 2.0, true); },
                   "of the full model is inf; they cannot be clipped");
  });
}

TEST_P(FullState, ClipsHalfGradientsWhoseNormDoesNotFitIntoHalf) {
  run([](const GroupPointer& group) {
    nn::ColumnParallelLinear split(nn::ParallelLinearOptions(4, 36, group).bias(false));
    split->to(torch::kHalf);
    split->weight.mutable_grad() = torch::full_like(split->weight, 30000.0);
    const auto norm = nn::clip_grad_norm_(split, 1.0);
    EXPECT_EQ(norm.item<double>(), INFINITY);  // 360 000
    const auto gradient = split->weight.grad().to(torch::kFloat);
    EXPECT_LE(relative_difference(gradient, torch::full_like(gradient, 1.0 / 12)), 1e-3);
  });
}

}  // namespace
}  // namespace lockstep::testing
