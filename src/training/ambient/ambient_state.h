// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <utility>
#include <vector>

namespace lockstep {

/// The states of the default random generators: the CPU's, which a thread may have of its own, and
/// those of all CUDA devices in use.
class RandomState {
 public:
  [[nodiscard]] static RandomState current();
  void restore() const;

  [[nodiscard]] const std::vector<std::pair<at::Generator, at::Tensor>>& generators() const {
    return generators_;
  }

 private:
  std::vector<std::pair<at::Generator, at::Tensor>> generators_;
};

/// Sets the generators to a state and, when it goes, back to what they were.
class RandomGuard {
 public:
  explicit RandomGuard(const RandomState& state);
  ~RandomGuard();
  RandomGuard(const RandomGuard&) = delete;
  RandomGuard& operator=(const RandomGuard&) = delete;

 private:
  RandomState before_;
};

/// What autocast does in this thread, on the CPU and on CUDA devices.
class AutocastState {
 public:
  [[nodiscard]] static AutocastState current();
  /// This state without the cache of converted weights.
  [[nodiscard]] AutocastState without_cache() const;
  void restore() const;

 private:
  struct Device {
    bool is_enabled = false;
    at::ScalarType dtype = at::kFloat;
  };
  std::array<Device, 2> devices_;
  bool is_cache_enabled_ = false;
};

/// Sets autocast to a state and, when it goes, back to what it was.
class AutocastGuard {
 public:
  explicit AutocastGuard(const AutocastState& state);
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  AutocastState before_;
};

}  // namespace lockstep
