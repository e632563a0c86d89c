// SPDX-License-Identifier: BSD-3-Clause
// The NCCL backend on real GPUs; skipped where there is none. More ranks than GPUs share them: NCCL
// refuses that on one host, so each rank says that it is on another.
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <gtest/gtest.h>
#include <lockstep/comm/init.h>
#include <lockstep/core/error.h>
#include <torch/cuda.h>
#include <torch/types.h>

#include <cstdlib>
#include <string>

#include "support/collective_conformance.h"

namespace lockstep::testing {
namespace {

class NcclOnGpus : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "this machine has no GPU";
    const auto environment = LaunchEnvironment::detect();
    const int gpus = static_cast<int>(torch::cuda::device_count());
    if (gpus < environment.local_size) {
      ::setenv("NCCL_HOSTID", ("fake host " + std::to_string(environment.rank)).c_str(), 1);
      ::setenv("NCCL_SOCKET_IFNAME", "lo", 0);
    }
    const auto index = static_cast<c10::DeviceIndex>(environment.local_rank % gpus);
    device_ = c10::Device(c10::kCUDA, index);
    group_ = init_process_group(ProcessGroupOptions()
                                    .backend(Backend::Nccl)
                                    .timeout(std::chrono::seconds(60))
                                    .check_calls(true));
  }
  void TearDown() override {
    if (group_ && !HasFailure()) group_->close();
  }

  [[nodiscard]] torch::Tensor values(std::int64_t length, at::ScalarType dtype, int rank) const {
    return values_of_rank(rank, length, dtype).to(device_);
  }

  c10::Device device_{c10::kCPU};
  std::shared_ptr<ProcessGroup> group_;
};

TEST_F(NcclOnGpus, SumsAreThoseOfTheCpu) {
  for (const auto dtype : {at::kFloat, at::kDouble, at::kLong, at::kInt, at::kByte}) {
    for (const auto op : {ReduceOp::Sum, ReduceOp::Min, ReduceOp::Max}) {
      const auto tensor = values(1000, dtype, group_->rank());
      group_->all_reduce(tensor, op).wait();
      const auto expected = expected_reduction(group_->size(), 1000, dtype, op);
      EXPECT_TRUE(torch::allclose(tensor.cpu(), expected))
          << text_of("all_reduce", op, 1000, dtype);
    }
  }
}

TEST_F(NcclOnGpus, ShortFloatsFactorsAndComplexNumbers) {
  for (const auto dtype : {at::kHalf, at::kBFloat16, at::kComplexFloat}) {
    for (const auto op : {ReduceOp::Sum, ReduceOp::Avg, ReduceOp::PreMulSum(0.25)}) {
      const auto tensor = values(257, dtype, group_->rank());
      group_->all_reduce(tensor, op).wait();
      const auto expected = expected_reduction(group_->size(), 257, dtype, op);
      EXPECT_TRUE(torch::allclose(tensor.cpu(), expected, 2e-2, 2e-2))
          << text_of("all_reduce", op, 257, dtype);
    }
  }
}

TEST_F(NcclOnGpus, MovementsArrive) {
  const int size = group_->size();
  const auto own = torch::full({3}, group_->rank(), torch::TensorOptions(device_));
  const auto rows = torch::empty({size, 3}, own.options());
  group_->all_gather(rows, own).wait();
  EXPECT_EQ(rows[size - 1][2].item<float>(), static_cast<float>(size - 1));
  const auto part = torch::empty({3}, own.options());
  group_->reduce_scatter(part, rows).wait();
  EXPECT_EQ(part[0].item<float>(), static_cast<float>(size * group_->rank()));
  const auto swapped = torch::empty({size, 3}, own.options());
  group_->all_to_all(swapped, own.expand({size, 3}).contiguous()).wait();
  EXPECT_TRUE(torch::equal(swapped.cpu(), rows.cpu()));
  const auto root = own.clone();
  group_->broadcast(root, size - 1).wait();
  EXPECT_EQ(root[1].item<float>(), static_cast<float>(size - 1));
  group_->barrier();
}

TEST_F(NcclOnGpus, WaitOrdersTheCurrentStream) {
  const c10::impl::VirtualGuardImpl guard(c10::kCUDA);
  const c10::StreamGuard scope(guard.getStreamFromGlobalPool(device_));
  const auto tensor = torch::zeros({1 << 20}, torch::TensorOptions(device_));
  for (int i = 0; i < 20; ++i) {
    // The collective waits for this, and the next for the collective.
    tensor.add_(group_->rank() == 0 ? 1 : 3);
    group_->all_reduce(tensor, ReduceOp::Avg).wait();
  }
  const float expected = 20.0F * (group_->size() == 1 ? 1.0F : 2.0F);  // of one rank, or of two
  EXPECT_EQ(tensor.min().item<float>(), expected);
  EXPECT_EQ(tensor.max().item<float>(), expected);
}

TEST_F(NcclOnGpus, GroupMemoryOutlivesTheGroup) {
  auto tensor = group_->allocate({100000}, torch::TensorOptions(device_));
  EXPECT_EQ(tensor.abs().max().item<float>(), 0.0F);
  tensor.fill_(group_->rank() + 1);
  group_->all_reduce(tensor).wait();
  const int size = group_->size();
  group_->close();
  group_.reset();
  EXPECT_EQ(tensor[99999].item<float>(), static_cast<float>(size * (size + 1) / 2));
}

TEST_F(NcclOnGpus, GroupsOfAllRanksAndMessages) {
  const auto tensor = torch::ones({10}, torch::TensorOptions(device_));
  group_->all_reduce(tensor).wait();
  const auto all = group_->split(0, -group_->rank());
  all->all_reduce(tensor).wait();
  EXPECT_EQ(tensor[3].item<float>(), static_cast<float>(group_->size() * group_->size()));
  all->close();
  if (group_->size() == 1) return;
  const int next = (group_->rank() + 1) % group_->size();
  const int previous = (group_->rank() + group_->size() - 1) % group_->size();
  const auto own = torch::full({10}, group_->rank(), tensor.options());
  group_
      ->coalesced([&] {
        group_->send(own, next);
        group_->recv(tensor, previous);
      })
      .wait();
  EXPECT_EQ(tensor[9].item<float>(), static_cast<float>(previous));
}

TEST_F(NcclOnGpus, CpuTensorsGoOverTheSideGroup) {
  const auto tensor = torch::ones({10});
  group_->all_reduce(tensor).wait();
  EXPECT_EQ(tensor[0].item<float>(), static_cast<float>(group_->size()));
}

}  // namespace
}  // namespace lockstep::testing
