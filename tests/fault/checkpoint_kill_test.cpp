// SPDX-License-Identifier: BSD-3-Clause
// Runs that are killed at any moment and resumed end with the bits of a run that nobody killed.
// LOCKSTEP_KILLS: how often (default: 200).
#include <gtest/gtest.h>
#include <lockstep/lockstep.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"
#include "training/checkpoint/manifest.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;

constexpr int kSteps = 30;
constexpr int kLongestLife = 120;  // milliseconds: some runs end by themselves
constexpr int kMoreKills = 50;     // at most, if none of those before came after a checkpoint

/// A rank's whole life: it resumes, trains and writes what it has at the end.
void train(const fs::path& folder, int rank, int world_size, const std::string& job) {
  const auto group = init_process_group(
      ProcessGroupOptions().environment(fake_environment(rank, world_size, job)));
  torch::manual_seed(1);
  torch::nn::Sequential net(torch::nn::Linear(8, 64), torch::nn::Dropout(0.3),
                            torch::nn::BatchNorm1d(64), torch::nn::Linear(64, 4));
  torch::optim::Adam optimizer(net->parameters(), torch::optim::AdamOptions(0.01));
  DistributedDataParallel<torch::nn::Sequential> model(net, group);
  std::int64_t step = 0;
  training::TrainingState state;
  state.add("model", net).add("optimizer", optimizer).add("step", step).add("ddp", model);
  state.add_random_state();
  // Some lives read parameters in place, the same on all ranks.
  const bool is_deferred = std::hash<std::string>{}(job) % 2 == 0;
  training::Checkpointer checkpointer(
      group, folder / "c",
      training::CheckpointerOptions().every_steps(1).keep_last(2).deferred(is_deferred));
  const auto found = checkpointer.load_latest(state);
  if (found && found->step != step) {
    throw std::runtime_error("the manifest has another step than the state");
  }
  if (rank == 0) std::ofstream(folder / "loaded") << (found ? found->step : 0) << std::flush;
  while (step < kSteps) {
    optimizer.zero_grad();
    const auto data = torch::arange(32, torch::kFloat).view({4, 8}).mul(0.1).add(rank).sin();
    model->forward_as<torch::Tensor>(data).square().mean().backward();
    checkpointer.before_step();
    optimizer.step();
    ++step;
    checkpointer.after_step(state, step);
  }
  checkpointer.wait();
  if (rank == 0) training::save_state(*net, folder / "end.safetensors");
  group->close();
}

/// Until it is so, or the process has ended.
void wait_until(const std::function<bool()>& is_so, pid_t process) {
  siginfo_t info{};
  while (!is_so() && info.si_pid == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ::waitid(P_PID, static_cast<id_t>(process), &info, WEXITED | WNOHANG | WNOWAIT);
  }
}

/// So much is in the manifest.
std::uintmax_t manifest_bytes(const fs::path& folder) {
  std::error_code none;
  const auto bytes = fs::file_size(folder / "c" / "MANIFEST", none);
  return none ? 0 : bytes;
}

pid_t start(const fs::path& folder, int rank, int world_size, const std::string& job) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::alarm(120);
  try {
    train(folder, rank, world_size, job);
  } catch (const CommError&) {
    ::_exit(3);  // it lost another rank
  } catch (const LaunchError&) {
    ::_exit(3);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
    ::_exit(1);
  }
  ::_exit(0);
}

/// The step of the newest checkpoint that counts; 0: there is none. One that was killed between its
/// name and its line in the manifest counts as well, since it has the line itself.
std::int64_t newest_step(const fs::path& folder) {
  std::map<std::int64_t, training::CheckpointRecord> records;
  const auto take = [&](const fs::path& file) {
    for (auto& record : training::parse_manifest(training::read_bytes(file) + "\n")) {
      records.try_emplace(record.generation, std::move(record));
    }
  };
  take(folder / "c" / "MANIFEST");
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(folder / "c", none)) {
    if (entry.path().extension().empty()) take(entry.path() / "RECORD");
  }
  std::int64_t step = 0;
  for (const auto& [generation, record] : records) {
    if (record.failure.empty()) step = record.step;
  }
  return step;
}

/// Whether all ended by themselves, and well. `life`: they are killed after so long; negative:
/// never.
bool live(const fs::path& folder, int world_size, std::chrono::milliseconds life) {
  const std::string job = unique_job_id();
  const std::int64_t expected = newest_step(folder);
  fs::remove(folder / "loaded");
  std::vector<pid_t> ranks;
  for (int rank = 0; rank < world_size; ++rank) {
    ranks.push_back(start(folder, rank, world_size, job));
  }
  if (life.count() >= 0) {
    // Some lives begin when the rank has loaded, others with a line of the manifest after that: a
    // slow start cannot take them all, and some kills come after a checkpoint on any machine.
    const auto kind = life.count() % 4;
    if (kind != 1) {
      wait_until([&] { return fs::exists(folder / "loaded"); }, ranks.front());
    }
    if (kind == 0) {
      wait_until([&, bytes = manifest_bytes(folder)] { return manifest_bytes(folder) != bytes; },
                 ranks.front());
      life /= 10;
    }
    std::this_thread::sleep_for(life);
    for (const pid_t rank : ranks) ::kill(rank, SIGKILL);
  }
  bool is_well = true;
  for (const pid_t rank : ranks) {
    int status = 0;
    EXPECT_EQ(::waitpid(rank, &status, 0), rank);
    EXPECT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << "see above";
    is_well = is_well && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  if (fs::exists(folder / "loaded")) {
    const std::string loaded = training::read_bytes(folder / "loaded");
    if (!loaded.empty()) {
      EXPECT_EQ(std::stoll(loaded), expected) << "it passed over the newest";
    }
  }
  return is_well;
}

int wanted_kills() {
  const char* text = std::getenv("LOCKSTEP_KILLS");
  return text == nullptr ? 200 : std::stoi(text);
}

class CheckpointKill : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Ranks, CheckpointKill, ::testing::Values(1, 2));

TEST_P(CheckpointKill, TheResumedRunEndsWithTheSameBits) {
  const training::TemporaryFolder reference;
  ASSERT_TRUE(live(reference.path(), GetParam(), std::chrono::milliseconds(-1)));
  const std::string expected = training::read_bytes(reference / "end.safetensors");
  const auto seed = static_cast<unsigned>(::getpid());
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 draw(seed);
  std::uniform_int_distribution<int> life(0, kLongestLife);
  const int kills = wanted_kills() / 2;
  int killed = 0;
  int ended = 0;
  int resumed = 0;
  const auto is_enough = [&] { return killed >= (resumed > 0 ? kills : kills + kMoreKills); };
  while (!is_enough() && !HasFailure()) {
    const training::TemporaryFolder folder;
    while (!is_enough() &&
           !live(folder.path(), GetParam(), std::chrono::milliseconds(life(draw)))) {
      ++killed;
      resumed += newest_step(folder.path()) > 0 ? 1 : 0;
    }
    // Whatever the last kill left.
    if (!fs::exists(folder / "end.safetensors")) {
      ASSERT_TRUE(live(folder.path(), GetParam(), std::chrono::milliseconds(-1)));
    }
    EXPECT_EQ(training::read_bytes(folder / "end.safetensors") == expected, true);
    ++ended;
  }
  EXPECT_GT(resumed, 0) << "no kill came after a checkpoint";
  std::printf("%d runs of %d ranks, killed %d times, ended with the same bits\n", ended, GetParam(),
              killed);
}

}  // namespace
}  // namespace lockstep::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  // Forks begin with one thread.
  torch::set_num_threads(1);
  return RUN_ALL_TESTS();
}
