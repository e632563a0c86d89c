// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "data/loader/look_ahead_counts.h"
#include "native/posix/page_size.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// What all processes of a loader must agree on about samples; lies in the channel's user area,
/// zeroed at first.
///
/// What the workers count lies behind it, and behind that what a spawned worker must know.
///
/// Nobody knows what a sample looks like before one has been fetched, and the rank does not fetch
/// it: a dataset that crashes must not take the rank along. `turn` says whose first sample decides:
/// the batch with this sequence, then `kPublished`. So the decision does not depend on which worker
/// is faster.
///
/// The payload, a part of the shared memory region, then begins with the structure of a sample
/// (`layout_bytes`, 0 where batches are built as a whole), and the slots follow on a page of their
/// own.
///
/// Thread-safety: all processes, as far as the members say. The rank moves `turn`, and the worker
/// whose batch has it publishes the rest.
struct SharedLayout {
  static constexpr std::uint64_t kNobody = 0;
  static constexpr std::uint64_t kPublished = ~std::uint64_t{0};
  /// Plus the number of the worker that publishes the layout now.
  static constexpr std::uint64_t kPublishing = std::uint64_t{1} << 63;

  std::atomic<std::uint64_t> turn;
  /// 1: samples are not such that one worker can pass them on to another (`can_be_passed_on`).
  std::atomic<std::uint32_t> samples_stay;
  std::uint64_t job_bytes;       ///< of what a spawned worker must know
  std::uint64_t payload_offset;  ///< valid once `turn` is kPublished, as all that follows
  std::uint64_t layout_bytes;
  std::uint64_t slot_bytes;

  [[nodiscard]] static SharedLayout& of(const workers::TaskChannel& channel) {
    return *reinterpret_cast<SharedLayout*>(channel.user_area());
  }
  /// How large the user area is.
  [[nodiscard]] static std::size_t bytes_for(std::size_t workers, std::size_t job_bytes) {
    return counts_offset() + workers * sizeof(LookAheadCounts) + job_bytes;
  }
  /// By worker.
  [[nodiscard]] static std::span<LookAheadCounts> counts(const workers::TaskChannel& channel) {
    auto* first = channel.user_area() + counts_offset();
    return {reinterpret_cast<LookAheadCounts*>(first), channel.workers()};
  }
  /// What a spawned worker must know.
  [[nodiscard]] static std::byte* job(const workers::TaskChannel& channel) {
    return channel.user_area() + bytes_for(channel.workers(), 0);
  }
  [[nodiscard]] std::size_t slots_offset() const { return native::round_up_to_page(layout_bytes); }
  [[nodiscard]] std::size_t slot_offset(std::size_t slot) const {
    return slots_offset() + slot * slot_bytes;
  }
  [[nodiscard]] std::size_t payload_bytes(std::size_t slots) const { return slot_offset(slots); }
  /// Maps it where that has not been done.
  /// Throws: `std::system_error`.
  [[nodiscard]] static std::byte* payload(workers::TaskChannel& channel) {
    const auto& common = of(channel);
    return channel.region().payload(common.payload_offset, common.payload_bytes(channel.slots()));
  }

 private:
  [[nodiscard]] static constexpr std::size_t counts_offset() {
    constexpr auto kLine = alignof(LookAheadCounts);
    return (sizeof(SharedLayout) + kLine - 1) / kLine * kLine;
  }
};

}  // namespace lockstep::data::detail
