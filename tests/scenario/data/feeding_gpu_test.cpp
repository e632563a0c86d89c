// SPDX-License-Identifier: BSD-3-Clause
// Feeding a real GPU; skipped where there is none.
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <lockstep/data/loader/device_prefetcher.h>
#include <torch/cuda.h>

#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

// Large enough that a copy takes longer than it takes to enqueue one.
struct Blocks {
  static constexpr std::int64_t kValues = 1 << 20;
  std::size_t count = 64;
  torch::data::Example<> get(std::size_t index) {
    return {torch::full({kValues}, static_cast<double>(index), torch::kFloat),
            torch::tensor(static_cast<std::int64_t>(index))};
  }
  std::size_t size() const { return count; }
};

class FeedingAGpu : public NothingLeftBehind {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "this machine has no GPU";
    torch::zeros({1},
                 torch::TensorOptions(device_));  // CUDA's own descriptors are open from here on
    NothingLeftBehind::SetUp();
  }
  void TearDown() override {
    if (!IsSkipped()) NothingLeftBehind::TearDown();
  }
  static DataLoaderOptions pinned(std::int64_t workers) {
    return options_with(workers).pin_memory(true);
  }
  // Keeps the stream busy for some hundredths of a second.
  void keep_busy() const {
    auto matrix = torch::ones({4096, 4096}, torch::TensorOptions(device_)) / 4096;
    for (int i = 0; i < 10; ++i) matrix = matrix.mm(matrix);
  }

  c10::Device device_{c10::kCUDA, 0};
};

TEST_F(FeedingAGpu, EveryTensorIsPinned) {
  for (const auto& options : {pinned(0), pinned(2), pinned(1).kind(WorkerKind::Thread)}) {
    DataLoader loader(Numbers{60}, in_order(60), options);
    std::vector<torch::data::Example<>> kept;
    for (auto& batch : loader) {
      EXPECT_TRUE(batch.data.is_pinned() && batch.target.is_pinned());
      kept.push_back(batch);
    }
  }
}

TEST_F(FeedingAGpu, NothingIsOverwrittenDuringItsCopy) {
  DataLoader loader(Blocks{}, in_order(64), pinned(2));
  std::vector<torch::Tensor> sums;
  for (int epoch = 0; epoch < 4; ++epoch) {
    for (auto& batch : loader) {
      keep_busy();  // so that the copy begins long after the batch is let go of
      const auto data = batch.data.to(device_, /*non_blocking=*/true);
      const auto target = batch.target.to(device_, /*non_blocking=*/true);
      sums.push_back((data == target.to(torch::kFloat).unsqueeze(1)).all());
    }
  }
  EXPECT_TRUE(torch::stack(sums).all().item<bool>());
}

TEST_F(FeedingAGpu, PrefetchedBatchesAreRightAndTheRingSurvivesTheLoader) {
  std::vector<torch::Tensor> right;
  for (const auto& options : {pinned(0), pinned(2), options_with(2)}) {
    DataLoader loader(Blocks{}, in_order(64), options);
    for (int epoch = 0; epoch < 3; ++epoch) {
      std::int64_t first = 0;
      for (auto& batch : DevicePrefetcher(loader, device_)) {
        EXPECT_EQ(batch.data.device(), device_);
        keep_busy();
        const auto expected = torch::arange(first, first + 4, batch.target.options());
        right.push_back((batch.target == expected).all() &
                        (batch.data == expected.to(torch::kFloat).unsqueeze(1)).all());
        first += 4;
        if (epoch == 2 && first == 32) break;  // copies are under way when the loader goes
      }
    }
  }
  EXPECT_TRUE(torch::stack(right).all().item<bool>());
}

TEST_F(FeedingAGpu, TheProgramIsAlwaysAheadOfTheDevice) {
  DataLoader loader(Blocks{}, in_order(64), pinned(2));
  const auto stream = c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(device_);
  std::optional<c10::Event> used;
  std::size_t ahead = 0;
  for (auto& batch : DevicePrefetcher(loader, device_)) {
    // Nobody has waited until the batch before this one was used up.
    if (used) ahead += !used->query();
    for (int i = 0; i < 5; ++i) keep_busy();
    static_cast<void>(batch.data.sum());
    used.emplace(c10::kCUDA);
    used->record(stream);
  }
  EXPECT_GT(ahead, 0U);
  EXPECT_TRUE(eventually([&] { return used->query(); }));
}

}  // namespace
}  // namespace lockstep::data
