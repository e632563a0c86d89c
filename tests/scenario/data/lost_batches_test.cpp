// SPDX-License-Identifier: BSD-3-Clause
// A batch that the program does not get is one WorkerError at its turn, with the number of that
// batch, and is counted: for every kind and number of workers, whatever is to blame.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <lockstep/core/logging.h>

#include <atomic>
#include <set>
#include <string_view>

#include "unit/data/loader/sample_policy_support.h"

namespace lockstep::data {
namespace {

using LostBatchesTest = NothingLeftBehind;
using std::chrono::milliseconds;

std::vector<DataLoaderOptions> kinds_of_workers() {
  return {options_with(0), options_with(1), options_with(3),
          options_with(2).kind(WorkerKind::Thread)};
}

std::string name_of(const DataLoaderOptions& options) {
  return std::to_string(options.workers()) + " workers of kind " +
         std::to_string(static_cast<int>(options.kind()));
}

// The program makes an error of each warning.
struct ThrowingSink {
  ThrowingSink() {
    set_log_sink([](logging::Level level, std::string_view) {
      if (level == logging::Level::Warning) throw std::runtime_error("no warnings, please");
    });
  }
  ~ThrowingSink() { set_log_sink({}); }
  ThrowingSink(const ThrowingSink&) = delete;
  ThrowingSink& operator=(const ThrowingSink&) = delete;
};

// One error, of this batch, and everything else is there.
template <class Loader>
void expect_one_lost(Loader& loader, const Targets& pass, std::int64_t batch,
                     std::string_view text) {
  ASSERT_EQ(pass.errors.size(), 1U);
  EXPECT_EQ(pass.errors[0].batch_index(), batch);
  EXPECT_NE(std::string_view(pass.errors[0].what()).find(text), std::string_view::npos)
      << pass.errors[0].what();
  EXPECT_EQ(loader.statistics().lost_batches, 1U);
  EXPECT_EQ(loader.statistics().samples, pass.samples.size());
}

// 23 samples in batches of 4. In the third batch one sample is broken, or all of them.
TEST_F(LostBatchesTest, WarningThatThrowsCostsItsBatch) {
  const std::vector<std::set<std::size_t>> cases{{9}, {8, 9, 10, 11}};
  for (const auto& broken : cases) {
    for (const auto policy : {SamplePolicy::Skip, SamplePolicy::Replace}) {
      for (const auto& options : kinds_of_workers()) {
        SCOPED_TRACE(name_of(options) + ", broken " + std::to_string(broken.size()));
        DataLoader loader(BrokenNumbers{broken}, in_order(kBrokenCount),
                          DataLoaderOptions(options).on_failed_sample(policy));
        {
          const ThrowingSink sink;
          const auto pass = targets_of(loader);
          expect_one_lost(loader, pass, 2, "no warnings, please");
          EXPECT_EQ(pass.samples.size(), 19U);
          EXPECT_EQ(loader.statistics().batches, 5U);
          EXPECT_EQ(loader.statistics().skipped_samples, 0U);
          EXPECT_EQ(loader.statistics().replaced_samples, 0U);
        }
        // There is one warning a loader, so nothing is lost any more.
        const auto pass = targets_of(loader);
        EXPECT_TRUE(pass.errors.empty());
        EXPECT_EQ(pass.samples.size(),
                  policy == SamplePolicy::Skip ? 23 - broken.size() : std::size_t{23});
      }
    }
  }
}

// Shard s has 3 + 5 s samples, numbered from 100 s upwards.
struct UnevenShards {
  std::set<std::int64_t> broken = {};
  std::size_t shard = 0;
  std::int64_t at = 0;

  void reset(std::size_t number, std::size_t, std::int64_t) {
    shard = number;
    at = 0;
  }
  std::optional<torch::data::Example<>> next() {
    if (at == static_cast<std::int64_t>(3 + 5 * shard)) return std::nullopt;
    const auto value = static_cast<std::int64_t>(100 * shard) + at++;
    if (broken.contains(value)) throw std::runtime_error("torn line");
    return torch::data::Example<>(torch::full({2}, value), torch::tensor(value));
  }
};

TEST_F(LostBatchesTest, WarningThatThrowsCostsItsBatchOfAShard) {
  // The batches begin with 0, 100, 200, 104, 204, 208, 212.
  const std::vector<std::pair<std::int64_t, std::int64_t>> cases{{105, 3}, {205, 4}, {212, 6}};
  for (const auto& [broken, batch] : cases) {
    for (const auto& options : kinds_of_workers()) {
      SCOPED_TRACE(name_of(options) + ", broken " + std::to_string(broken));
      const ThrowingSink sink;
      DataLoader loader(UnevenShards{{broken}},
                        DataLoaderOptions(options).shards(3).on_failed_sample(SamplePolicy::Skip));
      const auto pass = targets_of(loader);
      expect_one_lost(loader, pass, batch, "no warnings, please");
      // The lost batch has three samples, four or none, and the shard goes on behind it.
      EXPECT_EQ(pass.samples.size(), broken == 212 ? 23U : broken == 105 ? 20U : 19U);
      EXPECT_EQ(loader.statistics().skipped_samples, 0U);
    }
  }
}

// Workers are given tasks beyond the end of a shard, before they know of it. These are no batches.
TEST_F(LostBatchesTest, BatchesOfShardsAreNumberedAsTheyCome) {
  const std::vector<std::pair<std::int64_t, std::int64_t>> cases{
      {1, 0}, {107, 3}, {205, 4}, {209, 5}, {212, 6}};
  for (const auto& [broken, batch] : cases) {
    for (auto options : kinds_of_workers()) {
      for (const int prefetch : {1, 4}) {
        SCOPED_TRACE(name_of(options) + ", broken " + std::to_string(broken));
        DataLoader loader(UnevenShards{{broken}}, options.shards(3).prefetch_batches(prefetch));
        for (int pass = 0; pass < 2; ++pass) {
          const auto targets = targets_of(loader);
          ASSERT_EQ(targets.errors.size(), 1U);
          EXPECT_EQ(targets.errors[0].batch_index(), batch);
        }
      }
    }
  }
}

// LibTorch's allocator, which has no memory for one thread while the test says so.
class ScarceMemory : public c10::Allocator {
 public:
  ScarceMemory() { c10::SetCPUAllocator(this); }
  ~ScarceMemory() override { c10::SetCPUAllocator(&real_); }
  ScarceMemory(const ScarceMemory&) = delete;
  ScarceMemory& operator=(const ScarceMemory&) = delete;

  c10::DataPtr allocate(std::size_t bytes) override {
    TORCH_CHECK(hungry_ != std::this_thread::get_id(), "no memory for ", bytes, " bytes");
    return real_.allocate(bytes);
  }
  [[nodiscard]] c10::DeleterFnPtr raw_deleter() const override { return real_.raw_deleter(); }
  void copy_data(void* target, const void* source, std::size_t bytes) const override {
    real_.copy_data(target, source, bytes);
  }
  void end() { hungry_ = std::this_thread::get_id(); }
  void come_back() { hungry_ = std::thread::id(); }

 private:
  c10::Allocator& real_ = *c10::GetCPUAllocator();
  std::atomic<std::thread::id> hungry_{};
};

// So many batches are kept that further ones are copied; then there is no memory for a copy.
TEST_F(LostBatchesTest, BatchThatCannotBeCopiedIsLost) {
  for (const auto& options : kinds_of_workers()) {
    SCOPED_TRACE(name_of(options));
    ScarceMemory memory;
    DataLoader loader(Numbers{60}, in_order(60), DataLoaderOptions(options).prefetch_batches(1));
    std::vector<torch::data::Example<>> kept;
    std::vector<WorkerError> errors;
    for (auto it = loader.begin(); it != loader.end(); ++it) {
      const bool is_scarce = kept.size() == 9 && errors.empty();
      if (is_scarce) memory.end();
      try {
        kept.push_back(*it);
      } catch (const WorkerError& error) {
        errors.push_back(error);
      }
      memory.come_back();
    }
    ASSERT_EQ(errors.size(), 1U);
    EXPECT_EQ(errors[0].batch_index(), 9);
    EXPECT_NE(errors[0].original_message().find("no memory for"), std::string::npos);
    EXPECT_EQ(errors[0].exception_type(), "c10::Error");
    EXPECT_EQ(kept.size(), 14U);
    EXPECT_EQ(loader.statistics().lost_batches, 1U);
    EXPECT_EQ(loader.statistics().batches, 14U);
    EXPECT_EQ(loader.statistics().samples, 56U);
    EXPECT_EQ(kept.back().target[3].item<std::int64_t>(), 59);
  }
}

// One wait in vain takes the timeout, two take twice as long.
template <class Dataset>
std::string wait_for_a_thread_that_hangs(const Dataset& dataset, const DataLoaderOptions& options,
                                         std::atomic<bool>& is_over) {
  DataLoader loader(dataset, DataLoaderOptions(options).kind(WorkerKind::Thread).workers(1));
  const auto error = error_of_pass(loader);
  is_over = true;
  if (!error || error->failure() != WorkerFailure::TimedOut) return "there is no such error";
  const double stall = loader.statistics().stall_seconds;
  const double limit = std::chrono::duration<double>(options.timeout()).count();
  return stall < 2 * limit ? "" : "waited for " + std::to_string(stall) + " s";
}

TEST_F(LostBatchesTest, ThreadThatHangsIsWaitedForOnce) {
  struct HangingStream {
    std::atomic<bool>* is_over;
    void reset(std::size_t, std::size_t, std::int64_t) {}
    std::optional<torch::Tensor> next() {
      while (!*is_over) std::this_thread::sleep_for(milliseconds(1));
      return std::nullopt;
    }
  };
  expect_with_some_limit([](milliseconds timeout) {
    std::atomic<bool> is_over{false};
    return wait_for_a_thread_that_hangs(HangingStream{&is_over}, options_with(1).timeout(timeout),
                                        is_over);
  });
  expect_with_some_limit([](milliseconds timeout) {
    std::atomic<bool> is_over{false};
    Numbers dataset;
    dataset.before = [&is_over](std::size_t) {
      while (!is_over) std::this_thread::sleep_for(milliseconds(1));
    };
    return wait_for_a_thread_that_hangs(
        dataset, options_with(1).timeout(timeout).on_failed_sample(SamplePolicy::Skip), is_over);
  });
}

}  // namespace
}  // namespace lockstep::data
