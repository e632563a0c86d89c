// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/logging.h>

#include <cmath>
#include <map>
#include <mutex>

#include "support/fake_gpu.h"
#include "support/loader_test_support.h"

namespace lockstep::data {

/// Loaders over a GPU whose work is done when the test says so. Fails the test when a device was
/// misused, or memory stays pinned.
class FeedingTest : public NothingLeftBehind {
 protected:
  void SetUp() override {
    NothingLeftBehind::SetUp();
    gpu.reset();
    at::globalContext().lazyInitDevice(c10::kPrivateUse1);
    set_log_sink([this](logging::Level, std::string_view message) {
      const std::lock_guard lock(mutex_);
      logged_.emplace_back(message);
    });
  }
  void TearDown() override {
    gpu.run_all();
    EXPECT_EQ(gpu.complaints, std::vector<std::string>());
    EXPECT_EQ(gpu.pins, gpu.unpins) << "a region stays pinned";
    EXPECT_EQ(wrong, 0U) << "values that the device has read were not the batch's";
    set_log_sink({});
    gpu.reset();
    NothingLeftBehind::TearDown();
  }

  [[nodiscard]] DataLoaderOptions pinned(std::int64_t workers, std::int64_t batch_size = 4) {
    gpu.replaces_pinning = true;
    return options_with(workers, batch_size).pin_memory(true);
  }

  /// What a kernel would do: reads the batch of `Numbers` that begins with `first` when its turn
  /// comes on the current stream, wherever its memory is used by then.
  void read_later(const torch::data::Example<>& batch, std::int64_t first) {
    ASSERT_TRUE(batch.target.is_privateuseone());
    const auto* target = static_cast<const std::int64_t*>(batch.target.const_data_ptr());
    const auto* data = static_cast<const float*>(batch.data.const_data_ptr());
    const auto rows = batch.target.size(0);
    gpu.enqueue([this, target, data, rows, first] {
      ++read;
      for (std::int64_t row = 0; row < rows; ++row) {
        wrong += target[row] != first + row;
        for (int i = 0; i < 6; ++i) {
          wrong += !(std::abs(data[6 * row + i] - static_cast<float>(first + row) / 3) < 1e-4F);
        }
      }
    });
  }

  [[nodiscard]] torch::data::Example<> to_device(const torch::data::Example<>& batch) const {
    return {batch.data.to(gpu.device(), true), batch.target.to(gpu.device(), true)};
  }

  [[nodiscard]] std::vector<std::string> logged() const {
    const std::lock_guard lock(mutex_);
    return logged_;
  }

  testing::FakeGpu& gpu = testing::FakeGpu::get();
  std::size_t read = 0;
  std::size_t wrong = 0;

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> logged_;
};

/// Whether it is the memory that the loader shares with its workers.
inline bool lies_in_a_region(const void* data) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("lockstep-data") == std::string::npos) continue;
    const auto begin = std::stoull(line, nullptr, 16);
    const auto end = std::stoull(line.substr(line.find('-') + 1), nullptr, 16);
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    if (address >= begin && address < end) return true;
  }
  return false;
}

/// Samples with strings, whose images grow: later batches do not fit the slots that the first has
/// decided.
struct Pictures {
  std::size_t count = 24;
  std::map<std::string, SampleTree> get(std::size_t index) {
    const std::int64_t pixels = index < 8 ? 16 : 4096;
    return {{"image", torch::full({pixels}, static_cast<double>(index))},
            {"caption", "picture " + std::to_string(index)}};
  }
  std::size_t size() const { return count; }
};

}  // namespace lockstep::data
