// SPDX-License-Identifier: BSD-3-Clause
// Scalars of a device that does what it is told only when a test says so.
#include <gtest/gtest.h>
#include <lockstep/training/tensorboard.h>
#include <torch/torch.h>

#include <atomic>

#include "support/event_files.h"
#include "support/fake_gpu.h"
#include "support/raw_safetensors.h"
#include "support/timed_waits.h"

namespace lockstep::training {
namespace {

using testing::FakeGpu;
using testing::values_of;

class DeviceBoard : public ::testing::Test {
 protected:
  void SetUp() override {
    FakeGpu::get().reset();
    gpu_.patience = 100'000'000;  // the thread asks until the value is there
  }
  void TearDown() override {
    EXPECT_EQ(gpu_.complaints, std::vector<std::string>());
    FakeGpu::get().reset();
  }
  static at::Tensor on_device(float value) {
    at::Tensor tensor = at::empty({}, at::TensorOptions(FakeGpu::device()));
    tensor.copy_(torch::full({}, value));
    return tensor;
  }

  FakeGpu& gpu_ = FakeGpu::get();
  TemporaryFolder folder_;
};

TEST_F(DeviceBoard, AScalarIsWrittenWhenItHasArrivedAndTheCallWaitsForNothing) {
  TensorBoard board(folder_ / "run");
  at::Tensor value = on_device(1);
  gpu_.run_all();
  for (int step = 0; step < 10; ++step) {
    board.scalar("loss", value, step);
    value.copy_(torch::full({}, static_cast<float>(step + 2)), /*non_blocking=*/true);
  }
  EXPECT_GT(gpu_.pending(), 0U);  // nobody has waited for the device
  board.scalar("other", 7, 3);    // waits for no device
  EXPECT_THROW(board.flush(std::chrono::milliseconds(50)), c10::Error);
  EXPECT_TRUE(testing::happens([&] {
    bool is_cut = false;
    return values_of(board.file(), &is_cut).size() == 1;
  }));
  gpu_.run_all();
  board.close();
  const auto found = values_of(board.file());
  ASSERT_EQ(found.size(), 11U);
  for (std::size_t i = 1; i < found.size(); ++i) {
    EXPECT_EQ(found[i].tag, "loss");
    EXPECT_EQ(found[i].step, static_cast<std::int64_t>(i) - 1);
    EXPECT_EQ(found[i].scalar(), static_cast<float>(i));
  }
}

TEST_F(DeviceBoard, AValueIsWrittenWithoutAnotherCall) {
  TensorBoard board(folder_ / "run");
  const at::Tensor value = on_device(4);
  gpu_.run_all();
  // The copy stays where it is until the thread has asked for it a few times.
  std::atomic<int> queries{0};
  gpu_.on_query = [&] { ++queries; };
  board.scalar("loss", value, 1);
  EXPECT_TRUE(testing::happens([&] { return queries.load() > 2; }));
  EXPECT_EQ(values_of(board.file()).size(), 0U);
  gpu_.run_all();
  bool is_cut = false;
  EXPECT_TRUE(testing::happens([&] { return values_of(board.file(), &is_cut).size() == 1; }));
  board.close();
  gpu_.on_query = {};
}

TEST_F(DeviceBoard, WithoutEventsOrPinnedMemoryTheCallWaits) {
  for (const bool has_events : {false, true}) {
    gpu_.reset();
    gpu_.fails_events = !has_events;
    gpu_.has_pinned_memory = !has_events;
    TensorBoard board(folder_ / "run");
    const at::Tensor value = on_device(5);
    gpu_.run_all();
    gpu_.patience = 200;  // somebody waits for the device
    board.scalar("loss", value, 1);
    board.flush();
    EXPECT_EQ(values_of(board.file()).at(0).scalar(), 5);
  }
}

TEST_F(DeviceBoard, AValueThatNeverArrivesIsLost) {
  TensorBoard board(folder_ / "run");
  const at::Tensor value = on_device(1);
  gpu_.run_all();
  board.scalar("loss", value, 1);
  {
    const std::lock_guard lock(gpu_.mutex);
    gpu_.fails_events = true;  // to ask for it is an error
  }
  try {
    board.flush();
    ADD_FAILURE() << "no error";
  } catch (const c10::Error& error) {
    EXPECT_NE(
        std::string(error.what()).find("1 record was lost: a value of a device cannot be read"),
        std::string::npos)
        << error.what();
  }
  gpu_.fails_events = false;
  gpu_.run_all();
}

TEST_F(DeviceBoard, HistogramsWaitForTheDevice) {
  TensorBoard board(folder_ / "run");
  at::Tensor values = at::empty({2}, at::TensorOptions(FakeGpu::device()));
  values.copy_(torch::tensor({1.0F, 2.0F}));
  gpu_.patience = 200;
  board.histogram("h", values, 1);
  board.close();
  const auto found = values_of(board.file());
  ASSERT_EQ(found.size(), 1U);
  EXPECT_EQ(testing::fields_of(found[0].bytes, 5).size(), 1U);
}

}  // namespace
}  // namespace lockstep::training
