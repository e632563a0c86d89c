// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

namespace lockstep::data::detail {

/// An epoch's order that is worked out as a whole, by the first who asks. Copies of a sampler share
/// it.
///
/// Thread-safety: full.
class LazyOrder {
 public:
  using Make = std::function<std::vector<std::int64_t>()>;

  explicit LazyOrder(Make make) : make_(std::move(make)) {}

  [[nodiscard]] std::int64_t at(std::uint64_t position) const {
    return made()[static_cast<std::size_t>(position)];
  }
  /// What stands at `position` and every `step`-th from there on.
  void fill(std::span<std::int64_t> indices, std::uint64_t position, std::uint64_t step) const {
    const auto& order = made();
    for (auto& index : indices) {
      index = order[static_cast<std::size_t>(position)];
      position += step;
    }
  }

 private:
  [[nodiscard]] const std::vector<std::int64_t>& made() const {
    // Dearer than a look, and asked once a batch at least.
    if (!is_made_.load(std::memory_order_acquire)) std::call_once(once_, [this] { make_once(); });
    return order_;
  }
  void make_once() const {
    order_ = make_();
    is_made_.store(true, std::memory_order_release);
  }

  Make make_;
  mutable std::once_flag once_;
  mutable std::atomic<bool> is_made_{false};
  mutable std::vector<std::int64_t> order_;
};

}  // namespace lockstep::data::detail
