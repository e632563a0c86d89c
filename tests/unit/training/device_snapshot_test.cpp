// SPDX-License-Identifier: BSD-3-Clause
// Snapshots of tensors of a device that does what it is told only when a test says so.
#include <gtest/gtest.h>
#include <lockstep/training/checkpointer.h>
#include <lockstep/training/safetensors.h>
#include <torch/torch.h>

#include <string>

#include "support/expected_errors.h"
#include "support/fake_gpu.h"
#include "support/in_process_ranks.h"
#include "support/raw_safetensors.h"
#include "training/checkpoint/snapshot.h"

namespace lockstep::training {
namespace {

using testing::expect_refusal;
using testing::FakeGpu;
using testing::run_ranks_or_throw;

/// A part whose two tensors are on the device. Only the optimizer changes the first.
struct OnDevice {
  [[nodiscard]] PartState state() const {
    return {{{"weight", weight}, {"mean", mean}}, {}, {}, {"weight"}};
  }
  void load_state(const PartState& /*state*/) {}
  at::Tensor weight = on_device(1);
  at::Tensor mean = on_device(2);

  static at::Tensor filled(float value) { return torch::full({1000}, value); }
  static at::Tensor on_device(float value) {
    at::Tensor tensor = at::empty({1000}, at::TensorOptions(FakeGpu::device()));
    tensor.copy_(filled(value));
    return tensor;
  }
};

class DeviceSnapshot : public ::testing::Test {
 protected:
  void SetUp() override { FakeGpu::get().reset(); }
  void TearDown() override { EXPECT_EQ(FakeGpu::get().complaints, std::vector<std::string>()); }

  static void expect_saved(const Snapshot& snapshot) {
    const auto& file = snapshot.files.at(whole_file("part"));
    EXPECT_TRUE(file.tensors.at("weight").equal(OnDevice::filled(1)));
    EXPECT_TRUE(file.tensors.at("mean").equal(OnDevice::filled(2)));
  }
  /// What the program does next, on its stream.
  static void overwrite(const at::Tensor& tensor) {
    tensor.copy_(OnDevice::filled(-1), /*non_blocking=*/true);
  }

  FakeGpu& gpu_ = FakeGpu::get();
  const Deadline deadline_ = Deadline::after(std::chrono::seconds(60));
};

TEST_F(DeviceSnapshot, TheProgramGoesOnBehindTheCopies) {
  OnDevice part;
  TrainingState state;
  state.add("part", part);
  SnapshotMemory memory;
  const Snapshot snapshot = memory.take(state.parts(), 0, 1);
  EXPECT_EQ(snapshot.deferred, nullptr);
  for (const auto& [name, tensor] : snapshot.files.at(whole_file("part")).tensors) {
    EXPECT_TRUE(gpu_.is_pinned(tensor.const_data_ptr())) << name;
  }
  overwrite(part.weight);
  overwrite(part.mean);
  gpu_.run(FakeGpu::current());  // as far as it goes before the copies
  gpu_.run_all();
  snapshot.copies->wait(deadline_);
  expect_saved(snapshot);
  EXPECT_TRUE(part.weight.cpu().equal(OnDevice::filled(-1)));
}

TEST_F(DeviceSnapshot, ACopyBeginsBehindWhatTheProgramHasEnqueued) {
  OnDevice part;
  part.weight.copy_(OnDevice::filled(-1));
  part.weight.copy_(OnDevice::filled(1), /*non_blocking=*/true);
  TrainingState state;
  state.add("part", part);
  SnapshotMemory memory;
  const Snapshot snapshot = memory.take(state.parts(), 0, 1);
  for (const auto& stream : gpu_.streams()) {
    if (stream != FakeGpu::current()) gpu_.run(stream);
  }
  gpu_.run_all();
  snapshot.copies->wait(deadline_);
  expect_saved(snapshot);
}

TEST_F(DeviceSnapshot, DeferredTensorsMayChangeAfterTheRelease) {
  OnDevice part;
  TrainingState state;
  state.add("part", part);
  SnapshotMemory memory;
  const Snapshot snapshot = memory.take(state.parts(), 0, 1, /*is_deferred=*/true);
  overwrite(part.mean);  // in forward
  snapshot.deferred->release();
  overwrite(part.weight);
  gpu_.run(FakeGpu::current());
  gpu_.run_all();
  snapshot.copies->wait(deadline_);
  snapshot.deferred->copies.wait(deadline_);
  expect_saved(snapshot);
}

TEST_F(DeviceSnapshot, MemoryThatADeviceMayStillWriteIsNotUsedAgain) {
  OnDevice part;
  TrainingState state;
  state.add("part", part);
  SnapshotMemory memory;
  const void* first = nullptr;
  {
    const Snapshot snapshot = memory.take(state.parts(), 0, 1);
    first = snapshot.files.at(whole_file("part")).tensors.at("mean").const_data_ptr();
    expect_refusal([&] { snapshot.copies->wait(Deadline::after(std::chrono::seconds(0))); },
                   "the copies from the device are not there after");
  }
  const Snapshot snapshot = memory.take(state.parts(), 0, 1);
  EXPECT_NE(snapshot.files.at(whole_file("part")).tensors.at("mean").const_data_ptr(), first);
  gpu_.run_all();
  snapshot.copies->wait(deadline_);
  expect_saved(snapshot);
}

TEST_F(DeviceSnapshot, CopiesThatAreThereLeaveNoMemoryBehind) {
  OnDevice part;
  TrainingState state;
  state.add("part", part);
  SnapshotMemory memory;
  const void* first = nullptr;
  {
    const Snapshot snapshot = memory.take(state.parts(), 0, 1);  // a save that fails early
    first = snapshot.files.at(whole_file("part")).tensors.at("mean").const_data_ptr();
    gpu_.run_all();
  }
  const Snapshot snapshot = memory.take(state.parts(), 0, 1);
  EXPECT_EQ(snapshot.files.at(whole_file("part")).tensors.at("mean").const_data_ptr(), first);
  gpu_.run_all();
}

TEST_F(DeviceSnapshot, WithoutPinnedMemoryTheCallWaits) {
  OnDevice part;
  TrainingState state;
  state.add("part", part);
  gpu_.has_pinned_memory = false;
  SnapshotMemory memory;
  const Snapshot snapshot = memory.take(state.parts(), 0, 1);
  expect_saved(snapshot);
  overwrite(part.mean);
  gpu_.run_all();
  snapshot.copies->wait(deadline_);
  expect_saved(snapshot);
}

TEST_F(DeviceSnapshot, ACheckpointIsOfTheMomentOfTheCall) {
  const TemporaryFolder folder;
  run_ranks_or_throw(1, [&](const std::shared_ptr<ProcessGroup>& group) {
    for (const bool is_deferred : {false, true}) {
      OnDevice part;
      TrainingState state;
      state.add("part", part);
      const auto path = folder / (is_deferred ? "deferred" : "copied");
      Checkpointer checkpointer(group, path, CheckpointerOptions().deferred(is_deferred));
      for (int i = 1; i <= 2; ++i) {
        checkpointer.save(state, i);
        overwrite(part.mean);
        checkpointer.before_step();
        overwrite(part.weight);
        checkpointer.wait();
        const auto saved =
            load_safetensors(path / ("gen-00000" + std::to_string(i)) / "part.safetensors");
        EXPECT_TRUE(saved.at("weight").equal(OnDevice::filled(1)));
        EXPECT_TRUE(saved.at("mean").equal(OnDevice::filled(2)));
        part.weight.copy_(OnDevice::filled(1));
        part.mean.copy_(OnDevice::filled(2));
      }
    }
    group->close();
  });
}

}  // namespace
}  // namespace lockstep::training
