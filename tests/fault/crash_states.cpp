// SPDX-License-Identifier: BSD-3-Clause
#include "crash_states.h"

#include <gtest/gtest.h>
#include <lockstep/training/checkpointer.h>
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <regex>
#include <set>
#include <utility>

#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"
#include "training/checkpoint/folder.h"
#include "training/checkpoint/generation_reader.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kSeed = 7;
constexpr std::size_t kLargeTests = 16;  // the others have few states
constexpr int kMostFailures = 5;         // of a test: the others will have the same reason

torch::Tensor weights_at(std::int64_t step) {
  return torch::arange(900, torch::kDouble).add(static_cast<double>(step)).sin().to(torch::kFloat);
}

std::string note_at(std::int64_t step) {
  return std::string(static_cast<std::size_t>(step), 'n');
}

}  // namespace

MemoryFolder::MemoryFolder() {
  const fs::path memory = "/dev/shm";
  std::string name =
      fs::is_directory(memory) ? "/dev/shm/crash_XXXXXX" : ::testing::TempDir() + "crash_XXXXXX";
  path_ = ::mkdtemp(name.data());
}

MemoryFolder::~MemoryFolder() {
  std::error_code error;
  fs::remove_all(path_, error);
}

void MemoryFolder::set(const DiskTree& tree) const {
  for (const auto& entry : fs::directory_iterator(path_)) fs::remove_all(entry.path());
  for (const auto& [path, bytes] : tree) {
    if (bytes) {
      training::write_bytes(path_ / path, *bytes);
    } else {
      fs::create_directory(path_ / path);
    }
  }
}

DiskTree MemoryFolder::tree() const {
  DiskTree tree;
  for (const auto& entry : fs::recursive_directory_iterator(path_)) {
    auto& bytes = tree[entry.path().lexically_relative(path_).string()];
    if (!entry.is_directory()) bytes = training::read_bytes(entry.path());
  }
  return tree;
}

SmallRun::SmallRun()
    : weights(torch::zeros({900})), moments(torch::zeros({900})), mean(torch::zeros({3})) {
  state.add("weights", weights).add("moments", moments).add("mean", mean);
  state.add("step", step).add("note", note);
}

void SmallRun::go_to(std::int64_t new_step) {
  weights.copy_(weights_at(new_step));
  moments.copy_(weights_at(2 * new_step));
  mean.fill_(static_cast<double>(new_step));
  step = new_step;
  note = note_at(new_step);
}

bool SmallRun::is_at(std::int64_t wanted) const {
  return step == wanted && note == note_at(wanted) && weights.equal(weights_at(wanted)) &&
         moments.equal(weights_at(2 * wanted)) &&
         mean.equal(torch::full({3}, static_cast<double>(wanted), torch::kFloat));
}

std::string generation_name(std::int64_t generation) {
  std::string digits = std::to_string(generation);
  return "gen-" + std::string(6 - digits.size(), '0') + digits;
}

DiskTree part_of(const DiskTree& tree, const std::string& folder) {
  DiskTree part;
  for (const auto& [path, bytes] : tree) {
    if (path.starts_with(folder + "/")) part[path.substr(folder.size() + 1)] = bytes;
  }
  return part;
}

CheckpointCheck::CheckpointCheck(std::string folder, const Generations& generations, Lines lines)
    : folder_(std::move(folder)),
      generations_(generations),
      lines_(lines),
      group_(init_process_group(
          ProcessGroupOptions().environment(fake_environment(0, 1, unique_job_id())))) {}

std::int64_t CheckpointCheck::newest_line() const {
  std::set<std::int64_t> counting;
  for (const auto& record :
       training::parse_manifest(training::read_bytes(root_.path() / folder_ / "MANIFEST"))) {
    if (record.failure.empty()) counting.insert(record.generation);
    if (!record.failure.empty()) counting.erase(record.generation);
  }
  return counting.empty() ? 0 : *counting.rbegin();
}

// A program that only reads the folder, and adds no line that is missing.
void CheckpointCheck::check_readers(std::int64_t oldest) const {
  const training::CheckpointFolder folder(root_.path() / folder_);
  std::int64_t newest = 0;
  for (const auto& record : folder.candidates()) {
    try {
      training::GenerationReader(folder, record, 0, 1).verify({});
      newest = record.generation;
    } catch (const c10::Error&) {  // passed over
    }
  }
  EXPECT_GE(newest, oldest) << "by the lines of the manifest";
}

void CheckpointCheck::operator()(const DiskTree& tree, std::int64_t oldest,
                                 std::int64_t newest) const {
  root_.set(tree);
  if (lines_ == Lines::Whole && oldest > 0) check_readers(oldest);
  const std::int64_t promised =
      lines_ == Lines::MayDiffer ? oldest : std::max(oldest, newest_line());
  SmallRun run;
  training::Checkpointer checkpointer(group_, root_.path() / folder_,
                                      training::CheckpointerOptions().keep_last(1));
  const auto found = checkpointer.load_latest(run.state);
  const std::int64_t loaded = found ? found->generation : 0;
  EXPECT_GE(loaded, promised) << "its line is on the disk";
  EXPECT_LE(loaded, newest);
  if (loaded > 0) {
    EXPECT_EQ(found->step, step_of(loaded));
    EXPECT_TRUE(run.is_at(step_of(loaded))) << "other values than those of " << loaded;
    auto files = part_of(root_.tree(), folder_ + "/" + generation_name(loaded));
    auto expected = generations_.at(loaded);
    if (lines_ == Lines::MayDiffer) {  // a file that was removed may be there again
      expected.erase("RECORD");
      std::erase_if(files, [&](const auto& file) { return !expected.contains(file.first); });
    }
    EXPECT_TRUE(files == expected) << "other bytes than those of " << loaded;
  }
  const std::int64_t next = 7;
  run.go_to(next);
  checkpointer.save(run.state, next);
  checkpointer.wait();
  SmallRun again;
  const auto saved = checkpointer.load_latest(again.state);
  EXPECT_TRUE(saved && saved->generation > loaded && again.is_at(next)) << "the next save";
  static const std::regex kKnown("LOCK|MANIFEST|gen-[0-9]{6}");
  for (const auto& entry : fs::directory_iterator(root_.path() / folder_)) {
    const std::string name = entry.path().filename();
    EXPECT_TRUE(std::regex_match(name, kKnown)) << name << " is left";
  }
}

std::size_t wanted_states() {
  const char* text = std::getenv("LOCKSTEP_CRASH_STATES");
  return (text == nullptr ? 1000 : std::stoul(text)) / kLargeTests + 1;
}

namespace {

struct State {
  const Moment* moment;
  CrashDisk::Choice choice;

  [[nodiscard]] DiskTree tree() const { return moment->disk.after_power_cut(choice); }
  [[nodiscard]] std::string text() const {
    std::string text = "power cut after '" + moment->call + "', allowed " +
                       std::to_string(moment->oldest) + " to " + std::to_string(moment->newest) +
                       ", on the disk: ";
    for (const int way : choice) text += std::to_string(way);
    return text;
  }
};

/// `most` of each moment, each once.
std::vector<State> different_states(const std::vector<Moment>& moments, std::size_t most) {
  std::vector<State> states;
  std::mt19937 draw(kSeed);
  std::set<std::pair<DiskTree, std::pair<std::int64_t, std::int64_t>>> seen;
  for (const Moment& moment : moments) {
    for (auto& choice : draw_choices(moment.disk.facts(), most, draw)) {
      State state{&moment, std::move(choice)};
      if (seen.emplace(state.tree(), std::pair(moment.oldest, moment.newest)).second) {
        states.push_back(std::move(state));
      }
    }
  }
  return states;
}

int failed_parts() {
  const auto* result = ::testing::UnitTest::GetInstance()->current_test_info()->result();
  int count = 0;
  for (int i = 0; i < result->total_part_count(); ++i) {
    count += result->GetTestPartResult(i).failed() ? 1 : 0;
  }
  return count;
}

std::size_t checked = 0;

}  // namespace

std::size_t checked_states() {
  return checked;
}

void cut_power_at_each(const std::vector<Moment>& moments, std::size_t wanted,
                       const StateCheck& check) {
  constexpr std::size_t kMost = 1 << 12;  // of a moment
  std::size_t most = 2;
  auto states = different_states(moments, most);
  while (states.size() < wanted && most < kMost) {
    most += most / 2;
    states = different_states(moments, most);
  }
  int failures = 0;
  for (const State& state : states) {
    SCOPED_TRACE(state.text());
    const int before = failed_parts();
    try {
      check(state.tree(), state.moment->oldest, state.moment->newest);
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
    }
    ++checked;
    if (failed_parts() > before && ++failures == kMostFailures) break;
  }
  std::printf("%zu states of the disk, at most %zu at each of %zu moments\n", states.size(), most,
              moments.size());
}

}  // namespace lockstep::testing
