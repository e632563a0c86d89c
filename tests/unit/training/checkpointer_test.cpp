// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/checkpointer.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"
#include "training/checkpoint/manifest.h"
#include "training/state/random_part.h"

namespace lockstep::training {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::expect_no_errors;
using testing::expect_refusal;
using testing::run_ranks;
using testing::run_ranks_or_throw;

/// Some training whose every value depends on all steps before. The same on all ranks, but for the
/// count of its own that each rank has.
struct Training {
  Training() {
    torch::NoGradGuard no_gradients;
    for (auto& parameter : net->parameters()) parameter.fill_(0.5);
    state.add("model", net)
        .add("optimizer", optimizer)
        .add("step", step)
        .add("rate", rate)
        .add("note", note)
        .add("mean", mean)
        .add("flag", flag)
        .add_of_rank("own", own)
        .require("settings", "batch 4");
  }

  void train(int steps, int rank) {
    for (int i = 0; i < steps; ++i) {
      optimizer.zero_grad();
      const auto data = torch::arange(8, torch::kFloat)
                            .view({4, 2})
                            .mul(0.1)
                            .add(0.1 * static_cast<double>(step));
      net->forward(data.sin()).square().mean().backward();
      if (rank > 0) net->named_buffers()["1.running_mean"].add_(rank);  // only rank 0's is saved
      optimizer.step();
      ++step;
      rate = rate * 0.9 + 1e-17;
      note += "x";
      mean.add_(0.25);
      flag = !flag;
      own.count += rank + 1;
    }
  }

  struct Own {
    [[nodiscard]] std::string state() const { return std::to_string(count); }
    void load_state(const std::string& text) { count = std::stoll(text); }
    std::int64_t count = 0;
  };

  torch::nn::Sequential net{torch::nn::Linear(2, 8), torch::nn::BatchNorm1d(8),
                            torch::nn::Linear(8, 3)};
  torch::optim::AdamW optimizer{net->parameters(), torch::optim::AdamWOptions(0.01)};
  std::int64_t step = 0;
  double rate = 0.3;
  std::string note;
  torch::Tensor mean = torch::zeros({3});
  bool flag = false;
  Own own;
  TrainingState state;
};

/// `is_own_too`: what belongs to one rank as well.
void expect_same(const Training& a, const Training& b, bool is_own_too = true) {
  const auto left = a.net->named_parameters();
  for (const auto& item : b.net->named_parameters()) {
    EXPECT_TRUE(item.value().equal(left[item.key()])) << item.key();
  }
  const auto buffers = a.net->named_buffers();
  for (const auto& item : b.net->named_buffers()) {
    if (!is_own_too && item.key() == "1.running_mean") continue;
    EXPECT_TRUE(item.value().equal(buffers[item.key()])) << item.key();
  }
  EXPECT_EQ(a.step, b.step);
  EXPECT_EQ(a.rate, b.rate);
  EXPECT_EQ(a.note, b.note);
  EXPECT_TRUE(a.mean.equal(b.mean));
  EXPECT_EQ(a.flag, b.flag);
  if (is_own_too) {
    EXPECT_EQ(a.own.count, b.own.count);
  }
}

class CheckpointerRanks : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, CheckpointerRanks, ::testing::Values(1, 2, 3));

TEST_P(CheckpointerRanks, AResumedRunHasTheBitsOfOneThatWasNot) {
  const TemporaryFolder folder;
  expect_no_errors(run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    Training whole;
    whole.train(7, group->rank());
    {
      Training first;
      Checkpointer checkpointer(group, folder / "c", CheckpointerOptions().every_steps(2));
      EXPECT_EQ(checkpointer.load_latest(first.state), std::nullopt);
      for (int i = 0; i < 5; ++i) {
        first.train(1, group->rank());
        EXPECT_EQ(checkpointer.after_step(first.state, first.step), first.step % 2 == 0);
      }
      checkpointer.wait();
      EXPECT_EQ(checkpointer.statistics().saves, 2);
      EXPECT_EQ(checkpointer.statistics().failures, 0);
      group->barrier();
    }
    group->barrier();  // rank 0 has given up the lock
    Training second;
    Checkpointer checkpointer(group, folder / "c");
    const auto found = checkpointer.load_latest(second.state);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, 4);
    EXPECT_EQ(found->world_size, group->size());
    Training of_rank_0;
    of_rank_0.train(4, 0);
    EXPECT_TRUE(second.net->named_buffers()["1.running_mean"].equal(
        of_rank_0.net->named_buffers()["1.running_mean"]));
    EXPECT_EQ(second.own.count, 4 * (group->rank() + 1));
    second.train(3, group->rank());
    expect_same(whole, second, group->rank() == 0);
    group->close();
  }));
}

TEST_P(CheckpointerRanks, APartOfTheRanksGoesOnWithWhatAllHave) {
  const TemporaryFolder folder;
  expect_no_errors(run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    Training run;
    run.train(3, group->rank());
    Checkpointer checkpointer(group, folder / "c");
    checkpointer.save(run.state, run.step);
    checkpointer.wait();
    group->close();
  }));
  const auto load = [&](bool has_own) {
    return run_ranks(GetParam() % 3 + 1, [&](const std::shared_ptr<ProcessGroup>& group) {
      Training whole;
      whole.train(3, 0);
      Training loaded;
      TrainingState shared;
      shared.add("model", loaded.net).add("optimizer", loaded.optimizer).add("step", loaded.step);
      shared.add("rate", loaded.rate).add("note", loaded.note).add("mean", loaded.mean);
      shared.add("flag", loaded.flag).add_random_state();
      Checkpointer checkpointer(group, folder / "c");
      const auto found = checkpointer.load_latest(has_own ? loaded.state : shared);
      EXPECT_EQ(found->world_size, GetParam());
      expect_same(whole, loaded, false);
      group->close();
    });
  };
  for (const auto& error : load(true)) {
    expect_error<c10::Error>(error, "'own' is each rank's own and cannot be divided");
  }
  // Random state was not saved.
  for (const auto& error : load(false)) {
    expect_error<c10::Error>(error, "the checkpoint has no part 'random'");
  }
}

TEST(Checkpointer, RandomNumbersGoOn) {
  const TemporaryFolder folder;
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    Checkpointer checkpointer(group, folder / "c");
    TrainingState state;
    state.add_random_state();
    torch::manual_seed(5);
    static_cast<void>(torch::randn({3}));  // leaves half of a pair in the generator
    checkpointer.save(state, 1);
    const auto expected = torch::cat({torch::randn({4}), torch::rand({4})});
    checkpointer.wait();
    ASSERT_TRUE(checkpointer.load_latest(state));
    EXPECT_TRUE(torch::cat({torch::randn({4}), torch::rand({4})}).equal(expected));
    group->close();
  });
}

TEST(Checkpointer, RanksOfAnotherWorldDrawAnew) {
  const auto part = random_part("random");
  torch::manual_seed(5);
  const auto state = part.state();
  const auto draw = [&](int rank) {
    part.adapt(state, rank)();
    return torch::rand({4});
  };
  const auto of_rank_0 = draw(0);
  const auto of_rank_1 = draw(1);
  EXPECT_FALSE(of_rank_0.equal(of_rank_1));
  EXPECT_TRUE(draw(1).equal(of_rank_1));
  part.prepare(state)();
  EXPECT_FALSE(torch::rand({4}).equal(of_rank_0));
}

TEST(Checkpointer, ASaveIsOfTheMomentOfTheCall) {
  const TemporaryFolder folder;
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    torch::Tensor values = torch::zeros({1 << 22});
    TrainingState state;
    state.add("data", values);
    Checkpointer checkpointer(group, folder / "c");
    checkpointer.save(state, 1);
    for (int i = 0; i < 20; ++i) values.add_(1);
    checkpointer.save(state, 2);
    values.fill_(-1);
    checkpointer.wait();
    for (const int step : {1, 2}) {
      const auto file = folder / "c" / ("gen-00000" + std::to_string(step)) / "data.safetensors";
      EXPECT_TRUE(load_safetensors(file).at("value").equal(
          torch::full({1 << 22}, step == 1 ? 0 : 20, torch::kFloat)));
    }
    group->close();
  });
}

class CheckpointFiles : public ::testing::Test {
 protected:
  /// Saves `count` checkpoints of steps 1, 2 and so on.
  void save(int count, const CheckpointerOptions& options = {},
            const std::vector<double>& metrics = {}) {
    run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
      Training run;
      Checkpointer checkpointer(group, root(), options);
      for (int i = 0; i < count; ++i) {
        run.train(1, 0);
        checkpointer.save(
            run.state, run.step,
            metrics.empty() ? std::nullopt : std::optional(metrics[static_cast<std::size_t>(i)]));
      }
      checkpointer.wait();
      group->close();
    });
  }
  /// The step of what is loaded; -1: nothing.
  std::int64_t load() {
    std::int64_t step = -1;
    run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
      Training run;
      Checkpointer checkpointer(group, root());
      if (const auto found = checkpointer.load_latest(run.state)) {
        Training whole;
        whole.train(static_cast<int>(found->step), 0);
        expect_same(whole, run);
        step = found->step;
      }
      group->close();
    });
    return step;
  }
  [[nodiscard]] fs::path root() const { return folder_ / "c"; }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(root())) {
      all.push_back(entry.path().filename().string());
    }
    std::sort(all.begin(), all.end());
    return all;
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(CheckpointFiles, OnlyTheNewestAreKept) {
  save(5, CheckpointerOptions().keep_last(2));
  EXPECT_EQ(names(), (std::vector<std::string>{"LOCK", "MANIFEST", "gen-000004", "gen-000005"}));
  EXPECT_EQ(load(), 5);
  save(1, CheckpointerOptions().keep_last(1));
  EXPECT_EQ(names(), (std::vector<std::string>{"LOCK", "MANIFEST", "gen-000006"}));
}

TEST_F(CheckpointFiles, EverySoManyStepsAndTheBestAreKept) {
  save(7, CheckpointerOptions().keep_last(1).keep_every_steps(3).keep_best(2),
       {0.9, 0.1, 0.5, 0.7, 0.1, 0.8, 0.6});
  EXPECT_EQ(names(), (std::vector<std::string>{"LOCK", "MANIFEST", "gen-000002", "gen-000003",
                                               "gen-000005", "gen-000006", "gen-000007"}));
}

TEST_F(CheckpointFiles, TheModelOfACheckpointIsAFileForPython) {
  save(1);
  const auto model = load_safetensors(root() / "gen-000001" / "model.safetensors");
  EXPECT_TRUE(model.contains("0.weight") && model.contains("1.running_mean"));
  const auto header = read_safetensors_header(root() / "gen-000001" / "optimizer.safetensors");
  EXPECT_TRUE(header.tensors.contains("state.0.weight.exp_avg"));
  EXPECT_TRUE(header.metadata.contains("param_groups"));
}

TEST_F(CheckpointFiles, ADamagedCheckpointIsPassedOver) {
  save(2);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(root() / "gen-000002")) {
    if (entry.path().filename() != "RECORD") files.push_back(entry.path());
  }
  EXPECT_EQ(files.size(), 5U);
  for (const auto& file : files) {
    const std::string whole = read_bytes(file);
    for (const std::size_t at : {std::size_t{0}, whole.size() / 2, whole.size() - 1}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ 4);
      write_bytes(file, damaged);
      EXPECT_EQ(load(), 1) << file << " at " << at;
    }
    write_bytes(file, whole.substr(0, whole.size() - 1));
    EXPECT_EQ(load(), 1) << file << " cut";
    fs::remove(file);
    EXPECT_EQ(load(), 1) << file << " gone";
    write_bytes(file, whole);
  }
  EXPECT_EQ(load(), 2);
}

// Whatever is missing of the manifest, the folders have it too.
TEST_F(CheckpointFiles, ALineThatWasCutIsAddedAgain) {
  save(2);
  const std::string whole = read_bytes(root() / "MANIFEST");
  for (std::size_t length = 0; length < whole.size(); length += 13) {
    write_bytes(root() / "MANIFEST", whole.substr(0, length));
    EXPECT_EQ(load(), 2) << length;
  }
  fs::remove(root() / "MANIFEST");
  EXPECT_EQ(load(), 2);
  save(1);
  const auto records = parse_manifest(read_bytes(root() / "MANIFEST"));
  ASSERT_EQ(records.size(), 3U);
  EXPECT_EQ(records.back().generation, 3);
}

TEST_F(CheckpointFiles, AFolderWithoutALineDoesNotCountAndIsNotTouched) {
  save(2);
  const std::string whole = read_bytes(root() / "MANIFEST");
  const auto first = whole.find('\n') + 1;
  write_bytes(root() / "MANIFEST", whole.substr(0, first + 20));
  fs::remove(root() / "gen-000002" / "RECORD");
  EXPECT_EQ(load(), 1);
  // The next line stands by itself, and its generation is a new one.
  save(1);
  EXPECT_EQ(parse_manifest(read_bytes(root() / "MANIFEST")).back().generation, 3);
  EXPECT_TRUE(fs::exists(root() / "gen-000002" / "model.safetensors"));
}

TEST_F(CheckpointFiles, WhatAnInterruptedRunLeftIsRemoved) {
  save(1);
  write_bytes(root() / "MANIFEST.0123456789abcdef.tmp", "half");
  fs::create_directory(root() / "gen-000002.0123456789abcdef.tmp");
  write_bytes(root() / "gen-000002.0123456789abcdef.tmp" / "model.safetensors", "half");
  fs::create_directory(root() / "gen-000000.trash");
  fs::create_directory(root() / "gen-mine.tmp");  // nobody's but the user's
  EXPECT_EQ(load(), 1);
  EXPECT_EQ(names(), (std::vector<std::string>{"LOCK", "MANIFEST", "gen-000001", "gen-mine.tmp"}));
}

TEST_F(CheckpointFiles, AllOfThemDamagedIsAnError) {
  save(2);
  for (const auto* name : {"gen-000001", "gen-000002"}) fs::remove_all(root() / name);
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    Training run;
    Checkpointer checkpointer(group, root());
    expect_refusal([&] { static_cast<void>(checkpointer.load_latest(run.state)); },
                   "no checkpoint is whole; the newest: ");
    group->close();
  });
}

TEST_F(CheckpointFiles, AProgramThatIsAnotherIsTold) {
  save(1);
  const auto expect = [&](const std::function<void(TrainingState&)>& add,
                          const std::string& reason) {
    run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
      TrainingState state;
      add(state);
      Checkpointer checkpointer(group, root());
      expect_refusal([&] { static_cast<void>(checkpointer.load_latest(state)); }, reason);
      expect_refusal([&] { static_cast<void>(checkpointer.load_latest(state)); }, "gen-000001");
      group->close();
    });
  };
  torch::nn::Sequential other(torch::nn::Linear(2, 9));
  expect([&](TrainingState& state) { state.add("model", other); },
         "'model / 0.bias' is Float of shape [8]; this program's is Float of shape [9]");
  torch::nn::Sequential larger(torch::nn::Linear(2, 8), torch::nn::BatchNorm1d(8),
                               torch::nn::Linear(8, 3), torch::nn::Linear(3, 3));
  expect([&](TrainingState& state) { state.add("model", larger); }, "has no '3.bias'");
  torch::nn::Sequential smaller(torch::nn::Linear(2, 8), torch::nn::BatchNorm1d(8));
  expect([&](TrainingState& state) { state.add("model", smaller); },
         "has '2.bias', which the module does not have");
  expect([&](TrainingState& state) { state.require("settings", "batch 8"); },
         "the checkpoint was made with settings 'batch 4'; this run has 'batch 8'");
  std::uint64_t huge = ~std::uint64_t{0};
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    TrainingState state;
    state.add("huge", huge);
    Checkpointer checkpointer(group, root() / "other");
    expect_refusal([&] { checkpointer.save(state, 1); }, "a state has integers below 2^63");
    group->close();
  });
  std::int8_t tiny = 0;
  expect([&](TrainingState& state) { state.add("rate", tiny); }, "another kind");
  expect([&](TrainingState& state) { state.add("note", tiny); }, "which is no number");
  double number = 0;
  expect([&](TrainingState& state) { state.add("step", number); }, "'step' is no double");
  expect([&](TrainingState& state) { state.add("nothing", number); }, "has no part 'nothing'");
  torch::Tensor tensor = torch::zeros({4});
  expect([&](TrainingState& state) { state.add("mean", tensor); }, "of shape [3]");
}

TEST_F(CheckpointFiles, TwoJobsCannotHaveOneFolder) {
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    const Checkpointer first(group, root());
    expect_refusal([&] { const Checkpointer second(group, root()); },
                   "another job uses this folder: process " + std::to_string(::getpid()));
    group->close();
  });
}

TEST_F(CheckpointFiles, OptionsOutOfRangeAreErrorsOnAllRanks) {
  for (const auto& options :
       {CheckpointerOptions().every_steps(-1), CheckpointerOptions().keep_last(0),
        CheckpointerOptions().keep_best(-1), CheckpointerOptions().keep_every_steps(-1),
        CheckpointerOptions().timeout(std::chrono::milliseconds(0))}) {
    const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
      const Checkpointer checkpointer(group, root(), options);
    });
    for (const auto& error : errors) expect_error<c10::Error>(error, "CheckpointerOptions: ");
  }
}

TEST_F(CheckpointFiles, AFolderThatCannotBeMadeIsAnErrorOnAllRanks) {
  fs::create_directories(root());
  write_bytes(root() / "file", "");
  const auto errors = run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    const Checkpointer checkpointer(group, root() / "file" / "c");
  });
  for (const auto& error : errors) expect_error<c10::Error>(error, "rank 0: ");
}

TEST_F(CheckpointFiles, NamesAreThoseOfFilesAndEachComesOnce) {
  TrainingState state;
  std::int64_t value = 0;
  for (const std::string name : {"", "../x", "a/b", ".hidden", "a b", "\xC3\xA4", "values"}) {
    EXPECT_THROW(state.add(name, value), c10::Error) << name;
  }
  state.add("a", value);
  EXPECT_THROW(state.add("a", value), c10::Error);
  EXPECT_THROW(state.add("b", value).add(std::string(101, 'a'), value), c10::Error);
}

TEST_F(CheckpointFiles, AnOptimizerOfAnotherModuleHasNoNames) {
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    torch::nn::Linear net(2, 2);
    torch::optim::SGD optimizer(net->parameters(), 0.1);
    TrainingState state;
    state.add("optimizer", optimizer);
    Checkpointer checkpointer(group, root());
    EXPECT_THROW(checkpointer.save(state, 1), c10::Error);
    checkpointer.wait();
    group->close();
  });
}

TEST_F(CheckpointFiles, ARankThatCannotWriteIsNamedOnAllAndTrainingGoesOn) {
  expect_no_errors(run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    Training run;
    Checkpointer checkpointer(group, root());
    run.train(1, group->rank());
    checkpointer.save(run.state, 1);
    checkpointer.wait();
    group->barrier();
    // A tensor that no file can hold.
    torch::Tensor wide = torch::ones({2}, torch::kComplexDouble);
    TrainingState other;
    struct Wide {
      torch::Tensor* tensor;
      [[nodiscard]] std::map<std::string, torch::Tensor> state() const {
        return {{"wide", tensor->defined() ? *tensor : torch::ones({1})}};
      }
      void load_state(const std::map<std::string, torch::Tensor>&) {}
    } holder{&wide};
    if (group->rank() == 0) wide.reset();
    other.add_of_rank("own", holder);
    checkpointer.save(other, 2);
    expect_refusal([&] { checkpointer.wait(); }, "'wide' is of dtype ComplexDouble");
    EXPECT_EQ(checkpointer.statistics().failures, 1);
    group->barrier();
    run.train(1, group->rank());
    checkpointer.save(run.state, 3);
    checkpointer.wait();
    Training loaded;
    EXPECT_EQ(checkpointer.load_latest(loaded.state)->step, 3);
    expect_same(run, loaded, group->rank() == 0);
    group->close();
  }));
}

TEST_F(CheckpointFiles, RanksThatSaveDifferentStepsAreTold) {
  expect_no_errors(run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    Training run;
    Checkpointer checkpointer(group, root());
    checkpointer.save(run.state, 1 + group->rank());
    expect_refusal([&] { checkpointer.wait(); }, "all ranks must save after the same steps");
    group->close();
  }));
}

TEST_F(CheckpointFiles, ARankWithOtherTensorsIsNamed) {
  expect_no_errors(run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    torch::Tensor a = torch::zeros({3});
    torch::Tensor b = torch::zeros({group->rank() == 0 ? 3 : 4});
    TrainingState state;
    state.add("a", a).add("b", b);
    Checkpointer checkpointer(group, root());
    checkpointer.save(state, 1);
    expect_refusal([&] { checkpointer.wait(); }, "rank 1 has other tensors than rank 0");
    EXPECT_EQ(checkpointer.load_latest(state), std::nullopt);
    group->close();
  }));
}

TEST_F(CheckpointFiles, AStateThatCannotBeTakenKeepsNobodyWaiting) {
  struct Thrower {
    bool does_throw = false;
    [[nodiscard]] std::string state() const {
      if (does_throw) throw std::runtime_error("");
      return "x";
    }
    void load_state(const std::string&) {}
  };
  expect_no_errors(run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    Thrower part{group->rank() == 1};
    TrainingState state;
    state.add("part", part);
    Checkpointer checkpointer(group, root());
    if (group->rank() == 1) {
      EXPECT_THROW(checkpointer.save(state, 1), std::runtime_error);
    } else {
      checkpointer.save(state, 1);
      expect_refusal([&] { checkpointer.wait(); }, "rank 1: its state cannot be taken");
    }
    part.does_throw = false;
    checkpointer.save(state, 2);
    checkpointer.wait();
    part.does_throw = group->rank() == 1;
    group->close();
  }));
}

TEST_F(CheckpointFiles, AnotherNumberOfRanksGoesOn) {
  for (const int ranks : {3, 1, 2}) {
    expect_no_errors(run_ranks(ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
      Training whole;
      Training run;
      TrainingState shared;
      shared.add("model", run.net).add("optimizer", run.optimizer).add("step", run.step);
      shared.add("rate", run.rate).add("note", run.note).add("mean", run.mean);
      shared.add("flag", run.flag).add_random_state();
      Checkpointer checkpointer(group, root());
      const auto found = checkpointer.load_latest(shared);
      EXPECT_EQ(found.has_value(), ranks != 3);
      if (found) {
        EXPECT_EQ(found->world_size, ranks == 1 ? 3 : 1);
      }
      run.train(2, group->rank());
      whole.train(static_cast<int>(run.step), group->rank());
      expect_same(whole, run, false);
      checkpointer.save(shared, run.step);
      checkpointer.wait();
      group->close();
    }));
  }
}

TEST_F(CheckpointFiles, ARankThatDoesNotSaveIsNamed) {
  expect_no_errors(run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    Training run;
    Checkpointer checkpointer(group, root(),
                              CheckpointerOptions().timeout(std::chrono::milliseconds(200)));
    if (group->rank() == 0) {
      checkpointer.save(run.state, 1);
      expect_refusal([&] { checkpointer.wait(); }, "rank 1 has not written its files");
    }
    group->close();
  }));
}

TEST_F(CheckpointFiles, ARankThatComesTooLateIsToldWhyAndLeavesNothing) {
  expect_no_errors(run_ranks(2, [&](const std::shared_ptr<ProcessGroup>& group) {
    Training run;
    Checkpointer checkpointer(group, root(),
                              CheckpointerOptions().timeout(std::chrono::milliseconds(200)));
    if (group->rank() == 1) group->barrier();  // rank 0 has given up
    checkpointer.save(run.state, 1);
    expect_refusal([&] { checkpointer.wait(); }, "rank 1 has not written its files");
    if (group->rank() == 0) group->barrier();
    group->barrier();
    EXPECT_EQ(names(), (std::vector<std::string>{"LOCK", "MANIFEST"}));
    EXPECT_EQ(checkpointer.load_latest(run.state), std::nullopt);
    group->close();
  }));
}

}  // namespace
}  // namespace lockstep::training
