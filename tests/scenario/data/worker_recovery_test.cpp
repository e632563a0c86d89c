// SPDX-License-Identifier: BSD-3-Clause
// Workers that die, hang or grow: they are replaced, and the stream stays what it was.
#include <lockstep/data/loader/worker_error.h>

#include <atomic>
#include <csignal>
#include <numeric>
#include <thread>

#include "native/posix/process_memory.h"
#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using WorkerRecoveryTest = NothingLeftBehind;

torch::Tensor stream_of(std::int64_t workers, const std::function<void(std::size_t)>& before) {
  Numbers dataset{600};
  dataset.before = before;
  DataLoader loader(dataset, DistributedSampler(600, 1, 0, DistributedSamplerOptions().seed(3)),
                    options_with(workers, 7));
  std::vector<torch::Tensor> all;
  for (auto& batch : loader) all.push_back(torch::cat({batch.data.flatten(), batch.target}));
  return torch::cat(all);
}

TEST_F(WorkerRecoveryTest, WorkersKilledAtRandomChangeNothing) {
  const auto expected = stream_of(0, [](std::size_t) {});
  SharedCounters begun;
  std::atomic<int>& all_begun = begun.words[600];
  const RandomKiller killer(3, all_begun);
  // Quick when it is done again: two kills at the same sample would be the sample's fault.
  EXPECT_TRUE(eventually([&] {  // again where the killer had too little time
    for (std::size_t index = 0; index < 600; ++index) begun.words[index] = 0;
    const auto found = stream_of(3, [&](std::size_t index) {
      ++all_begun;
      if (++begun.words[index] == 1) std::this_thread::sleep_for(std::chrono::microseconds(1500));
    });
    EXPECT_TRUE(torch::equal(found, expected));
    return killer.kills() >= 3;
  }));
}

// The first sample's worker dies and cannot start again, while the other one waits, with a later
// sample, for what the first one says of the layout.
template <class Loader>
WholePass pass_that_loses_a_worker(const std::function<Loader(Numbers, DataLoaderOptions)>& make,
                                   std::int64_t batch_size) {
  SharedCounters words;
  enum : std::size_t { kFirstBegun, kOtherBegun, kHasDied };
  Numbers dataset{12};
  dataset.before = [&](std::size_t index) {
    if (index == 1) ++words.words[kOtherBegun];
    if (index != 0 || ++words.words[kFirstBegun] > 1) return;
    eventually([&] { return words.words[kOtherBegun] > 0; });
    words.words[kHasDied] = 1;
    ::raise(SIGKILL);
  };
  const auto init = [&](std::size_t) {
    if (words.words[kHasDied] != 0) throw std::runtime_error("no licence is left");
  };
  auto loader =
      make(dataset, options_with(2, batch_size).worker_init(init).prepare_next_epoch(false));
  auto pass = pass_over_errors(loader);
  // That no worker takes its place may be known later only.
  eventually([&] {
    if (pass.errors.empty()) pass.errors = pass_over_errors(loader).errors;
    return !pass.errors.empty();
  });
  return pass;
}

TEST_F(WorkerRecoveryTest, WhoWaitsForALostWorkersSampleFetchesItItself) {
  const auto rows = [](Numbers dataset, DataLoaderOptions options) {
    return DataLoader(dataset, in_order(12), options);
  };
  const auto whole = [](Numbers dataset, DataLoaderOptions options) {
    return DataLoader(dataset, in_order(12), options, [](Samples s) { return stack(s); });
  };
  const auto check = [](const auto& make, std::int64_t batch_size) {
    using Loader = decltype(make(Numbers{}, DataLoaderOptions()));
    const auto pass = pass_that_loses_a_worker<Loader>(make, batch_size);
    EXPECT_EQ(pass.batches, 12 / batch_size) << batch_size;
    ASSERT_EQ(pass.errors.size(), 1U) << batch_size;
    EXPECT_NE(std::string(pass.errors[0].what()).find("no licence is left"), std::string::npos)
        << pass.errors[0].what();
  };
  check(rows, 4);   // of the same batch
  check(rows, 1);   // of another
  check(whole, 1);  // and with a batch that is built as a whole
}

TEST_F(WorkerRecoveryTest, SampleThatKillsOnceIsDoneAgain) {
  SharedCounters seen;
  for (const int signal : {SIGKILL, SIGSEGV, SIGABRT}) {
    for (const std::size_t bad : {0U, 9U}) {
      seen.words[bad] = 0;
      Numbers dataset{20};
      dataset.before = [&, signal, bad](std::size_t index) {
        if (index != bad || ++seen.words[index] > 1) return;
        ::signal(signal, SIG_DFL);
        ::raise(signal);
      };
      DataLoader loader(dataset, in_order(20), options_with(2).prepare_next_epoch(false));
      std::int64_t expected = 0;
      for (auto& batch : loader) {
        for (int row = 0; row < 4; ++row) {
          EXPECT_EQ(batch.target[row].item<std::int64_t>(), expected++);
        }
      }
      EXPECT_EQ(expected, 20);
      EXPECT_EQ(seen.words[bad], 2);
      EXPECT_EQ(loader.statistics().restarts, 1U);
    }
  }
}

TEST_F(WorkerRecoveryTest, PoisonSampleIsNamedAfterTwoWorkers) {
  SharedCounters seen;
  struct Named : Numbers {
    std::string describe(std::size_t index) const {
      return "/pictures/" + std::to_string(index) + ".jpg";
    }
  };
  Named dataset;
  dataset.before = [&](std::size_t index) {
    if (index == 9 && ++seen.words[0] > 0) ::raise(SIGKILL);
  };
  DataLoader loader(dataset, in_order(20), options_with(2).prepare_next_epoch(false));
  const auto error = error_of_pass(loader);
  ASSERT_TRUE(error);
  EXPECT_EQ(seen.words[0], 2);
  EXPECT_EQ(error->signal(), SIGKILL);
  EXPECT_EQ(error->sample_path(), "/pictures/9.jpg");
  EXPECT_NE(std::string(error->what())
                .find("was killed by signal 9 (Killed), as one before it, at sample 9 "
                      "(/pictures/9.jpg) of batch 2"),
            std::string::npos)
      << error->what();
}

TEST_F(WorkerRecoveryTest, PoisonSamplesCanBeLeftOut) {
  Numbers dataset{20};
  dataset.before = [](std::size_t index) {
    // One in a batch, the first of a batch, and a whole batch.
    if (index == 1 || index == 4 || index / 4 == 3) ::raise(SIGKILL);
  };
  const auto rows = [](auto& loader) {
    std::vector<std::vector<std::int64_t>> result;
    for (auto& batch : loader) {
      std::vector<std::int64_t> targets;
      for (std::int64_t row = 0; row < batch.target.size(0); ++row) {
        targets.push_back(batch.target[row].template item<std::int64_t>());
        EXPECT_FLOAT_EQ(batch.data[row][0][0].template item<float>(),
                        static_cast<float>(targets.back()) / 3);
      }
      result.push_back(targets);
    }
    return result;
  };
  const std::vector<std::vector<std::int64_t>> expected{
      {0, 2, 3}, {5, 6, 7}, {8, 9, 10, 11}, {16, 17, 18, 19}};
  const auto options = options_with(2).on_poison_sample(PoisonPolicy::Skip);
  DataLoader stacked(dataset, in_order(20), options);
  EXPECT_EQ(rows(stacked), expected);
  EXPECT_EQ(stacked.statistics().skipped_samples, 6U);
  // The same where a batch is built as a whole.
  DataLoader collated(dataset, in_order(20), options,
                      [](std::vector<torch::data::Example<>> samples) {
                        return torch::data::transforms::Stack<>().apply_batch(std::move(samples));
                      });
  EXPECT_EQ(rows(collated), expected);
  EXPECT_EQ(collated.statistics().skipped_samples, 6U);
}

TEST_F(WorkerRecoveryTest, HangingAndStoppedWorkersAreReplaced) {
  for (const bool stopped : {false, true}) {
    // All samples but one must come within the timeout.
    expect_with_some_limit([stopped](std::chrono::milliseconds timeout) -> std::string {
      SharedCounters seen;
      Numbers dataset{20};
      dataset.before = [&](std::size_t index) {
        if (index != 9 || ++seen.words[0] > 1) return;
        if (stopped) ::raise(SIGSTOP);
        std::this_thread::sleep_for(std::chrono::seconds(600));
      };
      DataLoader loader(dataset, in_order(20), options_with(2).timeout(timeout));
      const auto pass = targets_of(loader);
      if (!pass.errors.empty()) return pass.errors[0].what();
      std::vector<std::int64_t> expected(20);
      std::iota(expected.begin(), expected.end(), 0);
      return pass.samples == expected ? "" : "other samples came";
    });
  }
}

// A worker has as much as this process when it starts.
std::int64_t own_memory() {
  return static_cast<std::int64_t>(native::anonymous_memory_of(::getpid()));
}

TEST_F(WorkerRecoveryTest, WorkersThatGrowAreReplacedWithoutLoss) {
  static std::vector<std::string> leak;  // each worker has its own
  Numbers dataset{200};
  dataset.before = [](std::size_t) {
    // Beyond the limit, and not to half as much again, where a worker is killed at once.
    if (leak.size() < 48) leak.emplace_back(std::size_t{1} << 20, 'x');
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  };
  DataLoader loader(dataset, in_order(200),
                    options_with(2).worker_memory_limit(own_memory() + (std::int64_t{40} << 20)));
  EXPECT_TRUE(eventually([&] {  // whoever looks at their memory may come late
    std::int64_t samples = 0;
    for (auto& batch : loader) samples += batch.target.size(0);
    EXPECT_EQ(samples, 200);
    return loader.statistics().restarts >= 1;
  }));
  EXPECT_EQ(leak.size(), 0U);
  EXPECT_EQ(loader.statistics().lost_batches, 0U);
}

TEST_F(WorkerRecoveryTest, SampleThatIsTooLargeForTheLimitIsNamed) {
  const auto limit = own_memory() + (std::int64_t{64} << 20);
  Numbers dataset{20};
  dataset.before = [limit](std::size_t index) {
    if (index != 5) return;
    std::vector<std::string> hoard;
    for (;;) {
      // Until it is beyond what may be, and not beyond what the machine has.
      const bool is_enough = own_memory() > 2 * limit;
      if (!is_enough) hoard.emplace_back(std::size_t{8} << 20, 'x');
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  };
  DataLoader loader(dataset, in_order(20), options_with(1).worker_memory_limit(limit));
  const auto error = error_of_pass(loader);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->failure(), WorkerFailure::OutOfMemory) << error->what();
  EXPECT_EQ(error->sample_index(), 5);
}

TEST_F(WorkerRecoveryTest, IdleWorkersDeathCostsNothing) {
  DataLoader loader(Numbers{400}, in_order(400), options_with(2));
  auto it = loader.begin();
  static_cast<void>(*it);
  ASSERT_TRUE(eventually([&] { return workers_of_this_process().size() == 2; }));
  const int victim = workers_of_this_process()[0];
  ASSERT_EQ(::kill(victim, SIGKILL), 0);
  ASSERT_TRUE(eventually([&] { return !process(victim); }));
  ASSERT_TRUE(eventually([&] { return loader.statistics().restarts == 1; }));
  int batches = 0;
  for (; it != loader.end(); ++it) batches += it->data.defined();
  EXPECT_EQ(batches, 100);
}

}  // namespace
}  // namespace lockstep::data
