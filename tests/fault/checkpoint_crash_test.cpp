// SPDX-License-Identifier: BSD-3-Clause
// The power is cut at each moment of a save, and what has not been synced is on the disk or not, in
// any combination: the newest checkpoint, or the one before, is loaded bit for bit.
// LOCKSTEP_CRASH_STATES: how many different states of the disk (default: 1000).
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/checkpointer.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "crash_states.h"
#include "support/chosen_file_system.h"
#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"
#include "training/checkpoint/manifest.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;

/// Without the remarks about what is passed over.
class Quiet {
 public:
  Quiet() {
    set_log_sink([](logging::Level, std::string_view) {});
  }
  ~Quiet() { set_log_sink({}); }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};

struct RankOfItsOwn {
  std::int64_t rank;
  [[nodiscard]] std::string state() const { return std::to_string(rank); }
  void load_state(const std::string& text) { rank = std::stoll(text); }
};

/// A job that saves into a folder.
struct Job {
  std::string folder = "c";
  int ranks = 1;
  int first_rank = 0;  // which of them writes first
  int keep_last = 1;
  bool has_nameless = true;  // files without a name
};

class CheckpointCrash : public ::testing::Test {
 protected:
  using Lines = CheckpointCheck::Lines;

  /// Saves these generations. `recorder`: is told what must be there.
  void save(const Job& job, std::int64_t from, std::int64_t to,
            RecordingFileSystem* recorder = nullptr) {
    run_ranks_or_throw(job.ranks, [&](const std::shared_ptr<ProcessGroup>& group) {
      SmallRun run;
      RankOfItsOwn own{group->rank()};
      if (job.ranks > 1) run.state.add_of_rank("own", own);
      training::Checkpointer checkpointer(group, root_.path() / job.folder,
                                          training::CheckpointerOptions().keep_last(job.keep_last));
      for (std::int64_t generation = from; generation <= to; ++generation) {
        run.go_to(step_of(generation));
        group->barrier();
        if (recorder != nullptr && group->rank() == 0) recorder->allow(generation - 1, generation);
        group->barrier();
        in_turns(job, *group, generation, [&] { checkpointer.save(run.state, run.step); });
        checkpointer.wait();
        group->barrier();
        if (group->rank() != 0) continue;
        const std::string name = job.folder + "/" + generation_name(generation);
        generations_[generation] = part_of(root_.tree(), name);
        if (recorder != nullptr) recorder->allow(generation, generation);
      }
      group->close();
    });
  }

  /// What `save` does to the disk, beginning with what is there.
  std::vector<Moment> record(const Job& job, std::int64_t from, std::int64_t to) {
    RecordingFileSystem recorder(
        root_.path(), {CrashDisk(root_.tree()), "nothing", from - 1, from - 1}, job.has_nameless);
    {
      const ChosenFileSystem chosen(recorder);
      save(job, from, to, &recorder);
    }
    // Nothing was done to the disk by other calls.
    EXPECT_TRUE(recorder.moments().back().disk.now() == root_.tree());
    EXPECT_GT(recorder.moments().size(), 25U);
    return recorder.moments();
  }

  void cut(const Job& job, const std::vector<Moment>& moments, Lines lines = Lines::Whole) {
    const CheckpointCheck check(job.folder, generations_, lines);
    cut_power_at_each(moments, wanted_states(), std::cref(check));
  }

  MemoryFolder root_;
  Generations generations_;

 private:
  /// The ranks write one after the other, so that each run makes the same calls in the same order.
  template <class Save>
  void in_turns(const Job& job, ProcessGroup& group, std::int64_t generation, const Save& save) {
    for (int turn = 0; turn < job.ranks; ++turn) {
      const int rank = (job.first_rank + turn) % job.ranks;
      if (group.rank() == rank) {
        save();
        // The last one need not wait, and rank 0 takes its file away at once.
        if (turn + 1 < job.ranks) wait_for_files_of(job, rank, generation);
      }
      group.barrier();
    }
  }
  void wait_for_files_of(const Job& job, int rank, std::int64_t generation) const {
    const std::string done = "rank-0000" + std::to_string(rank + 1) + ".done";
    const auto limit = std::chrono::steady_clock::now() + kRankTimeout;
    while (std::chrono::steady_clock::now() < limit) {
      for (const auto& entry : fs::directory_iterator(root_.path() / job.folder)) {
        const std::string name = entry.path().filename();
        if (name.starts_with(generation_name(generation)) && fs::exists(entry.path() / done)) {
          return;
        }
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    throw std::runtime_error(done + " does not come");
  }

  Quiet quiet_;
};

TEST_F(CheckpointCrash, TheFirstSave) {
  const Job job{.folder = "a/b/c"};
  fs::create_directory(root_.path() / "a");
  cut(job, record(job, 1, 1));
}

TEST_F(CheckpointCrash, ASaveThatRemovesTheOneBefore) {
  const Job job;
  save(job, 1, 1);
  cut(job, record(job, 2, 2));
}

TEST_F(CheckpointCrash, ASaveThatRemovesSeveral) {
  Job job{.keep_last = 4};
  save(job, 1, 4);
  job.keep_last = 1;
  cut(job, record(job, 5, 5));
}

// It leaves nothing that could be taken for a checkpoint, and the next one has another number.
TEST_F(CheckpointCrash, ASaveThatFails) {
  const Job job;
  save(job, 1, 1);
  RecordingFileSystem recorder(root_.path(), {CrashDisk(root_.tree()), "nothing", 1, 1});
  {
    const ChosenFileSystem chosen(recorder);
    run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
      SmallRun run;
      training::Checkpointer checkpointer(group, root_.path() / job.folder,
                                          training::CheckpointerOptions().keep_last(1));
      run.go_to(step_of(2));
      recorder.fill_up();
      checkpointer.save(run.state, run.step);
      expect_refusal([&] { checkpointer.wait(); }, "No space left on device");
      run.go_to(step_of(3));
      recorder.allow(1, 3);
      checkpointer.save(run.state, run.step);
      checkpointer.wait();
      generations_[3] = part_of(root_.tree(), job.folder + "/" + generation_name(3));
      recorder.allow(3, 3);
      group->close();
    });
  }
  cut(job, recorder.moments());
}

using RunOfRanks = std::tuple<int, bool>;  // ranks; whether there are files without a name

class CheckpointCrashRuns : public CheckpointCrash,
                            public ::testing::WithParamInterface<RunOfRanks> {};
INSTANTIATE_TEST_SUITE_P(Ranks, CheckpointCrashRuns,
                         ::testing::Combine(::testing::Values(1, 2, 3), ::testing::Bool()));

TEST_P(CheckpointCrashRuns, SeveralSaves) {
  const auto [ranks, has_nameless] = GetParam();
  const Job job{
      .ranks = ranks, .first_rank = ranks - 1, .keep_last = 2, .has_nameless = has_nameless};
  save(job, 1, 2);
  cut(job, record(job, 3, 5));
}

class CheckpointCrashRanks : public CheckpointCrash, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(First, CheckpointCrashRanks, ::testing::Values(0, 1));

TEST_P(CheckpointCrashRanks, ASaveOfTwo) {
  const Job job{.ranks = 2, .first_rank = GetParam()};
  save(job, 1, 1);
  cut(job, record(job, 2, 2));
}

TEST_F(CheckpointCrash, AManifestThatIsMadeShorter) {
  const Job job;
  save(job, 1, 5);
  const std::string before = training::read_bytes(root_.path() / "c/MANIFEST");
  const auto moments = record(job, 6, 6);
  EXPECT_EQ(training::parse_manifest(before).size(), 5U);
  EXPECT_EQ(training::parse_manifest(training::read_bytes(root_.path() / "c/MANIFEST")).size(), 2U);
  cut(job, moments);
}

TEST_F(CheckpointCrash, ALineThatIsAddedAgain) {
  const Job job{.keep_last = 2};
  save(job, 1, 2);
  const fs::path manifest = root_.path() / "c/MANIFEST";
  const std::string whole = training::read_bytes(manifest);
  training::write_bytes(manifest, whole.substr(0, whole.size() - 20));
  cut(job, record(job, 3, 3), Lines::MayLack);
}

TEST_F(CheckpointCrash, AManifestThatWasLost) {
  const Job job{.keep_last = 2};
  save(job, 1, 2);
  fs::remove(root_.path() / "c/MANIFEST");
  cut(job, record(job, 3, 3), Lines::MayLack);
}

// A disk that says that bytes are there, and loses them: the digests find it out. What was there
// before stays.
TEST_F(CheckpointCrash, ADiskThatKeepsNoPromise) {
  const Job job{.keep_last = 2};
  save(job, 1, 2);
  CrashDisk disk(root_.tree());
  disk.ignore_syncs();
  RecordingFileSystem recorder(root_.path(), {std::move(disk), "nothing", 2, 2});
  {
    const ChosenFileSystem chosen(recorder);
    save(job, 3, 3, &recorder);
  }
  auto moments = recorder.moments();
  for (auto& moment : moments) moment.oldest = 2;
  cut(job, moments, Lines::MayDiffer);
}

// A process is killed at each moment of a save; another one loads what is there, as programs see
// it. From then on, a power cut must not take it away.
TEST_F(CheckpointCrash, WhatWasLoadedAfterAKillStays) {
  const Job job;
  save(job, 1, 1);
  const auto group = init_process_group(
      ProcessGroupOptions().environment(fake_environment(0, 1, unique_job_id())));
  std::vector<Moment> moments;
  for (const Moment& killed : record(job, 2, 2)) {
    root_.set(killed.disk.now());
    RecordingFileSystem recorder(root_.path(), killed);
    const ChosenFileSystem chosen(recorder);
    SmallRun run;
    training::Checkpointer checkpointer(group, root_.path() / job.folder);
    const auto found = checkpointer.load_latest(run.state);
    ASSERT_TRUE(found && run.is_at(step_of(found->generation)));
    recorder.allow(found->generation, found->generation);
    moments.insert(moments.end(), recorder.moments().begin(), recorder.moments().end());
  }
  cut(job, moments, Lines::MayLack);
}

// The same at each moment of the first save, up to the folder's own name.
TEST_F(CheckpointCrash, WhatIsSavedAfterAKillStays) {
  const Job job{.folder = "a/b/c"};
  fs::create_directory(root_.path() / "a");
  const auto killed = record(job, 1, 1);
  std::vector<Moment> moments;
  // Up to the moment when something can be loaded.
  for (std::size_t i = 0; i < killed.size() && killed[i].newest == 0; ++i) {
    root_.set(killed[i].disk.now());
    RecordingFileSystem recorder(root_.path(), killed[i]);
    const ChosenFileSystem chosen(recorder);
    save(job, 1, 1, &recorder);
    // Only what counts: the files of generation 1 are other ones in each life.
    moments.push_back(recorder.moments().back());
  }
  EXPECT_GT(moments.size(), 5U);
  cut_power_at_each(
      moments, wanted_states(), [&](const DiskTree& tree, std::int64_t, std::int64_t) {
        EXPECT_TRUE(tree.contains("a/b/c/" + generation_name(1) + "/weights.safetensors"));
      });
}

using Tensors = std::map<std::string, torch::Tensor>;

Tensors tensors_of(double value, std::int64_t count) {
  Tensors tensors;
  for (std::int64_t i = 0; i < count; ++i) {
    tensors["t" + std::to_string(i)] =
        torch::full({400}, value + static_cast<double>(i), torch::kFloat);
  }
  return tensors;
}

bool are_same(const Tensors& a, const Tensors& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&](const auto& item) {
           return b.contains(item.first) && b.at(item.first).equal(item.second);
         });
}

/// The generations are 0, the old tensors (or no file), and 1, the new ones.
class WeightsCrash : public CheckpointCrash, public ::testing::WithParamInterface<bool> {
 protected:
  template <class Save>
  std::vector<Moment> record_weights(const Save& save) {
    RecordingFileSystem recorder(root_.path(), {CrashDisk(root_.tree()), "nothing", 0, 1},
                                 GetParam());
    const ChosenFileSystem chosen(recorder);
    save();
    recorder.allow(1, 1);
    EXPECT_TRUE(recorder.moments().back().disk.now() == root_.tree());
    return recorder.moments();
  }
};
INSTANTIATE_TEST_SUITE_P(Nameless, WeightsCrash, ::testing::Bool());

TEST_P(WeightsCrash, AFileIsTheOldOneOrTheNew) {
  const MemoryFolder folder;
  for (const bool has_old : {true, false}) {
    const Tensors old = tensors_of(1, 2);
    const Tensors fresh = tensors_of(5, 3);
    root_.set({});
    if (has_old) training::save_safetensors(root_.path() / "w", old);
    const auto moments =
        record_weights([&] { training::save_safetensors(root_.path() / "w", fresh); });
    cut_power_at_each(
        moments, wanted_states() / 2, [&](const DiskTree& tree, std::int64_t oldest, std::int64_t) {
          folder.set(tree);
          const fs::path path = folder.path() / "w";
          if (!has_old && oldest == 0 && !fs::exists(path)) return;
          const auto found = training::load_safetensors(path);
          EXPECT_TRUE(are_same(found, fresh) || (oldest == 0 && has_old && are_same(found, old)));
          training::save_safetensors(path, old);
          EXPECT_TRUE(are_same(training::load_safetensors(path), old));
        });
  }
}

TEST_P(WeightsCrash, FilesUnderOneIndexAreOfOneSave) {
  const MemoryFolder folder;
  const Tensors old = tensors_of(1, 4);
  const Tensors fresh = tensors_of(5, 4);
  const auto save = [](const fs::path& path, const Tensors& tensors) {
    static_cast<void>(training::save_safetensors_shards(path, tensors, 3200));
  };
  save(root_.path(), old);
  const auto moments = record_weights([&] { save(root_.path(), fresh); });
  int incomplete = 0;
  cut_power_at_each(
      moments, wanted_states(), [&](const DiskTree& tree, std::int64_t oldest, std::int64_t) {
        folder.set(tree);
        if (oldest == 0 && !fs::exists(folder.path() / "model.safetensors.index.json")) {
          ++incomplete;
          EXPECT_THROW(static_cast<void>(training::load_safetensors(folder.path())), c10::Error);
          return;
        }
        const auto found = training::load_safetensors(folder.path());
        EXPECT_TRUE(are_same(found, fresh) || (oldest == 0 && are_same(found, old)));
      });
  EXPECT_GT(incomplete, 0);
}

}  // namespace
}  // namespace lockstep::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const int result = RUN_ALL_TESTS();
  std::printf("%zu states of the disk in all\n", lockstep::testing::checked_states());
  return result;
}
