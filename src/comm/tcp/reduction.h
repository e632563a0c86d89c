// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>

namespace lockstep {

/// How the values of several ranks become one, element by element. The sums of a type may be kept
/// in a longer one until the end.
struct ReduceKernel {
  using Inputs = std::span<const void* const>;

  std::size_t element_bytes = 0;
  std::size_t accumulator_bytes = 0;
  /// Of all ranks, in their order. The output may be one of the inputs.
  std::function<void(Inputs inputs, void* output, std::size_t elements)> all;
  /// `before`: the sums of earlier ranks; null: there is none. `after` may be `before`.
  std::function<void(const void* before, Inputs inputs, void* after, std::size_t elements)> some;
  /// Of the last ranks.
  std::function<void(const void* before, Inputs inputs, void* output, std::size_t elements)> last;
};

/// Something that the engine does in the background, in many transfers.
/// Thread-safety: `is_done` from any thread, the rest under `TcpEngine::mutex`.
class TcpTask {
 public:
  virtual ~TcpTask() = default;
  [[nodiscard]] bool is_done() const noexcept { return is_done_.load(std::memory_order_acquire); }
  /// Before the task begins: what is called at its end.
  void when_done(std::function<void()> notify) { notify_ = std::move(notify); }

 protected:
  void expect(std::size_t transfers) noexcept { missing_ += transfers; }
  /// One transfer has ended.
  void finish_one() {
    if (--missing_ == 0) {
      is_done_.store(true, std::memory_order_release);
      if (notify_) notify_();
    }
  }

 private:
  std::size_t missing_ = 0;
  std::function<void()> notify_;
  std::atomic<bool> is_done_ = false;
};

}  // namespace lockstep
