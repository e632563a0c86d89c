// SPDX-License-Identifier: BSD-3-Clause
// The tensors of a batch are LibTorch's own in all respects, and keep their memory while any part
// of them is used.
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <lockstep/core/logging.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "data/loader/batch_delivery.h"
#include "data/loader/batch_lease.h"
#include "support/loader_test_support.h"

namespace lockstep::data {
namespace {

constexpr std::int64_t kBatch = 4;
constexpr std::size_t kSamples = 80;

using Batch = torch::data::Example<>;

// The words that LibTorch keeps of a tensor, as far as they can be asked for.
void expect_alike(const at::Tensor& tensor, const at::Tensor& expected) {
  EXPECT_EQ(tensor.sizes(), expected.sizes());
  EXPECT_EQ(tensor.strides(), expected.strides());
  EXPECT_EQ(tensor.numel(), expected.numel());
  EXPECT_EQ(tensor.dtype(), expected.dtype());
  EXPECT_EQ(tensor.device(), expected.device());
  EXPECT_EQ(tensor.layout(), expected.layout());
  EXPECT_EQ(tensor.key_set(), expected.key_set());
  EXPECT_EQ(tensor.storage_offset(), expected.storage_offset());
  EXPECT_EQ(tensor.storage().nbytes(), expected.storage().nbytes());
  EXPECT_EQ(tensor.storage().allocator(), expected.storage().allocator());
  EXPECT_EQ(tensor.storage().resizable(), expected.storage().resizable());
  EXPECT_EQ(tensor.const_data_ptr(), expected.const_data_ptr());
  EXPECT_EQ(tensor.is_inference(), expected.is_inference());
  EXPECT_EQ(tensor.requires_grad(), expected.requires_grad());
  if (!tensor.is_inference()) {
    EXPECT_EQ(tensor._version(), 0);
  }
  for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    EXPECT_EQ(tensor.is_contiguous(format), expected.is_contiguous(format));
  }
  EXPECT_EQ(tensor.is_non_overlapping_and_dense(), expected.is_non_overlapping_and_dense());
}

// Counts what is gone.
struct CountedLease : detail::BatchLease {
  explicit CountedLease(int& gone) : BatchLease(nullptr), count(gone) {}
  ~CountedLease() override { ++count; }
  int& count;
};

TEST(BatchLease, MakesTheTensorsThatFromBlobMakes) {
  alignas(64) static std::byte memory[1024];
  const std::vector<std::vector<std::int64_t>> shapes{
      {}, {0}, {1}, {7}, {3, 0, 2}, {4, 1, 3, 2}, {1, 1}, {2, 1, 1, 1}, {1, 2, 1, 2, 1, 2, 1}};
  for (const bool is_inference : {false, true}) {
    const c10::InferenceMode mode(is_inference);
    for (const auto dtype : {torch::kFloat, torch::kUInt8, torch::kLong, torch::kBool, torch::kHalf,
                             torch::kBFloat16, torch::kComplexFloat, torch::kFloat8_e4m3fn}) {
      for (const auto& shape : shapes) {
        SCOPED_TRACE(::testing::Message() << dtype << ' ' << at::IntArrayRef(shape));
        int gone = 0;
        auto* lease = new CountedLease(gone);
        auto tensor = lease->tensor(memory, shape, dtype);
        detail::BatchLease::drop(lease);
        expect_alike(tensor, at::from_blob(memory, shape, torch::TensorOptions(dtype)));
        EXPECT_EQ(gone, 0);
        tensor.reset();
        EXPECT_EQ(gone, 1);
      }
    }
  }
}

// The test is the only worker, and leaves out the only sample of the batch.
TEST(BatchDelivery, SlotOfABatchWhoseWarningThrowsIsGivenBack) {
  const auto job = std::make_shared<detail::WorkerJob>();
  job->channel = std::make_shared<workers::TaskChannel>(workers::ChannelShape{2, 1, 1, 64});
  auto& channel = *job->channel;
  detail::BatchDelivery delivery(job, options_with(1).on_failed_sample(SamplePolicy::Skip));
  workers::Task task;
  const std::vector<std::int64_t> items{7};
  task.sequence = 1;
  task.items = items;
  channel.assign(0, task);
  const auto claim = channel.claim(0);
  channel.items().leave_out(0, 0);
  workers::Failure failure;
  failure.message = "torn";
  channel.failures().note(0, failure);
  channel.finish(*claim);
  ASSERT_EQ(channel.state(0), workers::SlotState::Ready);

  set_log_sink([](logging::Level, std::string_view) { throw std::runtime_error("full"); });
  const auto message =
      message_of<WorkerError>([&] { static_cast<void>(delivery.deliver(0, 5, 0)); });
  set_log_sink({});
  EXPECT_NE(message.find("at batch 5: std::runtime_error: full"), std::string::npos) << message;
  EXPECT_EQ(channel.state(0), workers::SlotState::Free);
  EXPECT_EQ(delivery.statistics().lost_batches, 1U);
  EXPECT_EQ(delivery.statistics().batches, 0U);
  EXPECT_EQ(delivery.statistics().skipped_samples, 0U);
}

class DeliveredTensorsTest : public ::testing::TestWithParam<std::int64_t> {
 protected:
  static DataLoader<Numbers> loader() {
    return DataLoader<Numbers>(Numbers{kSamples}, options_with(GetParam(), kBatch));
  }
  static void expect_batch(const Batch& batch, std::int64_t first) {
    const auto indices = torch::arange(first, first + kBatch);
    EXPECT_TRUE(batch.target.equal(indices)) << batch.target;
    const auto data =
        (indices.to(torch::kFloat) / 3).reshape({kBatch, 1, 1}).expand({kBatch, 2, 3});
    EXPECT_TRUE(batch.data.equal(data)) << batch.data;
  }
};

TEST_P(DeliveredTensorsTest, TrainingMayFollowInference) {
  auto loader = DeliveredTensorsTest::loader();
  const auto weight = torch::ones({3}, torch::requires_grad());
  std::int64_t first = 0;
  for (auto it = loader.begin(); it != loader.end(); ++it, first += kBatch) {
    const c10::InferenceMode mode(first / kBatch % 3 == 1);
    expect_batch(*it, first);
    EXPECT_EQ(it->data.is_inference(), c10::InferenceMode::is_enabled());
    // Refuses tensors that were made for inference.
    if (!c10::InferenceMode::is_enabled()) (it->data * weight).sum().backward();
  }
  EXPECT_EQ(first, static_cast<std::int64_t>(kSamples));
}

// Whatever part of a batch the program keeps, its memory is not the workers' before that is gone.
TEST_P(DeliveredTensorsTest, WhatIsKeptStaysAsItIs) {
  const std::vector<std::function<at::Tensor(const Batch&)>> parts{
      [](const Batch& batch) { return batch.data; },
      [](const Batch& batch) { return batch.data.select(0, 1); },
      [](const Batch& batch) { return batch.data.detach(); },
      // The memory alone, while the tensor gets other memory.
      [](const Batch& batch) {
        const auto memory = std::make_shared<at::DataPtr>(batch.data.storage().set_data_ptr(
            torch::rand({kBatch, 2, 3}).storage().set_data_ptr({})));
        return at::from_blob(
            memory->get(), {kBatch, 2, 3}, [memory](void*) {}, torch::kFloat);
      },
      [](const Batch& batch) {
        return torch::empty({0}, torch::kFloat).set_(batch.data.storage(), 0, {kBatch, 2, 3});
      },
  };
  for (const auto& part : parts) {
    auto loader = DeliveredTensorsTest::loader();
    std::int64_t first = 0;
    at::Tensor kept;
    at::Tensor copy;
    for (auto& batch : loader) {
      expect_batch(batch, first);
      if (first == 2 * kBatch) {
        kept = part(batch);
        copy = kept.clone();
      }
      if (first == 12 * kBatch) kept.reset();
      if (kept.defined()) {
        EXPECT_TRUE(kept.equal(copy));
      }
      first += kBatch;
    }
    EXPECT_EQ(first, static_cast<std::int64_t>(kSamples));
    EXPECT_EQ(loader.statistics().copies, 0U);
  }
}

TEST_P(DeliveredTensorsTest, AnotherThreadMayLetGoOfThem) {
  auto loader = DeliveredTensorsTest::loader();
  std::int64_t first = 0;
  std::jthread before;
  for (auto& batch : loader) {
    expect_batch(batch, first);
    std::jthread thread([mine = std::move(batch), first]() mutable {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      mine.data.add_(1);  // the last thing that happens to this memory before a worker gets it
      EXPECT_EQ(mine.data[0][0][0].item<float>(), static_cast<float>(first) / 3 + 1);
      mine = {};
    });
    before = std::move(thread);  // joins the one before
    first += kBatch;
  }
  EXPECT_EQ(first, static_cast<std::int64_t>(kSamples));
  EXPECT_EQ(loader.statistics().copies, 0U);
}

INSTANTIATE_TEST_SUITE_P(Workers, DeliveredTensorsTest, ::testing::Values(1, 2, 3));

}  // namespace
}  // namespace lockstep::data
