// SPDX-License-Identifier: BSD-3-Clause
// Programs that fork, and signals to whole process groups: the workers belong to the rank.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <memory>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using ForkedProgramTest = NothingLeftBehind;
using Clock = std::chrono::steady_clock;

// A child of the program's own has a copy of the loader, and of batches.
void destroy_in_child(const std::function<void()>& destroy) {
  EXPECT_EQ(status_of_child([&] {
              destroy();
              return 0;
            }),
            0);
}

TEST_F(ForkedProgramTest, ChildThatDestroysItsCopyOfTheLoaderChangesNothing) {
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    auto loader = std::make_unique<DataLoader<Numbers>>(slow_numbers(160), in_order(160),
                                                        options_with(2, 8).kind(kind));
    std::int64_t expected = 0;
    std::optional<torch::data::Example<>> kept;
    for (auto it = loader->begin(); it != loader->end(); ++it) {
      kept = *it;
      if (expected == 24) {
        destroy_in_child([&] {
          kept.reset();
          loader.reset();
        });
      }
      for (int row = 0; row < 8; ++row) {
        EXPECT_EQ(kept->target[row].item<std::int64_t>(), expected++);
      }
    }
    EXPECT_EQ(expected, 160);
    EXPECT_EQ(loader->statistics().restarts, 0U);
  }
}

TEST_F(ForkedProgramTest, ChildThatDropsItsCopyOfABatchLeavesTheSlotAlone) {
  DataLoader loader(Numbers{400}, in_order(400), options_with(2));
  std::optional it(loader.begin());
  auto kept = std::optional(**it);
  const auto expected = kept->data.clone();
  destroy_in_child([&] {
    kept.reset();
    it.reset();
  });
  for (int batch = 1; batch < 60; ++batch) {
    ++*it;
    static_cast<void>(**it);
    ASSERT_TRUE(torch::equal(kept->data, expected)) << batch;
  }
}

TEST_F(ForkedProgramTest, SignalToTheProcessGroupLosesNoBatch) {
  const auto handled = [](int) {};
  for (const auto& [signal, answer] :
       std::initializer_list<std::pair<int, void (*)(int)>>{{SIGUSR1, handled},
                                                            {SIGUSR2, handled},
                                                            {SIGHUP, handled},
                                                            {SIGTERM, handled},
                                                            {SIGQUIT, handled},
                                                            {SIGQUIT, SIG_IGN},
                                                            {SIGALRM, SIG_IGN},
                                                            {SIGRTMIN, SIG_IGN}}) {
    const int status = status_of_child([signal = signal, answer = answer] {
      ::setpgid(0, 0);
      ::signal(signal, answer);
      DataLoader loader(slow_numbers(200), in_order(200), options_with(2, 10));
      std::int64_t expected = 0;
      for (auto& batch : loader) {
        for (int row = 0; row < 10; ++row) {
          if (batch.target[row].item<std::int64_t>() != expected++) return 1;
        }
        if (expected == 30) ::kill(-::getpgrp(), signal);
      }
      // Those that end a worker although the rank lives may cost time, and no more.
      if (signal != SIGTERM && loader.statistics().restarts != 0) return 3;
      return expected == 200 ? 0 : 2;
    });
    EXPECT_TRUE(WIFEXITED(status)) << signal;
    EXPECT_EQ(WEXITSTATUS(status), 0) << signal;
  }
}

// A job that the user stops with Ctrl-Z, or a batch system, and lets go on much later.
TEST_F(ForkedProgramTest, SuspendedJobGoesOnWithoutLoss) {
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    expect_with_some_limit(
        [kind](std::chrono::milliseconds timeout) {
          SharedCounters shared;
          auto& begun = shared.words[0];
          auto& has_gone_on = shared.words[1];
          const pid_t job = start_child([&] {
            ::setpgid(0, 0);
            Numbers dataset{6};
            dataset.before = [&](std::size_t index) {
              ++begun;
              if (index == 2) eventually([&] { return has_gone_on != 0; });
            };
            DataLoader loader(dataset, in_order(6), options_with(1, 1).kind(kind).timeout(timeout));
            const auto pass = pass_over_errors(loader);
            const bool is_whole = pass.batches == 6 && pass.errors.empty();
            return is_whole && loader.statistics().restarts == 0 ? 0 : 1;
          });
          EXPECT_TRUE(eventually([&] { return begun == 3; }));
          ::kill(-job, SIGSTOP);
          std::this_thread::sleep_for(5 * timeout / 2);
          ::kill(-job, SIGCONT);
          has_gone_on = 1;
          int status = 0;
          ::waitpid(job, &status, 0);
          const bool is_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
          return is_well ? "" : "status " + std::to_string(status);
        },
        std::chrono::milliseconds(600));
  }
}

// A rank that builds its loader in some thread, and whose helper process has inherited all its
// descriptors.
struct Rank {
  static constexpr std::size_t kWorkers = 3;

  explicit Rank(bool with_helper) {
    EXPECT_EQ(::pipe(pipe.data()), 0);
    pid = ::fork();
    if (pid == 0) run(with_helper);
    std::array<int, kWorkers + 2> found{};
    const auto wanted = (kWorkers + 1 + (with_helper ? 1 : 0)) * sizeof(int);
    EXPECT_EQ(::read(pipe[0], found.data(), wanted), static_cast<ssize_t>(wanted));
    helper = with_helper ? found[kWorkers + 1] : 0;
    workers.assign(found.begin(), found.begin() + kWorkers + 1);
  }
  ~Rank() {
    if (helper != 0) ::kill(helper, SIGKILL);
    ::close(pipe[0]);
    ::close(pipe[1]);
  }
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  // Seconds from the rank's death to its workers'.
  double kill() const {
    const auto start = Clock::now();
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    EXPECT_TRUE(eventually([&] { return std::all_of(workers.begin(), workers.end(), is_gone); }));
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  std::array<int, 2> pipe{};
  pid_t pid = 0;
  int helper = 0;
  std::vector<int> workers;  // and the fork server

 private:
  [[noreturn]] void run(bool with_helper) const {
    std::unique_ptr<DataLoader<Numbers>> loader;
    std::thread([&] {
      Numbers dataset{20};
      dataset.before = [](std::size_t index) {
        if (index == 9) std::this_thread::sleep_for(std::chrono::seconds(60));
      };
      loader = std::make_unique<DataLoader<Numbers>>(dataset, in_order(20), options_with(kWorkers));
    }).join();
    auto it = loader->begin();
    static_cast<void>(*it);
    std::vector<int> pids;
    eventually([&] { return (pids = descendants(::getpid())).size() == kWorkers + 1; });
    if (with_helper) {
      pids.push_back(::fork());
      if (pids.back() == 0) {
        for (;;) ::pause();
      }
    }
    static_cast<void>(::write(pipe[1], pids.data(), pids.size() * sizeof(int)));
    for (;;) ::pause();
  }
};

// A busy machine may be slow once; a fork server that only looks now and then is slow each time.
TEST_F(ForkedProgramTest, WorkersAreGoneWithinASecondOfTheRanksDeath) {
  for (const bool with_helper : {false, true}) {
    double quickest = 1e9;
    for (int attempt = 0; attempt < 20 && quickest >= 1; ++attempt) {
      quickest = std::min(quickest, Rank(with_helper).kill());
    }
    EXPECT_LT(quickest, 1.0) << with_helper;
    RecordProperty(with_helper ? "seconds_with_helper" : "seconds", std::to_string(quickest));
  }
}

}  // namespace
}  // namespace lockstep::data
