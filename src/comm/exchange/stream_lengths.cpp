// SPDX-License-Identifier: BSD-3-Clause
#include "comm/exchange/stream_lengths.h"

#include <algorithm>

namespace lockstep {

Exchange StreamLengths::gather(const Streams& own, int world_size) {
  const auto ranks = static_cast<std::size_t>(world_size);
  own_ = lengths_of(own);
  all_.resize(ranks * own_.size());
  Exchange exchange{.pattern = Exchange::Pattern::AllGather};
  exchange.sends.assign(ranks, std::as_bytes(std::span(own_)));
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    exchange.receives.push_back(std::as_writable_bytes(row(rank)));
  }
  return exchange;
}

std::size_t StreamLengths::check() {
  std::vector<std::span<const std::uint64_t>> rows;
  for (std::size_t rank = 0; rank < all_.size() / own_.size(); ++rank) rows.push_back(row(rank));
  check_lengths(rows);
  return *std::max_element(all_.begin(), all_.end());
}

std::span<std::uint64_t> StreamLengths::row(std::size_t rank) {
  return std::span(all_).subspan(rank * own_.size(), own_.size());
}

}  // namespace lockstep
