// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <lockstep/data/loader/data_loader.h>
#include <lockstep/data/readers/idx_dataset.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/some_limit.h"

namespace lockstep::data {

using lockstep::testing::expect_with_some_limit;

/// A dataset whose samples say which index they are of, and that does to chosen indices what a test
/// asks for.
struct Numbers {
  std::size_t count = 20;
  std::function<void(std::size_t index)> before = [](std::size_t) {};

  torch::data::Example<> get(std::size_t index) {
    before(index);
    const auto value = static_cast<double>(index);
    return {torch::full({2, 3}, value, torch::kFloat) / 3,
            torch::tensor(static_cast<int64_t>(index))};
  }
  std::size_t size() const { return count; }
};

/// Slow enough that an epoch lasts longer than it takes to notice a death.
inline Numbers slow_numbers(std::size_t count) {
  Numbers dataset{count};
  dataset.before = [](std::size_t) { std::this_thread::sleep_for(std::chrono::milliseconds(1)); };
  return dataset;
}

using Samples = std::vector<torch::data::Example<>>;

inline torch::data::Example<> stack(Samples samples) {
  return torch::data::transforms::Stack<>().apply_batch(std::move(samples));
}

inline DistributedSampler in_order(std::size_t count) {
  return DistributedSampler(count, 1, 0, DistributedSamplerOptions().shuffle(false));
}

inline DataLoaderOptions options_with(std::int64_t workers, std::int64_t batch_size = 4) {
  return DataLoaderOptions()
      .workers(workers)
      .batch_size(batch_size)
      .timeout(std::chrono::seconds(120));
}

/// Message of the exception of type `E` that `call` throws; a test failure when it throws none.
template <class E = c10::Error>
std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "no exception was thrown";
  return {};
}

template <class Loader>
std::optional<WorkerError> error_of_pass(Loader& loader) {
  try {
    for (auto& batch : loader) static_cast<void>(batch);
  } catch (const WorkerError& error) {
    return error;
  }
  return std::nullopt;
}

/// A pass by a program that goes on after errors.
struct WholePass {
  int batches = 0;
  std::vector<WorkerError> errors;
};

template <class Loader>
WholePass pass_over_errors(Loader& loader) {
  WholePass pass;
  for (auto it = loader.begin(); it != loader.end(); ++it) {
    try {
      static_cast<void>(*it);
      ++pass.batches;
    } catch (const WorkerError& error) {
      pass.errors.push_back(error);
    }
  }
  return pass;
}

/// The targets of such a pass. `look` is called with each batch.
struct Targets {
  std::vector<std::int64_t> samples;
  std::vector<WorkerError> errors;
};

template <class Loader, class Look>
Targets targets_of(Loader& loader, const Look& look) {
  Targets result;
  for (auto it = loader.begin(); it != loader.end(); ++it) {
    try {
      const auto& target = it->target;
      const auto* first = target.template const_data_ptr<std::int64_t>();
      result.samples.insert(result.samples.end(), first, first + target.size(0));
      look(*it);
    } catch (const WorkerError& error) {
      result.errors.push_back(error);
    }
  }
  return result;
}

template <class Loader>
Targets targets_of(Loader& loader) {
  return targets_of(loader, [](const auto&) {});
}

inline bool eventually(const std::function<bool()>& condition,
                       std::chrono::milliseconds limit = std::chrono::seconds(60)) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

/// Runs `body` in a child of this process, which never comes back; its status is what `body` gives,
/// or 99 where it throws.
template <class Body>
pid_t start_child(const Body& body) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  try {
    ::_exit(body());
  } catch (...) {
    ::_exit(99);
  }
}

/// The same, to its end; its status of wait(2).
template <class Body>
int status_of_child(const Body& body) {
  const pid_t child = start_child(body);
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

/// Words that all processes of a test see.
struct SharedCounters {
  SharedCounters()
      : words(static_cast<std::atomic<int>*>(
            ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~SharedCounters() { ::munmap(static_cast<void*>(words), kBytes); }
  SharedCounters(const SharedCounters&) = delete;
  SharedCounters& operator=(const SharedCounters&) = delete;

  static constexpr std::size_t kBytes = 1 << 16;
  std::atomic<int>* words;
};

struct ProcessLine {
  char state = '?';
  int parent = 0;
};

inline std::optional<ProcessLine> process(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(file, text)) return std::nullopt;
  const auto after_name = text.rfind(')');
  ProcessLine line;
  line.state = text.at(after_name + 2);
  line.parent = std::stoi(text.substr(after_name + 4));
  return line;
}

inline bool is_gone(int pid) {
  const auto line = process(pid);
  return !line || line->state == 'Z' || line->state == 'X';
}

/// All descendants' pids, zombies included.
inline std::vector<int> descendants(int of) {
  std::vector<int> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const auto name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const int pid = std::stoi(name);
    const auto line = process(pid);
    if (!line || line->parent != of) continue;
    found.push_back(pid);
    for (const int below : descendants(pid)) found.push_back(below);
  }
  return found;
}

/// For messages: "4711 lockstep-fork, state R; ".
inline std::string describe(const std::vector<int>& processes) {
  std::string text;
  for (const int pid : processes) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
    std::string name;
    std::getline(file, name);
    const auto line = process(pid);
    text += std::to_string(pid) + " " + name + ", state " + (line ? line->state : '-') + "; ";
  }
  return text;
}

/// Of the loaders in process `of`, with worker processes: those that live.
inline std::vector<int> workers_of(int of) {
  std::vector<int> workers;
  for (const int pid : descendants(of)) {
    const auto line = process(pid);
    if (line && line->parent != of && !is_gone(pid)) workers.push_back(pid);
  }
  return workers;
}

inline std::vector<int> workers_of_this_process() {
  return workers_of(::getpid());
}

/// Kills workers of this process's loader at random, one after the other: the next one when the
/// last has been replaced and its sample is done again, as two kills at the same sample would be
/// the sample's fault.
///
/// A process of its own. A thread would allocate memory while the loader forks, and a fork inherits
/// AddressSanitizer's locks as they are: the fork server would wait for ever.
class RandomKiller {
 public:
  /// `begun` counts samples that workers have begun; in memory that processes share.
  RandomKiller(std::size_t workers, const std::atomic<int>& begun)
      : process_(start_child([this, workers, &begun, of = ::getpid()] {
          ::prctl(PR_SET_PDEATHSIG, SIGKILL);
          while (::getppid() == of) kill_one(of, workers, begun);
          return 0;
        })) {}
  ~RandomKiller() {
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  RandomKiller(const RandomKiller&) = delete;
  RandomKiller& operator=(const RandomKiller&) = delete;

  [[nodiscard]] int kills() const { return shared_.words[0]; }

 private:
  void kill_one(int of, std::size_t workers, const std::atomic<int>& begun) {
    std::this_thread::sleep_for(std::chrono::milliseconds(7));
    const auto alive = workers_of(of);
    if (alive.size() < workers) seen_ = begun;
    if (alive.empty() || begun < seen_ + 10) return;
    const int signal = std::array{SIGKILL, SIGSEGV, SIGTERM}[random_() % 3];
    shared_.words[0] += ::kill(alive[random_() % alive.size()], signal) == 0;
    seen_ = begun;
  }

  SharedCounters shared_;
  std::mt19937 random_{11};
  int seen_ = 0;  // samples begun while all workers were there
  pid_t process_;
};

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

/// Fails the test when it leaves a process or a descriptor behind.
class NothingLeftBehind : public ::testing::Test {
 protected:
  void SetUp() override { descriptors_ = open_descriptors(); }
  void TearDown() override {
    EXPECT_EQ(describe(descendants(::getpid())), "") << "a process is left";
    EXPECT_EQ(open_descriptors(), descriptors_) << "a descriptor is left";
  }

 private:
  std::size_t descriptors_ = 0;
};

}  // namespace lockstep::data
