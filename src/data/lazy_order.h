// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
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
    std::call_once(once_, [this] { order_ = make_(); });
    return order_[static_cast<std::size_t>(position)];
  }

 private:
  Make make_;
  mutable std::once_flag once_;
  mutable std::vector<std::int64_t> order_;
};

}  // namespace lockstep::data::detail
