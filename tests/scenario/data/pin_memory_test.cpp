// SPDX-License-Identifier: BSD-3-Clause
// DataLoaderOptions::pin_memory: what is pinned, and that nothing is overwritten while a device
// still reads it.
#include <c10/core/StreamGuard.h>

#include "unit/data/loader/feeding_test_support.h"

namespace lockstep::data {
namespace {

using PinMemoryTest = FeedingTest;

TEST_F(PinMemoryTest, EveryTensorOfEveryBatchIsPinned) {
  for (const auto& options :
       {pinned(0), pinned(2), pinned(2).kind(WorkerKind::Thread), pinned(1).prefetch_batches(1)}) {
    DataLoader loader(Numbers{60}, in_order(60), options);
    std::vector<torch::data::Example<>> kept;  // so many that copies are among them
    for (auto& batch : loader) {
      EXPECT_TRUE(batch.data.is_pinned() && batch.target.is_pinned()) << kept.size();
      EXPECT_EQ(batch.target[0].item<std::int64_t>(), static_cast<std::int64_t>(4 * kept.size()));
      kept.push_back(batch);
    }
    EXPECT_EQ(kept.size(), 15U);
    EXPECT_EQ(loader.statistics().copies > 0, options.workers() > 0);
    for (std::size_t i = 0; i < kept.size(); ++i) {
      EXPECT_EQ(kept[i].target[3].item<std::int64_t>(), static_cast<std::int64_t>(4 * i + 3));
    }
    kept.clear();
    gpu.run_all();
  }
}

TEST_F(PinMemoryTest, SoAreTreesAndBatchesThatDoNotFit) {
  for (const auto& options : {pinned(0), pinned(2), pinned(1).kind(WorkerKind::Thread)}) {
    DataLoader loader(Pictures{}, options);
    std::size_t first = 0;
    for (auto& batch : loader) {
      const auto image = batch.at("image").tensor();
      EXPECT_TRUE(image.is_pinned()) << first;
      EXPECT_EQ(image[1][3].item<float>(), static_cast<float>(first + 1));
      EXPECT_EQ(batch.at("caption")[2].string(), "picture " + std::to_string(first + 2));
      first += 4;
    }
    EXPECT_EQ(first, 24U);
    EXPECT_EQ(loader.statistics().oversize, options.workers() == 0 ? 0U : 4U);
  }
}

TEST_F(PinMemoryTest, IterableDatasetsToo) {
  struct Stream {
    std::int64_t at = 0;
    void reset(std::size_t, std::size_t, std::int64_t) { at = 0; }
    std::optional<torch::Tensor> next() {
      if (at == 10) return std::nullopt;
      return torch::full({3}, at++);
    }
  };
  for (const auto workers : {0, 1}) {
    DataLoader loader(Stream{}, pinned(workers));
    std::int64_t rows = 0;
    for (auto& batch : loader) {
      EXPECT_TRUE(batch.is_pinned());
      EXPECT_EQ(batch[0][0].item<std::int64_t>(), rows);
      rows += batch.size(0);
    }
    EXPECT_EQ(rows, 10);
  }
}

TEST_F(PinMemoryTest, TheRingIsPinnedOnceForItsLife) {
  torch::Tensor kept;
  {
    DataLoader loader(Numbers{40}, in_order(40), pinned(2));
    EXPECT_EQ(gpu.pins, 0U) << "its size is not known";
    for (int epoch = 0; epoch < 3; ++epoch) {
      for (auto& batch : loader) {
        kept = batch.data;
        gpu.run_all();
      }
    }
    EXPECT_EQ(gpu.pins, 1U);
    EXPECT_GT(gpu.pinned_bytes, 7 * 4 * (6 * sizeof(float) + sizeof(std::int64_t)));
  }
  EXPECT_EQ(gpu.unpins, 0U);
  EXPECT_TRUE(kept.is_pinned() && lies_in_a_region(kept.const_data_ptr()));
  EXPECT_FLOAT_EQ(kept[3][1][2].item<float>(), 39.0F / 3);
  gpu.on_query = [&] { gpu.run_all(); };
  kept.reset();
  EXPECT_EQ(gpu.unpins, 1U);
}

TEST_F(PinMemoryTest, NothingIsOverwrittenBeforeItsCopyIsDone) {
  for (const auto kind : {WorkerKind::Process, WorkerKind::Thread}) {
    read = 0;
    DataLoader loader(Numbers{200}, in_order(200), pinned(2).kind(kind));
    std::int64_t first = 0;
    for (auto& batch : loader) {
      read_later(to_device(batch), first);
      first += 4;
    }
    // The workers have been round the slots many times, and the device has not even begun.
    EXPECT_EQ(read, 0U);
    EXPECT_GT(loader.statistics().copies, 40U);
    gpu.run_all();
    EXPECT_EQ(read, 50U);
  }
  EXPECT_EQ(logged().size(), 2U);
  EXPECT_NE(logged()[0].find("for copies to a device"), std::string::npos) << logged()[0];
}

TEST_F(PinMemoryTest, SlotsComeBackWhenTheDeviceKeepsUp) {
  DataLoader loader(Numbers{400}, in_order(400), pinned(2));
  std::int64_t first = 0;
  for (auto& batch : loader) {
    read_later(to_device(batch), first);
    first += 4;
    if (first % 12 == 0) gpu.run_all();  // two batches behind
  }
  gpu.run_all();
  EXPECT_EQ(read, 100U);
  EXPECT_EQ(loader.statistics().copies, 0U);
}

TEST_F(PinMemoryTest, CopiesOnAnotherStreamAreSafeWhereItIsCurrentAtTheEnd) {
  const auto side = c10::impl::VirtualGuardImpl(c10::kPrivateUse1)
                        .getStreamFromGlobalPool(testing::FakeGpu::device());
  DataLoader loader(Numbers{100}, in_order(100), pinned(1));
  const auto home = gpu.current();
  const c10::StreamGuard guard(side);
  std::int64_t first = 0;
  for (auto& batch : loader) {
    read_later(to_device(batch), first);
    first += 4;
    gpu.run(home);
  }
  gpu.run_all();
  EXPECT_EQ(read, 25U);
}

TEST_F(PinMemoryTest, AbandonedPassesGiveTheirSlotsBack) {
  DataLoader loader(Numbers{200}, in_order(200), pinned(2));
  for (int pass = 0; pass < 10; ++pass) {
    std::int64_t first = 0;
    for (auto& batch : loader) {
      read_later(to_device(batch), first);
      if ((first += 4) == 8) break;
    }
    gpu.run_all();
  }
  EXPECT_EQ(read, 20U);
  EXPECT_EQ(loader.statistics().copies, 0U);
}

TEST_F(PinMemoryTest, LoaderMayGoWhileCopiesAreUnderWay) {
  int queries = 0;
  {
    DataLoader loader(Numbers{40}, in_order(40), pinned(2));
    std::int64_t first = 0;
    for (auto& batch : loader) {
      read_later(to_device(batch), first);
      if ((first += 4) == 12) break;
    }
    gpu.on_query = [&] {
      if (++queries == 5) gpu.run_all();
    };
  }
  EXPECT_GE(queries, 5);
  EXPECT_EQ(read, 3U);
}

TEST_F(PinMemoryTest, WhatCannotBePinnedIsAnErrorAndTheLoopMayGoOn) {
  DataLoader loader(Numbers{20}, in_order(20), pinned(1));
  gpu.fails_pinning = true;
  std::size_t errors = 0;
  for (auto it = loader.begin(); it != loader.end(); ++it) {
    const auto message = message_of<WorkerError>([&] { static_cast<void>(*it); });
    EXPECT_NE(message.find("out of memory"), std::string::npos) << message;
    ASSERT_LE(++errors, 5U);
  }
  EXPECT_EQ(errors, 5U);
  EXPECT_EQ(loader.statistics().lost_batches, 5U);
  gpu.fails_pinning = false;
  for (auto& batch : loader) EXPECT_TRUE(batch.data.is_pinned());
}

TEST_F(PinMemoryTest, BatchThatCannotBeCopiedIntoPinnedMemoryIsLost) {
  for (const auto& options : {pinned(0), pinned(1).prefetch_batches(1),
                              pinned(2).prefetch_batches(1).kind(WorkerKind::Thread)}) {
    DataLoader loader(Numbers{60}, in_order(60), options);
    std::vector<torch::data::Example<>> kept;  // so many that further ones are copied
    std::vector<WorkerError> errors;
    for (auto it = loader.begin(); it != loader.end(); ++it) {
      gpu.has_pinned_memory = kept.size() != 9 || !errors.empty();
      try {
        kept.push_back(*it);
      } catch (const WorkerError& error) {
        errors.push_back(error);
      }
    }
    ASSERT_EQ(errors.size(), 1U);
    EXPECT_EQ(errors[0].batch_index(), 9);
    EXPECT_NE(errors[0].original_message().find("no pinned memory"), std::string::npos);
    EXPECT_EQ(kept.size(), 14U);
    EXPECT_EQ(loader.statistics().lost_batches, 1U);
    EXPECT_EQ(loader.statistics().batches, 14U);
    EXPECT_EQ(loader.statistics().samples, 56U);
    kept.clear();
    gpu.run_all();
  }
}

TEST_F(PinMemoryTest, WithoutAGpuThereIsAWarningAndOrdinaryMemory) {
  if (torch::cuda::is_available()) GTEST_SKIP() << "this machine has a GPU";
  for (const int workers : {0, 1}) {
    DataLoader loader(Numbers{20}, in_order(20), options_with(workers).pin_memory(true));
    std::int64_t rows = 0;
    for (int epoch = 0; epoch < 2; ++epoch) {
      for (auto& batch : loader) {
        rows += batch.target.size(0);
        EXPECT_FALSE(batch.data.is_pinned());
      }
    }
    EXPECT_EQ(rows, 40);
  }
  ASSERT_EQ(logged().size(), 2U);  // once a loader
  EXPECT_NE(logged()[0].find("pin_memory is on, but there is no GPU"), std::string::npos);
}

TEST_F(PinMemoryTest, NothingIsPinnedUnlessAskedFor) {
  DataLoader loader(Numbers{20}, in_order(20), options_with(1));
  for (auto& batch : loader) EXPECT_FALSE(batch.data.is_pinned());
  EXPECT_EQ(gpu.pins, 0U);
  EXPECT_EQ(gpu.events_recorded, 0U);
  EXPECT_TRUE(logged().empty());
}

}  // namespace
}  // namespace lockstep::data
