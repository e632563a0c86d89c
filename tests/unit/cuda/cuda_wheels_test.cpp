// SPDX-License-Identifier: BSD-3-Clause
// CUDA and NCCL come from LibTorch's wheels, with no toolkit: a program that uses their headers
// compiles, links, and loads one copy of each. Needs no GPU.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <lockstep/core/device.h>
#include <nccl.h>

#include <fstream>
#include <set>
#include <string>

namespace lockstep {
namespace {

std::set<std::string> loaded_files(const std::string& name) {
  std::set<std::string> files;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const auto path = line.find('/');
    if (path != std::string::npos && line.find(name, path) != std::string::npos) {
      files.insert(line.substr(path));
    }
  }
  return files;
}

TEST(CudaWheels, NcclIsTheOneThatItsHeaderDescribesAndIsThereOnce) {
  int version = 0;
  ASSERT_EQ(ncclGetVersion(&version), ncclSuccess);
  EXPECT_EQ(version, NCCL_VERSION_CODE);
  EXPECT_EQ(loaded_files("/libnccl.so").size(), 1U);
}

TEST(CudaWheels, TheCudaRuntimeIsThereOnce) {
  int version = 0;
  ASSERT_EQ(cudaRuntimeGetVersion(&version), cudaSuccess);
  EXPECT_EQ(version / 1000, CUDART_VERSION / 1000);
  EXPECT_EQ(loaded_files("/libcudart").size(), 1U);
  EXPECT_EQ(loaded_files("/libtorch_cuda.so").size(), 1U) << "the linker dropped it";
}

TEST(CudaWheels, BindDeviceFollowsTheNumberOfGpus) {
  const auto count = c10::cuda::device_count();
  EXPECT_EQ(bind_device(0).is_cuda(), count > 0);
  if (count == 0) return;
  EXPECT_EQ(bind_device(count).index(), 0);
  EXPECT_EQ(c10::cuda::current_device(), 0);
}

}  // namespace
}  // namespace lockstep
