// SPDX-License-Identifier: BSD-3-Clause
// DevicePrefetcher: batches on a device, the next one copied ahead.
#include <c10/core/StreamGuard.h>
#include <lockstep/data/loader/device_prefetcher.h>

#include <algorithm>
#include <random>

#include "unit/data/loader/feeding_test_support.h"

namespace lockstep::data {
namespace {

using testing::FakeGpu;

class DevicePrefetcherTest : public FeedingTest {
 protected:
  // A dataset that counts what has been fetched.
  [[nodiscard]] Numbers counted(std::size_t count) {
    Numbers dataset{count};
    dataset.before = [words = counters.words](std::size_t) { ++words[0]; };
    return dataset;
  }
  // One worker takes batch after batch: it has finished one when it begins the next.
  [[nodiscard]] bool is_built(std::int64_t batch) {
    return eventually([&] { return counters.words[0] > 4 * (batch + 1); });
  }

  SharedCounters counters;
};

TEST_F(DevicePrefetcherTest, BatchesArriveInOrderEpochAfterEpoch) {
  for (const auto& options : {pinned(0), pinned(2), pinned(2).kind(WorkerKind::Thread),
                              options_with(2), options_with(0)}) {
    read = 0;
    DataLoader loader(Numbers{42}, in_order(42), options);
    for (int epoch = 0; epoch < 3; ++epoch) {
      loader.set_epoch(epoch);
      std::int64_t first = 0;
      for (auto& batch : DevicePrefetcher(loader, FakeGpu::device())) {
        read_later(batch, first);
        first += batch.target.size(0);
        if (first % 3 == 0) gpu.run_all();
      }
      EXPECT_EQ(first, 42);
    }
    gpu.run_all();
    EXPECT_EQ(read, 33U);
  }
  // Streams keep memory of their own: one for copies a loader, whatever the number of loops.
  EXPECT_EQ(gpu.streams().size(), 1U + 5U);
}

TEST_F(DevicePrefetcherTest, NextBatchIsCopiedWhileThisOneIsUsed) {
  DataLoader loader(counted(80), in_order(80), pinned(1).prefetch_batches(4));
  DevicePrefetcher batches(loader, FakeGpu::device());
  EXPECT_EQ(batches.size(), 20U);
  auto it = batches.begin();
  for (std::int64_t batch = 0; batch < 10; ++batch, ++it) {
    ASSERT_TRUE(is_built(batch + 1));
    read_later(*it, 4 * batch);
    // The copies of this batch and of the next are enqueued before anything of this one was used.
    EXPECT_EQ(gpu.copies, static_cast<std::size_t>(2 * (batch + 2)));
    EXPECT_EQ(read, static_cast<std::size_t>(batch));
    gpu.run_all();
  }
}

// Samples behind `last` wait until it is theirs.
Numbers numbers_up_to(const std::atomic<int>& last) {
  Numbers dataset{20};
  dataset.before = [&last](std::size_t index) {
    while (last < static_cast<int>(index)) std::this_thread::yield();
  };
  return dataset;
}

TEST_F(DevicePrefetcherTest, BatchThatIsNotReadyIsNotWaitedFor) {
  auto* words = counters.words;
  DataLoader loader(numbers_up_to(words[1]), in_order(20), pinned(1));
  DevicePrefetcher batches(loader, FakeGpu::device());
  words[1] = 3;
  auto it = batches.begin();
  read_later(*it, 0);
  EXPECT_EQ(gpu.copies, 2U);
  words[1] = 19;
  ++it;
  read_later(*it, 4);  // now it is asked for
  EXPECT_GE(gpu.copies, 4U);
}

// The loader is a little behind: the copy runs beside the step that the program has enqueued, and
// not behind it.
TEST_F(DevicePrefetcherTest, BatchThatIsAskedForIsCopiedBesideTheStep) {
  auto* words = counters.words;
  DataLoader loader(numbers_up_to(words[1]), in_order(20), pinned(1));
  DevicePrefetcher batches(loader, FakeGpu::device());
  words[1] = 3;
  auto it = batches.begin();
  read_later(*it, 0);
  words[1] = 7;
  ++it;
  read_later(*it, 4);
  ASSERT_EQ(gpu.copies, 4U);
  for (const auto& stream : gpu.streams()) {
    if (stream != gpu.current()) gpu.run(stream);
  }
  EXPECT_EQ(read, 0U);
  EXPECT_EQ(gpu.pending(), gpu.pending(gpu.current())) << "a copy waits for the step";
  gpu.run_all();
  EXPECT_EQ(read, 2U);
  words[1] = 19;
}

TEST_F(DevicePrefetcherTest, TheConsumerWaitsForTheCopies) {
  DataLoader loader(Numbers{80}, in_order(80), pinned(1));
  std::int64_t first = 0;
  for (auto& batch : DevicePrefetcher(loader, FakeGpu::device())) {
    read_later(batch, first);
    gpu.run(gpu.current());  // the consumer is the fastest of all
    EXPECT_TRUE(first != 0 || read == 0) << "before the copy";
    gpu.run_all();
    first += 4;
  }
  EXPECT_EQ(read, 20U);
}

// The consumer is done with all that it has been given, the copies of the next batch are still to
// come: the memory that they read is not the workers' yet.
TEST_F(DevicePrefetcherTest, WorkersDoNotWriteWhereACopyStillReads) {
  DataLoader loader(counted(80), in_order(80), pinned(1));
  DevicePrefetcher batches(loader, FakeGpu::device());
  auto it = batches.begin();
  for (std::int64_t batch = 0; batch < 15; ++batch, ++it) {
    ASSERT_TRUE(is_built(batch + 1));
    read_later(*it, 4 * batch);
    std::this_thread::sleep_for(std::chrono::milliseconds(3));  // a worker could write meanwhile
    const auto streams = gpu.streams();
    for (int step = 0; step < 100 && read == static_cast<std::size_t>(batch); ++step) {
      for (const auto& stream : streams) {
        if (stream != gpu.current()) gpu.run_one(stream);
      }
      gpu.run(gpu.current());
    }
    ASSERT_EQ(read, static_cast<std::size_t>(batch + 1));
  }
}

TEST_F(DevicePrefetcherTest, TheStreamThatIsCurrentIsTheConsumer) {
  const auto side =
      c10::impl::VirtualGuardImpl(c10::kPrivateUse1).getStreamFromGlobalPool(FakeGpu::device());
  DataLoader loader(Numbers{80}, in_order(80), pinned(1));
  std::int64_t first = 0;
  for (auto& batch : DevicePrefetcher(loader, FakeGpu::device())) {
    EXPECT_EQ(gpu.current().id(), 0);
    read_later(batch, first);
    gpu.run_all();
    first += 4;
  }
  const c10::StreamGuard guard(side);
  first = 0;
  for (auto& batch : DevicePrefetcher(loader, FakeGpu::device())) {
    EXPECT_EQ(gpu.current(), side);
    read_later(batch, first);
    gpu.run(side);
    gpu.run_all();
    first += 4;
  }
  EXPECT_EQ(read, 40U);
}

// Memory that is recorded for a stream comes back when the device has got there; that of the
// consumer's own comes back at once. The first batch is not ahead of any other.
TEST_F(DevicePrefetcherTest, PinnedBatchesAreInTheConsumersMemory) {
  const auto recorded_by = [&](DataLoaderOptions options) {
    const auto before = gpu.uses_recorded;
    counters.words[0] = 0;
    DataLoader loader(counted(80), in_order(80), options.prefetch_batches(4));
    DevicePrefetcher batches(loader, FakeGpu::device());
    auto it = batches.begin();
    for (std::int64_t batch = 0; batch < 10; ++batch, ++it) {
      EXPECT_TRUE(is_built(batch + 1));
      static_cast<void>(*it);
      gpu.run_all();
    }
    return gpu.uses_recorded - before;
  };
  EXPECT_EQ(recorded_by(pinned(1)), 2U);
  EXPECT_EQ(recorded_by(options_with(1)), 20U);
  counters.words[0] = 0;
  // A batch that is ahead is the memory of another stream when the consumer changes.
  DataLoader loader(counted(40), in_order(40), pinned(1));
  DevicePrefetcher batches(loader, FakeGpu::device());
  auto it = batches.begin();
  ASSERT_TRUE(is_built(1));
  read_later(*it, 0);
  const auto before = gpu.uses_recorded;
  const c10::StreamGuard side(
      c10::impl::VirtualGuardImpl(c10::kPrivateUse1).getStreamFromGlobalPool(FakeGpu::device()));
  ++it;
  read_later(*it, 4);
  EXPECT_EQ(gpu.uses_recorded - before, 2U);
  gpu.run_all();
  EXPECT_EQ(read, 2U);
}

// The program forgets a batch that is being copied ahead; its memory serves the program again, and
// the copy must not write to it then.
TEST_F(DevicePrefetcherTest, MemoryOfAForgottenBatchWaitsForItsCopy) {
  DataLoader loader(counted(40), in_order(40), pinned(1));
  DevicePrefetcher batches(loader, FakeGpu::device());
  auto it = batches.begin();
  ASSERT_TRUE(is_built(1));
  read_later(*it, 0);
  ASSERT_EQ(gpu.copies, 4U);
  it = batches.begin();  // of another pass
  const auto options = torch::TensorOptions(FakeGpu::device());
  const std::vector<torch::Tensor> own{torch::empty({4, 2, 3}, options),
                                       torch::empty({4, 2, 3}, options)};
  for (const auto& tensor : own) {
    auto* data = static_cast<float*>(tensor.data_ptr());
    gpu.enqueue([data] { std::fill(data, data + 24, 42.0F); });
  }
  gpu.run(gpu.current());  // the program's stream is the fastest
  gpu.run_all();
  for (const auto& tensor : own) {
    const auto* data = static_cast<const float*>(tensor.const_data_ptr());
    EXPECT_EQ(std::count(data, data + 24, 42.0F), 24);
  }
}

TEST_F(DevicePrefetcherTest, MemoryOfABatchIsNotReusedWhileItIsRead) {
  DataLoader loader(Numbers{80}, in_order(80), pinned(1));
  const auto consumer = gpu.current();
  std::int64_t first = 0;
  for (auto& batch : DevicePrefetcher(loader, FakeGpu::device())) {
    read_later(batch, first);
    first += 4;
    // Copies run as soon as they can, and what the program does runs at the very end.
    for (const auto& stream : gpu.streams()) {
      if (stream != consumer) gpu.run(stream);
    }
  }
  EXPECT_EQ(read, 0U);
  gpu.run_all();
  EXPECT_EQ(read, 20U);
}

TEST_F(DevicePrefetcherTest, AnyOrderOfStreamsGivesTheSame) {
  std::mt19937 random(7);
  std::uint64_t seed = random();
  for (const auto& options : {pinned(0), pinned(1), pinned(3), options_with(2),
                              pinned(2).kind(WorkerKind::Thread).prefetch_batches(1)}) {
    read = 0;
    DataLoader loader(Numbers{400}, in_order(400), options);
    std::vector<torch::data::Example<>> kept;
    std::int64_t first = 0;
    for (auto& batch : DevicePrefetcher(loader, FakeGpu::device())) {
      read_later(batch, first);
      if (first % 28 == 0) kept.push_back(batch);
      gpu.run_some(seed, static_cast<int>(random() % 16));
      first += 4;
    }
    gpu.run_all();
    for (std::size_t number = 0; number < kept.size(); ++number) {
      read_later(kept[number], static_cast<std::int64_t>(28 * number));
    }
    gpu.run_all();
    EXPECT_EQ(read, 100U + 15U);
  }
}

TEST_F(DevicePrefetcherTest, ErrorsComeAtTheirBatchAndTheLoopGoesOn) {
  for (const int workers : {0, 1, 2}) {
    Numbers dataset{40};
    dataset.before = [](std::size_t index) {
      if (index == 9 || index == 39) throw std::runtime_error("a bad sample");
    };
    DataLoader loader(dataset, in_order(40), pinned(workers));
    DevicePrefetcher batches(loader, FakeGpu::device());
    std::int64_t first = 0;
    std::vector<std::int64_t> errors;
    for (auto it = batches.begin(); it != batches.end(); ++it, first += 4) {
      try {
        read_later(*it, first);
      } catch (const WorkerError& error) {
        EXPECT_EQ(error.sample_index(), first == 8 ? 9 : 39);
        errors.push_back(first);
      }
      gpu.run_all();
    }
    EXPECT_EQ(errors, (std::vector<std::int64_t>{8, 36}));
    EXPECT_EQ(first, 40);
  }
  EXPECT_EQ(read, 3 * 8U);
}

TEST_F(DevicePrefetcherTest, LackOfDeviceMemoryIsAnErrorOfThatBatch) {
  DataLoader loader(counted(80), in_order(80), pinned(1).prefetch_batches(4));
  DevicePrefetcher batches(loader, FakeGpu::device());
  auto it = batches.begin();
  ASSERT_TRUE(is_built(1));
  gpu.fails_allocation = 4;  // the second tensor of batch 1, whose first is being copied already
  read_later(*it, 0);
  EXPECT_EQ(gpu.copies, 3U);
  gpu.run(gpu.current());
  ++it;
  EXPECT_NE(message_of<std::runtime_error>([&] { static_cast<void>(*it); }).find("no memory"),
            std::string::npos);
  ++it;
  for (std::int64_t first = 8; it != batches.end(); ++it, first += 4) {
    read_later(*it, first);
    gpu.run_all();
  }
  EXPECT_EQ(read, 19U);
  EXPECT_EQ(loader.statistics().copies, 0U);
}

TEST_F(DevicePrefetcherTest, LoopsMayStopAnywhere) {
  DataLoader loader(Numbers{80}, in_order(80), pinned(2));
  DevicePrefetcher batches(loader, FakeGpu::device());
  for (std::int64_t stop = 0; stop < 10; ++stop) {
    std::int64_t first = 0;
    for (auto& batch : batches) {
      read_later(batch, first);
      first += 4;
      if (first > 4 * stop) break;
    }
    if (stop % 2 == 0) gpu.run_all();
  }
  auto old = batches.begin();
  read_later(*old, 0);
  std::int64_t first = 0;
  for (auto& batch : loader) {  // the loader itself again
    EXPECT_EQ(batch.target[0].item<std::int64_t>(), first);
    first += 4;
  }
  EXPECT_EQ(first, 80);
  ++old;
  EXPECT_NE(message_of([&] { static_cast<void>(*old); }).find("earlier pass"), std::string::npos);
  gpu.run_all();
}

TEST_F(DevicePrefetcherTest, EverythingMayGoWhileCopiesAreUnderWay) {
  torch::data::Example<> kept;
  int queries = 0;
  {
    DataLoader loader(Numbers{80}, in_order(80), pinned(2));
    DevicePrefetcher batches(loader, FakeGpu::device());
    auto it = batches.begin();
    read_later(*it, 0);
    ++it;
    read_later(*it, 4);
    kept = *it;
    gpu.on_query = [&] {
      if (++queries == 5) gpu.run_all();
    };
  }
  EXPECT_GE(queries, 5);
  EXPECT_EQ(read, 2U);
  read_later(kept, 4);
  gpu.run_all();
}

TEST_F(DevicePrefetcherTest, TreesKeepTheirForm) {
  for (const auto& options : {pinned(0), pinned(2), options_with(1)}) {
    DataLoader loader(Pictures{}, options);
    std::size_t first = 0;
    for (auto& batch : DevicePrefetcher(loader, FakeGpu::device())) {
      const auto image = batch.at("image").tensor();
      EXPECT_EQ(image.device(), FakeGpu::device());
      EXPECT_EQ(image.cpu()[3][7].item<float>(), static_cast<float>(first + 3));
      EXPECT_EQ(batch.at("caption")[1].string(), "picture " + std::to_string(first + 1));
      first += 4;
    }
    EXPECT_EQ(first, 24U);
  }
}

TEST_F(DevicePrefetcherTest, WhatLiesOnTheDeviceStaysThere) {
  struct Samples {
    torch::Tensor get(std::size_t index) { return torch::full({2}, static_cast<double>(index)); }
    std::size_t size() const { return 12; }
  };
  std::vector<const void*> places;
  auto collate = [&](std::vector<torch::Tensor> samples) {
    auto result = torch::stack(samples).to(FakeGpu::device());
    places.push_back(result.const_data_ptr());
    return result;
  };
  DataLoader loader(Samples{}, pinned(0), collate);
  std::size_t seen = 0;
  for (auto& batch : DevicePrefetcher(loader, FakeGpu::device())) {
    EXPECT_EQ(batch.const_data_ptr(), places.at(seen++));
    EXPECT_EQ(batch.cpu()[0][0].item<float>(), static_cast<float>(4 * (seen - 1)));
  }
  EXPECT_EQ(seen, 3U);
}

TEST_F(DevicePrefetcherTest, StateIsWhatTheProgramHasReceived) {
  const auto sampler = [] {
    return DistributedSampler(80, 2, 1, DistributedSamplerOptions().seed(3));
  };
  for (const int workers : {0, 1}) {
    DataLoader plain(Numbers{80}, sampler(), options_with(workers));
    DataLoader loader(counted(80), sampler(), pinned(workers).prefetch_batches(4));
    DevicePrefetcher batches(loader, FakeGpu::device());
    counters.words[0] = 0;
    auto expected = plain.begin();
    auto it = batches.begin();
    EXPECT_EQ(loader.state(), plain.state());
    for (std::int64_t batch = 0; batch < 5; ++batch, ++it, ++expected) {
      ASSERT_TRUE(workers == 0 || is_built(batch + 1));
      static_cast<void>(*expected);
      static_cast<void>(*it);
      const auto ahead = workers == 0 ? 1 : 2;
      EXPECT_EQ(gpu.copies, static_cast<std::size_t>(2 * (batch + ahead)));
      EXPECT_EQ(loader.state(), plain.state()) << batch;
      gpu.run_all();
    }
    const auto state = loader.state();
    gpu.copies = 0;

    DataLoader resumed(Numbers{80}, sampler(), pinned(workers));
    resumed.load_state(state);
    std::size_t left = 0;
    for (auto& batch : DevicePrefetcher(resumed, FakeGpu::device())) {
      if (left++ == 0) {
        EXPECT_TRUE(torch::equal(batch.target.cpu(), expected->target));
      }
    }
    EXPECT_EQ(left, 5U);
    EXPECT_EQ(resumed.state().position, 80U);
    for ([[maybe_unused]] auto& batch : loader) break;  // not ahead any more
    EXPECT_EQ(loader.state().position, 8U);
    gpu.run_all();
    gpu.copies = 0;
  }
}

TEST_F(DevicePrefetcherTest, OnTheCpuBatchesAreTheLoadersOwn) {
  for (const bool pins : {false, true}) {
    DataLoader loader(counted(400), in_order(400), pins ? pinned(1) : options_with(1));
    counters.words[0] = 0;
    std::size_t seen = 0;
    for (auto& batch : DevicePrefetcher(loader, c10::kCPU)) {
      EXPECT_TRUE(lies_in_a_region(batch.data.const_data_ptr()));
      EXPECT_EQ(batch.data.is_pinned(), pins);
      EXPECT_EQ(batch.target[0].item<std::int64_t>(), static_cast<std::int64_t>(4 * seen));
      ASSERT_TRUE(seen > 96 || is_built(static_cast<std::int64_t>(seen) + 1));
      EXPECT_EQ(loader.statistics().batches, ++seen) << "one was taken ahead";
      gpu.run_all();
    }
    EXPECT_EQ(seen, 100U);
    EXPECT_EQ(loader.statistics().copies, 0U);
  }
  EXPECT_EQ(gpu.copies, 0U);
}

TEST_F(DevicePrefetcherTest, IterableDatasetsAreFedToo) {
  struct Stream {
    std::int64_t at = 0;
    void reset(std::size_t, std::size_t, std::int64_t) { at = 0; }
    std::optional<torch::Tensor> next() {
      if (at == 18) return std::nullopt;
      return torch::full({3}, at++);
    }
  };
  for (const int workers : {0, 2}) {
    DataLoader loader(Stream{}, pinned(workers));
    DevicePrefetcher batches(loader, FakeGpu::device());
    for (int epoch = 0; epoch < 2; ++epoch) {
      std::int64_t rows = 0;
      for (auto& batch : batches) {
        EXPECT_EQ(batch.cpu()[0][0].item<std::int64_t>(), rows);
        rows += batch.size(0);
      }
      EXPECT_EQ(rows, 18);
    }
  }
}

TEST_F(DevicePrefetcherTest, OtherDevicesOfTheProgram) {
  gpu.devices_in_use = {0, 1};
  DataLoader loader(Numbers{8}, in_order(8), pinned(1));
  DevicePrefetcher batches(loader, FakeGpu::device(1));
  EXPECT_EQ(batches.device(), FakeGpu::device(1));
  std::int64_t first = 0;
  for (auto& batch : batches) {
    EXPECT_EQ(batch.data.device(), FakeGpu::device(1));
    EXPECT_EQ(batch.target.cpu()[1].item<std::int64_t>(), first + 1);
    first += 4;
  }
  EXPECT_EQ(gpu.current().device(), FakeGpu::device(0)) << "the current device has changed";
  EXPECT_EQ(DevicePrefetcher(loader, c10::kPrivateUse1).device(), FakeGpu::device(0));
}

TEST_F(DevicePrefetcherTest, DevicesThatAreNotThereAreNamed) {
  DataLoader loader(Numbers{8}, in_order(8), options_with(0));
  const auto refusal = [&](c10::Device device) {
    return message_of([&] { DevicePrefetcher batches(loader, device); });
  };
  EXPECT_NE(refusal({c10::kPrivateUse1, 5})
                .find("there is no device fake:5; this program sees 2 of that kind"),
            std::string::npos);
  EXPECT_NE(refusal(c10::kMeta).find("there is no device meta"), std::string::npos);
  if (torch::cuda::is_available()) return;
  EXPECT_NE(refusal({c10::kCUDA, 0}).find("there is no device cuda:0; this program sees 0"),
            std::string::npos);
  EXPECT_NE(refusal(c10::kCUDA).find("there is no device cuda"), std::string::npos);
}

}  // namespace
}  // namespace lockstep::data
