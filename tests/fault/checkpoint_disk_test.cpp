// SPDX-License-Identifier: BSD-3-Clause
// Checkpoints and weights on a disk that is full, read-only or not theirs. All mounts are seen by
// this process alone; exit status 77 where the machine does not allow them.
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>
#include <lockstep/training/checkpointer.h>
#include <lockstep/training/load_state.h>
#include <lockstep/training/safetensors.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "support/expected_errors.h"
#include "support/in_process_ranks.h"
#include "support/private_mounts.h"
#include "support/raw_safetensors.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using training::Checkpointer;
using training::CheckpointerOptions;
using training::TemporaryFolder;
using training::TrainingState;

constexpr std::int64_t kNumbers = 1 << 16;  // 256 KiB
constexpr std::uint64_t kDisk = 2 << 20;
constexpr std::uint64_t kPageBytes = 4096;

/// The values follow from the step.
struct SavedRun {
  SavedRun() { state.add("weights", weights).add("moments", moments).add("step", step); }
  void train() {
    ++step;
    weights.add_(1);
    moments.add_(0.5);
  }
  [[nodiscard]] bool is_at(std::int64_t wanted) const {
    const auto value = static_cast<double>(wanted);
    return step == wanted && weights.equal(torch::full({kNumbers / 2}, value, torch::kFloat)) &&
           moments.equal(torch::full({kNumbers / 2}, 0.5 * value, torch::kFloat));
  }

  torch::Tensor weights = torch::zeros({kNumbers / 2});
  torch::Tensor moments = torch::zeros({kNumbers / 2});
  std::int64_t step = 0;
  TrainingState state;
};

/// What is in a folder, in the order of the names.
std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// What `action` throws; empty: nothing.
std::string error_of(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
}

void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
  for (const auto& part : parts) {
    EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' lacks '" << part << "'";
  }
}

void expect_newest(Checkpointer& checkpointer, std::int64_t step) {
  SavedRun loaded;
  const auto found = checkpointer.load_latest(loaded.state);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, step);
  EXPECT_TRUE(loaded.is_at(step));
}

class FullDisk : public ::testing::TestWithParam<int> {
 protected:
  [[nodiscard]] fs::path root() const { return folder_ / "c"; }
  void at_rank_0(ProcessGroup& group, const std::function<void()>& action) const {
    group.barrier();
    if (group.rank() == 0) action();
    group.barrier();
  }

  TemporaryFolder folder_;
  SmallDisk disk_{folder_.path(), kDisk};
};
INSTANTIATE_TEST_SUITE_P(Ranks, FullDisk, ::testing::Values(1, 2, 3));

TEST_P(FullDisk, ASaveFailsOnAllRanksAndTheNextOneWorks) {
  expect_no_errors(run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    SavedRun run;
    Checkpointer checkpointer(group, root());
    run.train();
    checkpointer.save(run.state, run.step);
    checkpointer.wait();
    // Less than any of the ranks is to write.
    at_rank_0(*group, [&] { disk_.leave(15 * kPageBytes); });
    for (int failures = 1; failures <= 2; ++failures) {
      run.train();
      checkpointer.save(run.state, run.step);
      run.train();
      const std::string error = error_of([&] { checkpointer.wait(); });
      expect_parts(error, {"a checkpoint was not saved: ", (root() / "gen-00000").string(),
                           "No space left on device"});
      if (group->size() == 1)
        expect_parts(error, {".safetensors: there is no room for 135168 bytes"});
      EXPECT_EQ(checkpointer.statistics().failures, failures);
      EXPECT_TRUE(run.is_at(1 + 2 * failures));
      group->barrier();
      EXPECT_EQ(names_in(root()), (std::vector<std::string>{"LOCK", "MANIFEST", "gen-000001"}));
      group->barrier();
    }
    expect_newest(checkpointer, 1);
    at_rank_0(*group, [&] { disk_.make_room(); });
    checkpointer.save(run.state, run.step);
    checkpointer.wait();
    expect_newest(checkpointer, 5);
    group->close();
  }));
}

// However much room there is: the save works, or fails with a reason that names the disk.
TEST_P(FullDisk, WhateverIsLeftTheNewestIsWhole) {
  set_log_sink([](logging::Level, std::string_view) {});
  int failed = 0;
  int saved = 0;
  for (std::uint64_t pages = 0; pages <= 88; pages += pages < 12 ? 1 : 4) {
    SCOPED_TRACE(std::to_string(pages) + " pages are left");
    fs::remove_all(root());
    expect_no_errors(run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
      SavedRun run;
      Checkpointer checkpointer(group, root());
      run.train();
      checkpointer.save(run.state, run.step);
      checkpointer.wait();
      at_rank_0(*group, [&] { disk_.leave(pages * kPageBytes); });
      run.train();
      checkpointer.save(run.state, run.step);
      const std::string error = error_of([&] { checkpointer.wait(); });
      if (!error.empty()) expect_parts(error, {root().string(), "No space left on device"});
      expect_newest(checkpointer, error.empty() ? 2 : 1);
      at_rank_0(*group, [&] { disk_.make_room(); });
      run.train();
      checkpointer.save(run.state, run.step);
      checkpointer.wait();
      expect_newest(checkpointer, 3);
      if (group->rank() == 0) ++(error.empty() ? saved : failed);
      group->close();
    }));
    for (const auto& name : names_in(root())) {
      EXPECT_FALSE(name.ends_with(".tmp") || name.ends_with(".trash")) << name;
    }
  }
  set_log_sink({});
  EXPECT_GT(failed, 10);
  EXPECT_GT(saved, 0);
}

TEST(FullDiskOfWeights, TheOldFileStays) {
  const TemporaryFolder folder;
  const SmallDisk disk(folder.path(), kDisk);
  const fs::path path = folder / "w.safetensors";
  torch::nn::Linear net(64, 512);
  training::save_state(net, path);
  const std::string old = training::read_bytes(path);
  disk.leave(8 * kPageBytes);
  const auto expect_failure = [&](const std::function<void()>& save) {
    expect_parts(error_of(save), {path.string(), "No space left on device"});
    EXPECT_TRUE(training::read_bytes(path) == old);
    EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"ballast", "w.safetensors"}));
    EXPECT_GE(disk.free_bytes(), 8 * kPageBytes) << "something is left that has no name";
  };
  expect_failure([&] { training::save_state(net, path); });
  expect_failure([&] { training::save_safetensors(path, {{"a", torch::zeros({kNumbers})}}); });
  disk.make_room();
  training::save_safetensors(path, {{"a", torch::ones({kNumbers})}});
  EXPECT_TRUE(training::load_safetensors(path).at("a").equal(torch::ones({kNumbers})));
}

class OtherDisks : public ::testing::TestWithParam<int> {
 protected:
  /// Construction fails so on all ranks, which makes nothing.
  void expect_failure(const fs::path& root, const std::vector<std::string>& parts) const {
    const auto errors = run_ranks(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
      const Checkpointer checkpointer(group, root);
    });
    for (const auto& error : errors) {
      expect_error<c10::Error>(error, parts.front());
      expect_parts(text_of(error), parts);
      if (GetParam() > 1) expect_parts(text_of(error), {"rank 0: "});
    }
  }
  /// Weights of a file in that folder cannot be saved.
  static void expect_no_weights(const fs::path& folder, const std::string& reason) {
    const fs::path path = folder / "w.safetensors";
    torch::nn::Linear net(2, 2);
    expect_parts(error_of([&] { training::save_state(net, path); }), {path.string(), reason});
    expect_parts(error_of([&] {
                   training::save_safetensors(path, {{"a", torch::ones({2})}});
                 }),
                 {path.string(), reason});
  }
};
INSTANTIATE_TEST_SUITE_P(Ranks, OtherDisks, ::testing::Values(1, 2, 3));

TEST_P(OtherDisks, AReadOnlyOneIsAnErrorOnAllRanks) {
  const TemporaryFolder folder;
  const SmallDisk disk(folder.path(), kDisk);
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    SavedRun run;
    Checkpointer checkpointer(group, folder / "c");
    run.train();
    checkpointer.save(run.state, run.step);
    checkpointer.wait();
    group->close();
  });
  training::save_safetensors(folder / "w.safetensors", {{"a", torch::ones({3})}});
  disk.make_read_only();
  const std::string reason = "Read-only file system";
  expect_failure(folder / "c", {(folder / "c" / "LOCK").string(), "cannot be made", reason});
  expect_failure(folder / "new", {(folder / "new").string(), "the folder cannot be made", reason});
  expect_failure(folder / "new" / "below", {(folder / "new").string(), reason});
  expect_no_weights(folder.path(), reason);
  // What is there can be read.
  EXPECT_TRUE(training::load_safetensors(folder / "w.safetensors").at("a").equal(torch::ones({3})));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"c", "w.safetensors"}));
}

TEST_P(OtherDisks, AFileInThePathIsAnErrorOnAllRanks) {
  const TemporaryFolder folder;
  training::write_bytes(folder / "file", "mine");
  expect_failure(folder / "file", {(folder / "file").string(), "the folder cannot be made"});
  expect_failure(folder / "file" / "c" / "d", {(folder / "file").string(), "Not a directory"});
  expect_no_weights(folder / "file", "Not a directory");
  EXPECT_EQ(training::read_bytes(folder / "file"), "mine");
}

/// Runs it in a process of a user who is not root. Failures go to stderr.
void as_nobody(const std::function<void()>& action) {
  const pid_t child = ::fork();
  if (child == 0) {
    constexpr unsigned kNobody = 65534;
    if (::setresgid(kNobody, kNobody, kNobody) != 0 ||
        ::setresuid(kNobody, kNobody, kNobody) != 0) {
      ::_exit(77);
    }
    action();
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "this user cannot become another one";
  EXPECT_EQ(WEXITSTATUS(status), 0) << "see above";
}

TEST_P(OtherDisks, AFolderWithoutPermissionIsAnErrorOnAllRanks) {
  const TemporaryFolder folder;
  fs::permissions(folder.path(), fs::perms(0755));
  fs::create_directories(folder / "hidden" / "c");
  fs::permissions(folder / "hidden", fs::perms(0700));
  fs::create_directory(folder / "mine");
  as_nobody([&] {
    const std::string reason = "Permission denied";
    expect_failure(folder / "mine",
                   {(folder / "mine" / "LOCK").string(), "cannot be made", reason});
    expect_failure(folder / "mine" / "c", {(folder / "mine" / "c").string(), reason});
    expect_failure(folder / "hidden" / "c", {(folder / "hidden").string(), reason});
    expect_no_weights(folder / "mine", reason);
  });
}

/// Says when it has the folder, and keeps it until it is killed.
pid_t start_job(const fs::path& root, int ready) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::alarm(200);
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    const Checkpointer checkpointer(group, root);
    static_cast<void>(::write(ready, "r", 1));
    for (;;) ::pause();
  });
  ::_exit(1);
}

TEST_P(OtherDisks, AFolderOfAnotherProcessIsRefusedUntilThatEnds) {
  const TemporaryFolder folder;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = start_job(folder / "c", pipe[1]);
  char ready = 0;
  ASSERT_EQ(::read(pipe[0], &ready, 1), 1);
  for (int i = 0; i < 2; ++i) {  // the refusal itself takes nothing away
    expect_failure(folder / "c",
                   {(folder / "c").string() + ": another job uses this folder: process " +
                    std::to_string(child) + " on "});
  }
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  run_ranks_or_throw(GetParam(), [&](const std::shared_ptr<ProcessGroup>& group) {
    SavedRun run;
    Checkpointer checkpointer(group, folder / "c");
    run.train();
    checkpointer.save(run.state, run.step);
    checkpointer.wait();
    expect_newest(checkpointer, 1);
    group->close();
  });
  ::close(pipe[0]);
  ::close(pipe[1]);
}

}  // namespace
}  // namespace lockstep::testing

int main(int argc, char** argv) {
  const std::string why_not = lockstep::testing::become_private();
  ::testing::InitGoogleTest(&argc, argv);
  // Forks begin with one thread.
  torch::set_num_threads(1);
  if (!why_not.empty()) {
    std::fprintf(stderr, "skipped: this machine allows no mounts: %s\n", why_not.c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
