// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Device.h>
#include <lockstep/comm/process_group.h>
#include <lockstep/comm/types.h>
#include <torch/torch.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>

/// The checks of tests/gpu/run.sh. On the CPU, they are the same with small sizes, so that they are
/// themselves tested where there is no GPU.
namespace gpu {

struct Settings {
  bool is_cpu = false;
  lockstep::Backend backend = lockstep::Backend::Auto;
  std::string mode;    ///< of a check that has several
  std::string folder;  ///< for files

  [[nodiscard]] c10::Device device() const {
    return is_cpu ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, 0);
  }
  /// A number for a GPU, or a small one.
  [[nodiscard]] std::int64_t size(std::int64_t on_gpu, std::int64_t on_cpu) const {
    return is_cpu ? on_cpu : on_gpu;
  }
};

struct CheckFailed : std::runtime_error {
  using std::runtime_error::runtime_error;
};
inline void require(bool is_so, const std::string& what) {
  if (!is_so) throw CheckFailed(what);
}

/// One line `figure NAME=VALUE`, which the script collects.
void figure(const std::string& name, const std::string& value);
void figure(const std::string& name, double value);

/// The group of the processes that the script started.
[[nodiscard]] std::shared_ptr<lockstep::ProcessGroup> make_group(
    const Settings& settings, std::chrono::milliseconds timeout = std::chrono::seconds(30),
    bool check_calls = false);
/// Waits until the device has done what it was given.
void synchronize(const Settings& settings);
[[nodiscard]] double seconds_since(std::chrono::steady_clock::time_point begin);
/// Whether all ranks have the same bits.
[[nodiscard]] bool is_equal_on_all_ranks(lockstep::ProcessGroup& group, const at::Tensor& tensor);
/// Bytes that LibTorch's allocator has given away, and that it has from the device. Zeros on the
/// CPU.
struct DeviceMemory {
  std::int64_t allocated = 0;
  std::int64_t reserved = 0;
  std::int64_t free = 0;
};
[[nodiscard]] DeviceMemory memory_of(const Settings& settings);

// The checks. They throw where something is wrong.
void describe(const Settings& settings);
void one_rank(const Settings& settings);
void collectives(const Settings& settings);
void ddp(const Settings& settings);
void fault(const Settings& settings);
void overlap(const Settings& settings);
void graphed(const Settings& settings);
void pinned(const Settings& settings);
void resnet50(const Settings& settings);
void growth(const Settings& settings);

}  // namespace gpu
