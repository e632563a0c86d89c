// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "workers/channel_layout.h"
#include "workers/claim_table.h"
#include "workers/pool_events.h"
#include "workers/task.h"

namespace lockstep::workers {

/// To make a vector of, which is memory as a channel's.
struct alignas(ChannelLayout::kLine) CacheLine {
  std::byte bytes[ChannelLayout::kLine];
};

// Memory as a channel's, without a channel, so that the words can be set.
struct BareChannel {
  explicit BareChannel(const ChannelShape& shape)
      : memory(ChannelLayout::bytes_for(shape) / sizeof(CacheLine)),
        layout(ChannelLayout::create(std::as_writable_bytes(std::span(memory)), shape)) {}

  // What `TaskChannel::assign` writes before it opens the claims.
  void write(std::size_t slot, std::uint64_t sequence, std::uint32_t chunks) {
    auto& words = layout.slot(slot);
    words.count = words.chunks = chunks;
    words.items_per_chunk = 1;
    words.worker = Task::kAnybody;
    words.sequence = sequence;
  }

  std::vector<CacheLine> memory;
  ChannelLayout layout;
  PoolEvents events{layout.events()};
  ClaimTable claims{layout, events};
};

inline std::vector<std::int64_t> numbers(std::int64_t first, std::size_t count) {
  std::vector<std::int64_t> items(count);
  std::iota(items.begin(), items.end(), first);
  return items;
}

inline Task task(std::uint64_t sequence, const std::vector<std::int64_t>& items,
                 std::size_t items_per_chunk = 1) {
  Task result;
  result.sequence = sequence;
  result.items = items;
  result.items_per_chunk = items_per_chunk;
  return result;
}

inline Task collate_task(std::uint64_t sequence, const std::vector<std::int64_t>& items,
                         std::size_t items_per_chunk = 1) {
  auto result = task(sequence, items, items_per_chunk);
  result.has_collate_task = true;
  return result;
}

}  // namespace lockstep::workers
