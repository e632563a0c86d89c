// SPDX-License-Identifier: BSD-3-Clause
// What the rank waits for, for how long, and what it says when that is in vain.
#include <sys/resource.h>

#include <algorithm>
#include <csignal>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

using WorkerPatienceTest = NothingLeftBehind;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

struct SlowLines {
  milliseconds each{0};
  std::size_t at = 0;

  void reset(std::size_t, std::size_t, std::int64_t) { at = 0; }
  std::optional<torch::data::Example<>> next() {
    if (at == 12) return std::nullopt;
    std::this_thread::sleep_for(each);
    const auto value = static_cast<std::int64_t>(at++);
    return torch::data::Example<>(torch::full({2}, value), torch::tensor(value));
  }
};

TEST_F(WorkerPatienceTest, StreamWithoutAWorkerIsNotWaitedFor) {
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    const auto start = Clock::now();
    DataLoader loader(SlowLines{},
                      options_with(2).kind(kind).shards(2).worker_init(
                          [](std::size_t) { throw std::runtime_error("no licence"); }));
    const auto pass = pass_over_errors(loader);
    EXPECT_EQ(pass.batches, 0);
    EXPECT_GE(pass.errors.size(), 2U);
    for (const auto& error : pass.errors) {
      EXPECT_NE(std::string(error.what()).find("no licence"), std::string::npos) << error.what();
    }
    EXPECT_LT(Clock::now() - start, std::chrono::seconds(60));  // the timeout is 120 s
  }
}

TEST_F(WorkerPatienceTest, WaitingForAStreamIsAStall) {
  for (const int workers : {0, 1}) {
    const auto attempt = [&](milliseconds each) {
      DataLoader loader(SlowLines{each}, options_with(workers).shards(1));
      for (const auto& batch : loader) static_cast<void>(batch);
      const double share = loader.statistics().stall_share();
      return share > 0.5 ? "" : "the share is " + std::to_string(share);
    };
    expect_with_some_limit(attempt, milliseconds(5));
  }
}

TEST_F(WorkerPatienceTest, ThreadThatIsStillAtAnotherPassIsNotHanging) {
  // Two samples are a batch, and take longer than the timeout; one is quicker than that.
  expect_with_some_limit([](milliseconds timeout) -> std::string {
    std::atomic<int> begun{0};
    Numbers dataset{12};
    dataset.before = [&begun, timeout](std::size_t) {
      ++begun;
      std::this_thread::sleep_for(timeout * 6 / 10);
    };
    DataLoader loader(
        dataset, in_order(12),
        options_with(1, 2).kind(WorkerKind::Thread).prepare_next_epoch(false).timeout(timeout));
    static_cast<void>(*loader.begin());
    if (!eventually([&] { return begun > 2; })) return "the second batch was not begun";
    const auto pass = pass_over_errors(loader);
    if (!pass.errors.empty()) return pass.errors[0].what();
    return pass.batches == 6 ? "" : std::to_string(pass.batches) + " batches";
  });
}

TEST_F(WorkerPatienceTest, SlowWorkerInitIsNamed) {
  DataLoader loader(Numbers{4}, in_order(4),
                    options_with(1).timeout(milliseconds(200)).worker_init([](std::size_t) {
                      std::this_thread::sleep_for(std::chrono::seconds(600));
                    }));
  const auto error = error_of_pass(loader);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->failure(), WorkerFailure::TimedOut);
  EXPECT_NE(std::string(error->what()).find("not ready for its first sample within 0.2 s"),
            std::string::npos)
      << error->what();
}

// Indices beyond the dataset from position 14 on.
struct BadSampler {
  [[nodiscard]] std::size_t size() const { return 20; }
  [[nodiscard]] std::size_t dataset_size() const { return 20; }
  void set_epoch(std::int64_t) {}
  [[nodiscard]] std::int64_t index(std::size_t position) const {
    return position >= 14 ? 1000 : static_cast<std::int64_t>(position);
  }
};

TEST_F(WorkerPatienceTest, ErrorOfTheSamplerComesAtItsBatchsTurn) {
  for (const int workers : {0, 1, 3}) {
    DataLoader loader(Numbers{20}, BadSampler{}, options_with(workers));
    int batches = 0;
    const auto message = message_of([&] {
      for (auto& batch : loader) batches += batch.target.size(0) == 4;
    });
    EXPECT_EQ(batches, 3) << workers;
    EXPECT_NE(message.find("index 1000 in batch 3"), std::string::npos) << message;
    EXPECT_EQ(loader.statistics().batches, 3U);
  }
}

// A worker dies over a batch that is too large for a slot; made again, it fits one.
TEST_F(WorkerPatienceTest, MemoryOfABatchThatWasNeverFinishedIsNotRead) {
  SharedCounters deaths;
  const auto collate = [&](Samples samples) {
    const auto first = samples[0].target.item<std::int64_t>();
    if (first != 4 || ++deaths.words[0] > 1) return stack(std::move(samples));
    // Long to copy: the worker dies over it.
    const torch::data::Example<> large(torch::full({50'000'000}, 7.F),
                                       torch::full({4}, static_cast<std::int64_t>(4)));
    std::thread([] {
      std::this_thread::sleep_for(milliseconds(20));
      ::raise(SIGKILL);
    }).detach();
    return large;
  };
  DataLoader loader(Numbers{12}, in_order(12), options_with(1).prepare_next_epoch(false), collate);
  std::int64_t samples = 0;
  for (auto& batch : loader) {
    EXPECT_EQ(batch.data.sizes(), (std::vector<std::int64_t>{4, 2, 3}));
    samples += batch.target.size(0);
  }
  EXPECT_EQ(samples, 12);
}

// A limit of this process and its children, for the time of a test.
class Limit {
 public:
  Limit(decltype(RLIMIT_AS) what, rlim_t bytes) : what_(what) {
    ::getrlimit(what_, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(what_, &limit);
  }
  ~Limit() { ::setrlimit(what_, &before_); }
  Limit(const Limit&) = delete;
  Limit& operator=(const Limit&) = delete;

 private:
  decltype(RLIMIT_AS) what_;
  rlimit before_{};
};

TEST_F(WorkerPatienceTest, RingThatMayNotGrowIsAnError) {
  struct Wide {
    torch::data::Example<> get(std::size_t index) {
      const auto value = static_cast<std::int64_t>(index);
      return {torch::full({1 << 18}, value), torch::tensor(value)};
    }
    std::size_t size() const { return 8; }
  };
  const Limit limit(RLIMIT_FSIZE, 1 << 20);
  DataLoader loader(Wide{}, in_order(8), options_with(2));
  const auto pass = pass_over_errors(loader);
  EXPECT_EQ(pass.batches, 0);
  ASSERT_EQ(pass.errors.size(), 2U);
  EXPECT_NE(std::string(pass.errors[0].what()).find("fallocate failed, wanted"), std::string::npos)
      << pass.errors[0].what();
  EXPECT_EQ(loader.statistics().restarts, 0U);
}

#if !defined(__SANITIZE_ADDRESS__)  // which needs the addresses for itself
TEST_F(WorkerPatienceTest, BatchThatCannotBeMappedIsLostAndTheNextOnesCome) {
  struct Uneven {
    torch::Tensor get(std::size_t index) {
      return torch::full({index == 6 ? 40'000'000 : 10}, static_cast<double>(index));
    }
    std::size_t size() const { return 20; }
  };
  DataLoader loader(Uneven{}, in_order(20), options_with(1).prepare_next_epoch(false),
                    [](std::vector<torch::Tensor> samples) { return samples; });
  auto it = loader.begin();
  static_cast<void>(*it);
  std::ifstream file("/proc/self/statm");
  rlim_t pages = 0;
  file >> pages;
  const Limit limit(RLIMIT_AS, pages * 4096 + (64 << 20));
  std::vector<WorkerError> errors;
  int batches = 1;
  for (++it; it != loader.end(); ++it) {
    try {
      static_cast<void>(*it);
      ++batches;
    } catch (const WorkerError& error) {
      errors.push_back(error);
    }
  }
  EXPECT_EQ(batches, 4);
  ASSERT_EQ(errors.size(), 1U);
  EXPECT_EQ(errors[0].batch_index(), 1);
  EXPECT_NE(std::string(errors[0].what()).find("mmap failed, wanted"), std::string::npos)
      << errors[0].what();
}
#endif

}  // namespace
}  // namespace lockstep::data
