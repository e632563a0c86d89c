// SPDX-License-Identifier: BSD-3-Clause
// Runs with each communication hook that are saved and resumed, against the same ones without an
// interruption, with ranks as threads.
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/parallel/distributed_data_parallel.h>
#include <lockstep/parallel/hooks/compress.h>
#include <lockstep/parallel/hooks/int8_error_feedback.h>
#include <lockstep/parallel/hooks/post_local_sgd.h>
#include <lockstep/parallel/hooks/power_sgd.h>
#include <lockstep/training/checkpointer.h>

#include <functional>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "support/expected_errors.h"
#include "support/hook_buckets.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"

namespace lockstep::testing {
namespace {

using Group = std::shared_ptr<ProcessGroup>;
using training::Checkpointer;
using training::TrainingState;

constexpr int kSteps = 10;

/// Its layers are registered in another order than used, so that the buckets are rebuilt after the
/// first step.
struct UnorderedNetImpl : torch::nn::Module {
  UnorderedNetImpl() {
    second = register_module("second", torch::nn::Linear(24, 16));
    third = register_module("third", torch::nn::Linear(16, 9));
    first = register_module("first", torch::nn::Linear(10, 24));
    const torch::NoGradGuard no_grad;
    int phase = 0;
    for (auto& parameter : parameters()) {
      parameter.copy_(wave(parameter.sizes(), 0, phase++) * 0.3);
    }
  }
  torch::Tensor forward(torch::Tensor x) {
    x = torch::tanh(first(x));
    return third(torch::tanh(second(x)));
  }
  torch::nn::Linear first{nullptr}, second{nullptr}, third{nullptr};
};
TORCH_MODULE(UnorderedNet);

/// A hook, and what a checkpoint needs of it.
struct HookOfARun {
  CommunicationHook hook;
  std::function<void(TrainingState&)> add;
  std::function<void(const std::vector<torch::Tensor>&)> after_step = [](const auto&) {};
};

template <class Hook>
HookOfARun hook_of_ranks(const std::shared_ptr<Hook>& hook) {
  return {*hook, [hook](TrainingState& state) { state.add_of_rank("hook", *hook); }};
}

HookOfARun power_sgd(const hooks::PowerSgdOptions& options) {
  return hook_of_ranks(std::make_shared<hooks::PowerSgd>(options));
}

hooks::PowerSgdOptions low_rank(std::int64_t rank) {
  return hooks::PowerSgdOptions()
      .start_iteration(2)
      .matrix_approximation_rank(rank)
      .min_compression_rate(1);
}

HookOfARun local_sgd(const Group& group) {
  const auto hook =
      std::make_shared<hooks::PostLocalSgd>(hooks::PostLocalSgdOptions().start_iteration(2));
  const auto averager = std::make_shared<hooks::PeriodicModelAverager>(group, 3, 2);
  return {*hook, [=](TrainingState& state) { state.add("hook", *hook).add("averager", *averager); },
          [=](const auto& parameters) { averager->average_parameters(parameters); }};
}

struct ResumedHook {
  std::string name;
  std::function<HookOfARun(const Group&)> make;
  bool needs_buckets = false;    ///< its bits depend on the buckets
  bool is_of_each_rank = false;  ///< parameters differ between ranks
};

std::vector<ResumedHook> resumed_hooks() {
  return {
      {"PowerSgd1", [](const Group&) { return power_sgd(low_rank(1)); }},
      {"PowerSgd4", [](const Group&) { return power_sgd(low_rank(4)); }},
      {"ColdPowerSgd", [](const Group&) { return power_sgd(low_rank(2).warm_start(false)); }, true},
      {"OpenPowerSgd",
       [](const Group&) { return power_sgd(low_rank(2).use_error_feedback(false)); }},
      {"BatchedPowerSgd",
       [](const Group&) {
         return hook_of_ranks(std::make_shared<hooks::BatchedPowerSgd>(low_rank(2)));
       },
       true},
      {"Int8ErrorFeedback",
       [](const Group&) {
         return hook_of_ranks(std::make_shared<hooks::Int8ErrorFeedback>(
             hooks::Int8ErrorFeedbackOptions().chunk_elements(64)));
       },
       true},
      {"CastPowerSgd",
       [](const Group&) {
         auto of_run = power_sgd(low_rank(1));
         of_run.hook = hooks::compress(at::kBFloat16, of_run.hook);
         return of_run;
       }},
      {"LocalSgd", local_sgd, false, true},
  };
}

/// What is added to the state of a run.
struct Added {
  bool hook = true;
  bool buckets = true;
};

/// One life of a run on one rank.
struct HookedRun {
  HookedRun(const Group& its_group, const ResumedHook& kind, const Added& added)
      : group(its_group), hook(kind.make(group)) {
    model->register_communication_hook(hook.hook);
    if (kind.is_of_each_rank) {
      state.add_of_rank("model", net).add_of_rank("optimizer", optimizer);
    } else {
      state.add("model", net).add("optimizer", optimizer);
    }
    state.add("step", step);
    if (added.hook) hook.add(state);
    if (added.buckets) state.add("ddp", model);
  }

  void train_to(int end) {
    for (; step < end; ++step) {
      optimizer.zero_grad();
      const auto input = wave({8, 10}, group->rank(), step).to(torch::kFloat);
      const auto target = torch::sin(input.narrow(1, 0, 9) * 2);
      torch::mse_loss(model->forward(input), target).backward();
      optimizer.step();
      hook.after_step(model->parameters());
    }
  }

  [[nodiscard]] torch::Tensor values() const {
    std::vector<torch::Tensor> parts;
    for (const auto& parameter : net->parameters()) parts.push_back(parameter.detach().flatten());
    return torch::cat(parts);
  }

  Group group;
  UnorderedNet net;
  DistributedDataParallel<UnorderedNet> model{
      net, group,
      DistributedDataParallelOptions().bucket_cap_bytes(1600).first_bucket_cap_bytes(400)};
  HookOfARun hook;
  torch::optim::SGD optimizer{model->parameters(), torch::optim::SGDOptions(0.05).momentum(0.9)};
  int step = 0;
  TrainingState state;
};

/// The parameters at the end of a run that is saved after `saved_after` steps and resumed.
torch::Tensor resumed(const Group& group, const training::TemporaryFolder& folder,
                      const ResumedHook& kind, int saved_after, const Added& added = {}) {
  const auto path = folder / ("c" + std::to_string(saved_after));
  {
    HookedRun first(group, kind, added);
    Checkpointer checkpointer(group, path);
    first.train_to(saved_after);
    checkpointer.save(first.state, first.step);
    first.train_to(saved_after + 2);  // a save is of its moment
    checkpointer.wait();
    group->barrier();
  }
  group->barrier();  // rank 0 has given up the lock
  HookedRun second(group, kind, added);
  Checkpointer checkpointer(group, path);
  EXPECT_TRUE(checkpointer.load_latest(second.state));
  EXPECT_EQ(second.step, saved_after);
  second.train_to(kSteps);
  return second.values();
}

torch::Tensor uninterrupted(const Group& group, const ResumedHook& kind) {
  HookedRun whole(group, kind, {});
  whole.train_to(kSteps);
  EXPECT_TRUE(group->size() == 1 || whole.model->statistics().plan == 2U);
  EXPECT_TRUE(group->size() == 1 || whole.model->statistics().buckets.size() >= 3U);
  return whole.values();
}

class HookResume : public ::testing::TestWithParam<std::tuple<int, std::size_t>> {
 protected:
  [[nodiscard]] static int world_size() { return std::get<0>(GetParam()); }
  [[nodiscard]] static ResumedHook hook() { return resumed_hooks()[std::get<1>(GetParam())]; }
};
INSTANTIATE_TEST_SUITE_P(AllHooks, HookResume,
                         ::testing::Combine(::testing::Values(1, 2, 3),
                                            ::testing::Range(std::size_t{0},
                                                             resumed_hooks().size())),
                         [](const auto& instance) {
                           return resumed_hooks()[std::get<1>(instance.param)].name + "_" +
                                  std::to_string(std::get<0>(instance.param));
                         });

TEST_P(HookResume, HasTheBitsOfARunThatWasNotInterrupted) {
  const training::TemporaryFolder folder;
  expect_no_errors(run_ranks(world_size(), [&](const Group& group) {
    const auto expected = uninterrupted(group, hook());
    // Before the first backward; before its order of gradients is in use; before the hook begins.
    for (const int saved_after : {0, 1, 2, 4}) {
      EXPECT_TRUE(resumed(group, folder, hook(), saved_after).equal(expected)) << saved_after;
    }
    group->close();
  }));
}

TEST_P(HookResume, HasOtherBitsWithoutTheHooksState) {
  if (world_size() == 1) GTEST_SKIP() << "in a world of one, no hook is called";
  const training::TemporaryFolder folder;
  expect_no_errors(run_ranks(world_size(), [&](const Group& group) {
    const auto expected = uninterrupted(group, hook());
    EXPECT_FALSE(resumed(group, folder, hook(), 4, {.hook = false}).equal(expected));
    group->close();
  }));
}

TEST_P(HookResume, HasOtherBitsWithoutTheBucketsWhereTheyCount) {
  if (world_size() == 1) GTEST_SKIP() << "in a world of one, there are no buckets";
  const training::TemporaryFolder folder;
  expect_no_errors(run_ranks(world_size(), [&](const Group& group) {
    const auto expected = uninterrupted(group, hook());
    const auto actual = resumed(group, folder, hook(), 4, {.buckets = false});
    EXPECT_EQ(actual.equal(expected), !hook().needs_buckets);
    // Factors that are still to be drawn are drawn bucket by bucket.
    const auto before = resumed(group, folder, hook(), 2, {.buckets = false});
    const bool draws = hook().name.find("PowerSgd") != std::string::npos;
    EXPECT_EQ(before.equal(expected), !hook().needs_buckets && !draws);
    group->close();
  }));
}

TEST(HookOfAState, HasTheNamesOfItsModules) {
  expect_no_errors(run_ranks(2, [&](const Group& group) {
    HookedRun run(group, resumed_hooks()[0], {});
    run.train_to(4);
    UnorderedNet other;
    TrainingState state;
    run.hook.add(state);
    const auto names = [&] {
      std::vector<std::string> found;
      for (const auto& [name, tensor] : state.parts()[0].state().tensors) found.push_back(name);
      return found;
    };
    expect_refusal([&] { static_cast<void>(names()); }, "none of the 0 given ones");
    state.add("net", run.net);
    EXPECT_EQ(names(),
              (std::vector<std::string>{"PowerSgd", "error.first.weight", "error.second.weight",
                                        "error.third.weight", "generator", "q.first.weight",
                                        "q.second.weight", "q.third.weight", "random.first.weight",
                                        "random.second.weight", "random.third.weight", "steps"}));
    state.add("other", other);
    EXPECT_EQ(names()[1], "error.net.first.weight");
    group->close();
  }));
}

/// Collects warnings while it lives.
class CollectedWarnings {
 public:
  CollectedWarnings() {
    set_log_sink([this](logging::Level, std::string_view message) {
      const std::lock_guard lock(mutex_);
      messages_.emplace_back(message);
    });
  }
  ~CollectedWarnings() { set_log_sink({}); }
  CollectedWarnings(const CollectedWarnings&) = delete;
  CollectedWarnings& operator=(const CollectedWarnings&) = delete;

  [[nodiscard]] int count(const std::string& part) {
    const std::lock_guard lock(mutex_);
    int found = 0;
    for (const auto& message : messages_) found += message.find(part) != std::string::npos ? 1 : 0;
    return found;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> messages_;
};

TEST_P(HookResume, GoesOnWithAnotherNumberOfRanks) {
  const training::TemporaryFolder folder;
  expect_no_errors(run_ranks(world_size(), [&](const Group& group) {
    HookedRun first(group, hook(), {});
    Checkpointer checkpointer(group, folder / "c");
    first.train_to(4);
    checkpointer.save(first.state, first.step);
    checkpointer.wait();
    group->close();
  }));
  CollectedWarnings warnings;
  expect_no_errors(run_ranks(world_size() % 3 + 1, [&](const Group& group) {
    HookedRun second(group, hook(), {});
    Checkpointer checkpointer(group, folder / "c");
    ASSERT_TRUE(checkpointer.load_latest(second.state));
    expect_same_bits_on_all_ranks(*group, second.values());
    second.train_to(hook().is_of_each_rank ? 6 : kSteps);  // the averager's turn
    expect_same_bits_on_all_ranks(*group, second.values());
    EXPECT_TRUE(torch::isfinite(second.values()).all().item<bool>());
    EXPECT_LE(second.model->statistics().plan, 2U);
    group->close();
  }));
  const bool has_errors = world_size() > 1 && hook().name != "OpenPowerSgd";
  EXPECT_EQ(warnings.count("is dropped"), has_errors && !hook().is_of_each_rank ? 1 : 0);
  EXPECT_EQ(warnings.count("what rank 0 had"), hook().is_of_each_rank ? 2 : 0);
}

}  // namespace
}  // namespace lockstep::testing
