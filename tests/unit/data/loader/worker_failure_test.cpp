// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/data/loader/worker_error.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <stdexcept>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using WorkerFailureTest = NothingLeftBehind;
using Clock = std::chrono::steady_clock;

Numbers numbers_that(std::size_t at, std::function<void()> action, std::size_t count = 20) {
  Numbers dataset{count};
  dataset.before = [at, action = std::move(action)](std::size_t index) {
    if (index == at) action();
  };
  return dataset;
}

TEST_F(WorkerFailureTest, ExceptionArrivesAtItsTurnAndTheLoaderGoesOn) {
  for (const std::size_t bad : {0U, 9U, 19U}) {
    for (const int workers : {0, 1, 2, 3}) {
      DataLoader loader(numbers_that(bad, [] { throw std::runtime_error("no such picture"); }),
                        in_order(20), options_with(workers));
      for (int pass = 0; pass < 2; ++pass) {
        std::vector<std::int64_t> first_of_batch;
        int errors = 0;
        for (auto it = loader.begin(); it != loader.end(); ++it) {
          try {
            first_of_batch.push_back(it->target[0].item<std::int64_t>());
          } catch (const WorkerError& error) {
            ++errors;
            EXPECT_EQ(error.failure(), WorkerFailure::Exception);
            EXPECT_EQ(error.batch_index(), static_cast<std::int64_t>(bad / 4));
            EXPECT_EQ(error.sample_index(), static_cast<std::int64_t>(bad));
            EXPECT_EQ(error.original_message(), "no such picture");
            EXPECT_EQ(error.worker() >= 0, workers > 0);
            EXPECT_EQ(error.pid() == ::getpid(), workers == 0);
            EXPECT_EQ(first_of_batch.size(), bad / 4);  // in order
            const std::string text = error.what();
            EXPECT_NE(text.find("sample " + std::to_string(bad)), std::string::npos) << text;
            EXPECT_NE(text.find("no such picture"), std::string::npos) << text;
          }
        }
        EXPECT_EQ(errors, 1);
        EXPECT_EQ(first_of_batch.size(), 4U);
      }
    }
  }
}

// As those of a `WorkerPool`, and of process groups.
TEST_F(WorkerFailureTest, ErrorIsOfTheFamilyOfAllWorkers) {
  DataLoader loader(numbers_that(0, [] { throw std::runtime_error("bad"); }), in_order(20),
                    options_with(1));
  try {
    static_cast<void>(*loader.begin());
    FAIL() << "no exception was thrown";
  } catch (const WorkerFailedError& error) {
    EXPECT_EQ(error.failure(), WorkerFailure::Exception);
    EXPECT_EQ(error.worker(), 0);
    EXPECT_EQ(error.exception_type(), "std::runtime_error");
    EXPECT_EQ(error.original_message(), "bad");
  }
  EXPECT_THROW(static_cast<void>(*loader.begin()), c10::DistError);
}

TEST_F(WorkerFailureTest, LoopThatLooksAgainGetsTheNextBatch) {
  for (const int workers : {0, 2}) {
    DataLoader loader(numbers_that(5, [] { throw std::runtime_error("bad"); }), in_order(20),
                      options_with(workers));
    int batches = 0;
    int errors = 0;
    auto it = loader.begin();
    while (it != loader.end()) {
      try {
        static_cast<void>(*it);
        ++batches;
        ++it;
      } catch (const WorkerError&) {
        ++errors;
      }
    }
    EXPECT_EQ(batches, 4);
    EXPECT_EQ(errors, 1);
  }
}

TEST_F(WorkerFailureTest, SampleOfAnotherShapeIsNamed) {
  struct Ragged {
    torch::data::Example<> get(std::size_t index) {
      return {torch::zeros({index == 6 ? 3 : 2}), torch::tensor(static_cast<int64_t>(index))};
    }
    std::size_t size() const { return 12; }
  };
  for (const int workers : {0, 2}) {
    DataLoader loader(Ragged{}, in_order(12), options_with(workers));
    const auto error = error_of_pass(loader);
    ASSERT_TRUE(error);
    EXPECT_EQ(error->sample_index(), 6);
    const std::string text = error->what();
    EXPECT_NE(text.find("Float [3]"), std::string::npos) << text;
    EXPECT_NE(text.find("Float [2]"), std::string::npos) << text;
  }
}

TEST_F(WorkerFailureTest, TooLargeSamplesAreAnError) {
  struct Huge {
    torch::data::Example<> get(std::size_t) {
      return {torch::zeros({1}).expand({std::int64_t{1} << 40}), torch::zeros({1})};
    }
    std::size_t size() const { return 4; }
  };
  DataLoader loader(Huge{}, in_order(4), options_with(1, 2));
  const auto error = error_of_pass(loader);
  ASSERT_TRUE(error);
  EXPECT_NE(std::string(error->what()).find("wanted"), std::string::npos) << error->what();
  EXPECT_NE(std::string(error->what()).find("bytes are free"), std::string::npos) << error->what();
}

// What a worker does at sample 9, and what the error must say about it.
struct Death {
  const char* name;
  void (*act)();
  WorkerFailure failure;
  std::optional<int> signal;
  std::optional<int> exit_status;
};

class WorkerDeath : public NothingLeftBehind, public ::testing::WithParamInterface<Death> {};

TEST_P(WorkerDeath, IsAnErrorThatNamesTheWorker) {
  const auto& death = GetParam();
  for (const int workers : {1, 2, 3}) {
    for (const std::size_t bad : {0U, 9U}) {
      const auto start = Clock::now();
      DataLoader loader(numbers_that(bad, death.act), in_order(20), options_with(workers));
      const auto error = error_of_pass(loader);
      ASSERT_TRUE(error);
      EXPECT_LT(Clock::now() - start, std::chrono::seconds(60));
      EXPECT_EQ(error->failure(), death.failure) << error->what();
      EXPECT_EQ(error->signal(), death.signal);
      EXPECT_EQ(error->exit_status(), death.exit_status);
      EXPECT_EQ(error->sample_index(), static_cast<std::int64_t>(bad));
      EXPECT_EQ(error->batch_index(), static_cast<std::int64_t>(bad / 4));
      EXPECT_GE(error->worker(), 0);
      EXPECT_LT(error->worker(), workers);
      EXPECT_GT(error->pid(), 0);
      EXPECT_NE(std::string(error->what()).find("pid " + std::to_string(error->pid())),
                std::string::npos);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, WorkerDeath,
                         ::testing::Values(Death{"Killed", [] { ::raise(SIGKILL); },
                                                 WorkerFailure::Killed, SIGKILL, std::nullopt},
                                           Death{"Aborted",
                                                 [] {
                                                   ::signal(SIGABRT, SIG_DFL);
                                                   ::raise(SIGABRT);
                                                 },
                                                 WorkerFailure::Killed, SIGABRT, std::nullopt},
                                           Death{"Segfault",
                                                 [] {
                                                   ::signal(SIGSEGV, SIG_DFL);
                                                   ::raise(SIGSEGV);
                                                 },
                                                 WorkerFailure::Killed, SIGSEGV, std::nullopt},
                                           Death{"Exited", [] { ::_exit(7); },
                                                 WorkerFailure::Exited, std::nullopt, 7}),
                         [](const auto& death) { return death.param.name; });

TEST_F(WorkerFailureTest, TheOthersGoOnAfterADeath) {
  DataLoader loader(numbers_that(
                        9, [] { ::_exit(3); }, 40),
                    in_order(40), options_with(2));
  const auto pass = pass_over_errors(loader);
  EXPECT_EQ(pass.errors.size(), 1U);
  EXPECT_EQ(pass.batches, 9);
}

TEST_F(WorkerFailureTest, NoWorkerLeftIsAnErrorForEachBatch) {
  DataLoader loader(Numbers{20}, in_order(20),
                    options_with(1).worker_init([](std::size_t) { ::_exit(3); }));
  const auto pass = pass_over_errors(loader);
  EXPECT_EQ(pass.errors.size(), 5U);
  for (const auto& error : pass.errors) EXPECT_EQ(error.exit_status(), 3) << error.what();
  EXPECT_TRUE(error_of_pass(loader).has_value());  // a new pass does not hang either
}

TEST_F(WorkerFailureTest, DeadForkServerIsAnError) {
  DataLoader loader(slow_numbers(400), in_order(400), options_with(2));
  auto it = loader.begin();
  static_cast<void>(*it);
  const auto all = descendants(::getpid());
  int fork_server = 0;
  for (const int pid : all) fork_server = process(pid)->parent == ::getpid() ? pid : fork_server;
  ASSERT_EQ(::kill(fork_server, SIGKILL), 0);
  // It takes its workers along, which could make all batches otherwise.
  ASSERT_TRUE(eventually([&] { return std::all_of(all.begin(), all.end(), is_gone); }));
  std::optional<WorkerError> last;
  for (++it; it != loader.end(); ++it) {
    try {
      static_cast<void>(*it);
    } catch (const WorkerError& error) {
      last = error;
    }
  }
  ASSERT_TRUE(last);
  EXPECT_EQ(last->pid(), fork_server);
  EXPECT_EQ(last->signal(), SIGKILL);
}

TEST_F(WorkerFailureTest, StuckWorkerIsNamedAfterTheTimeout) {
  // All other samples must come within the timeout.
  expect_with_some_limit([](std::chrono::milliseconds timeout) -> std::string {
    const auto start = Clock::now();
    {
      DataLoader loader(
          numbers_that(9, [] { std::this_thread::sleep_for(std::chrono::seconds(600)); }),
          in_order(20), options_with(2).timeout(timeout));
      const auto pass = pass_over_errors(loader);
      if (pass.batches != 4 || pass.errors.size() != 1) {
        return std::to_string(pass.batches) + " batches came, and " +
               std::to_string(pass.errors.size()) + " errors";
      }
      const auto& error = pass.errors[0];
      EXPECT_EQ(error.failure(), WorkerFailure::TimedOut);
      EXPECT_EQ(error.sample_index(), 9);
      EXPECT_GE(error.worker(), 0);
      EXPECT_NE(std::string(error.what()).find("no progress"), std::string::npos);
    }
    EXPECT_LT(Clock::now() - start, std::chrono::seconds(100));  // the destructor did not wait
    return "";
  });
}

TEST_F(WorkerFailureTest, WorkerInitRunsInEachWorkerAndItsErrorArrives) {
  auto options = options_with(2).worker_init([](std::size_t worker) {
    if (worker == 1) throw std::runtime_error("no licence");
  });
  DataLoader loader(Numbers{}, in_order(20), options);
  static_cast<void>(loader.begin());
  std::optional<WorkerError> error;
  ASSERT_TRUE(eventually([&] {
    error = error_of_pass(loader);
    return error.has_value();
  }));
  EXPECT_EQ(error->worker(), 1);
  EXPECT_EQ(error->exit_status(), 1);
  EXPECT_NE(error->original_message().find("worker_init failed: no licence"), std::string::npos);
}

TEST_F(WorkerFailureTest, SlowSampleDoesNotDelayTheDestructor) {
  const auto start = Clock::now();
  {
    DataLoader loader(
        numbers_that(0, [] { std::this_thread::sleep_for(std::chrono::seconds(600)); }),
        in_order(20), options_with(2));
    static_cast<void>(loader.begin());
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(100));
}

// The rank is a child of this test. It must take its workers along, whatever they are doing.
TEST_F(WorkerFailureTest, WorkersDieWithAKilledRank) {
  for (const bool in_thread : {false, true}) {
    std::array<int, 2> pipe{};
    ASSERT_EQ(::pipe(pipe.data()), 0);
    const pid_t rank = ::fork();
    if (rank == 0) {
      std::unique_ptr<DataLoader<Numbers>> loader;
      const auto build = [&] {
        auto dataset =
            numbers_that(9, [] { std::this_thread::sleep_for(std::chrono::seconds(60)); });
        loader = std::make_unique<DataLoader<Numbers>>(dataset, in_order(20), options_with(3));
      };
      if (in_thread)
        std::thread(build).join();
      else
        build();
      auto it = loader->begin();
      static_cast<void>(*it);
      std::vector<int> pids;
      eventually([&] { return (pids = descendants(::getpid())).size() == 4; });
      const auto bytes = pids.size() * sizeof(int);
      if (::write(pipe[1], pids.data(), bytes) != static_cast<ssize_t>(bytes)) ::_exit(1);
      for (;;) ::pause();
    }
    std::array<int, 8> pids{};
    const auto got = ::read(pipe[0], pids.data(), sizeof(pids));
    EXPECT_EQ(got, static_cast<ssize_t>(4 * sizeof(int)));  // a fork server and three workers
    ::kill(rank, SIGKILL);
    const auto killed = Clock::now();
    EXPECT_TRUE(eventually([&] {
      return std::all_of(pids.begin(), pids.begin() + got / static_cast<ssize_t>(sizeof(int)),
                         is_gone);
    }));
    RecordProperty("seconds_until_gone",
                   std::to_string(std::chrono::duration<double>(Clock::now() - killed).count()));
    ::waitpid(rank, nullptr, 0);
    ::close(pipe[0]);
    ::close(pipe[1]);
  }
}

}  // namespace
}  // namespace lockstep::data
