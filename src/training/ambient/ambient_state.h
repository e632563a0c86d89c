// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

namespace lockstep {

class ThreadGenerator;

/// The states of the default random generators: the CPU's, which a thread may have of its own, and
/// those of all CUDA devices in use. A thread with a generator of its own, as a rank that is a
/// thread, has its current CUDA device only: the others are those of other threads.
class RandomState {
 public:
  [[nodiscard]] static RandomState current();
  void restore() const;
  /// What the same generators have now.
  [[nodiscard]] RandomState now() const;
  /// The same with a new generator of the CPU, which nobody else has.
  [[nodiscard]] RandomState with_new_generator() const;
  /// Whether the CPU's generator was one of a thread's own.
  [[nodiscard]] bool is_of_thread() const { return is_of_thread_; }

  [[nodiscard]] const std::vector<std::pair<at::Generator, at::Tensor>>& generators() const {
    return generators_;
  }

 private:
  void add(at::Generator generator);

  std::vector<std::pair<at::Generator, at::Tensor>> generators_;  // first, the CPU's
  bool is_of_thread_ = false;
};

/// Sets the generators to a state and, when it goes, back to what they were. Where the CPU's
/// belongs to a thread, then or now, this thread draws from a copy meanwhile: backward need not
/// have the generator that the first run had, and may not rewind it.
class RandomGuard {
 public:
  explicit RandomGuard(const RandomState& state);
  ~RandomGuard();
  RandomGuard(const RandomGuard&) = delete;
  RandomGuard& operator=(const RandomGuard&) = delete;

 private:
  RandomState before_;
  std::unique_ptr<ThreadGenerator> redirection_;
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
