// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "inference/request_words.h"
#include "native/posix/shared_memory_region.h"
#include "workers/worker_table.h"

namespace lockstep::inference::detail {

/// How a channel is divided.
struct ChannelShape {
  std::size_t slots = 0;
  std::size_t members = 0;
  std::vector<std::size_t> member_of_worker;  ///< copies of a member stand side by side
};

/// Requests on their way to members and back, in memory that the program's process, the fork server
/// and the members share. A request has a slot, and in it a part for each member.
///
/// There is no lock in shared memory. What is true of a part stands in its word; whoever dies
/// leaves a word that names the process, and the fork server opens the part again. Wake-ups may be
/// lost with a process; nobody sleeps for longer than a slice.
///
/// Thread-safety: each function says who calls it; as many of them at a time as there are.
/// Owns: the shared memory, as far as this process is concerned.
class RequestChannel {
 public:
  /// Nobody sleeps for longer at a time.
  static constexpr std::chrono::milliseconds kSlice{100};
  /// A request that has ended so many processes is poison.
  static constexpr std::uint32_t kMostEnds = 2;

  /// Throws: `std::system_error`.
  explicit RequestChannel(ChannelShape shape);
  RequestChannel(const RequestChannel&) = delete;
  RequestChannel& operator=(const RequestChannel&) = delete;

  [[nodiscard]] const ChannelShape& shape() const noexcept { return shape_; }
  [[nodiscard]] workers::WorkerTable table() const noexcept;
  [[nodiscard]] native::SharedMemoryRegion& region() noexcept { return region_; }
  [[nodiscard]] std::span<workers::WorkerRecord> workers() const noexcept;
  [[nodiscard]] SlotWords& slot(std::size_t slot) const noexcept { return slots_[slot]; }
  [[nodiscard]] MemberWords& member(std::size_t member) const noexcept { return members_[member]; }
  [[nodiscard]] RestartWords& restarts(std::size_t worker) const noexcept {
    return restarts_[worker];
  }
  [[nodiscard]] PartWords& part(std::size_t slot, std::size_t member) const noexcept {
    return parts_[slot * shape_.members + member];
  }
  [[nodiscard]] PartWord word(std::size_t slot, std::size_t member) const noexcept;
  /// Bytes that are taken for a tensor of a slot: its input, or behind it a member's output.
  [[nodiscard]] std::atomic<std::uint64_t>& room(std::size_t slot,
                                                 std::size_t area) const noexcept {
    return rooms_[slot * areas() + area];
  }
  [[nodiscard]] std::size_t areas() const noexcept { return shape_.members + 1; }

  // The program's side.
  /// Gives the request in `slot`, whose words are written, to all members.
  void open(std::size_t slot, std::uint64_t sequence);
  /// Nobody waits for this request any more: parts that nobody has claimed are over.
  void abandon(std::size_t slot);
  /// Whether no member is at the request.
  [[nodiscard]] bool is_over(std::size_t slot) const;
  /// Whether a copy of the member can claim parts now.
  [[nodiscard]] bool has_ready_copy(std::size_t member) const;
  /// What the last process of this number said before it ended; empty if nothing.
  [[nodiscard]] std::string last_words(std::size_t worker) const;
  /// Ends an open part whose member is gone for good.
  void give_up(std::size_t slot, std::size_t member, std::string_view why);
  /// Sleeps until `changes` of the slot is no longer `seen`. Blocks: at most `limit`.
  void wait_for_change(std::size_t slot, std::uint32_t seen, std::chrono::nanoseconds limit) const;
  /// Sleeps until `completions()` is no longer `seen`. Blocks: at most `limit`.
  void wait_for_completion(std::uint32_t seen, std::chrono::nanoseconds limit) const;
  [[nodiscard]] std::uint32_t completions() const noexcept;
  /// Wakes whoever waits for this slot.
  void announce(std::size_t slot) const;

  // A member's side.
  /// The open part of the oldest request, if there is one; expired ones are ended on the way.
  [[nodiscard]] bool find_oldest(std::size_t member, std::size_t& slot, std::uint64_t& sequence);
  /// Claims the part, if it is still open.
  [[nodiscard]] bool claim(std::size_t worker, std::size_t slot, std::uint64_t sequence);
  /// Opens a part that the worker has claimed again.
  void give_back(std::size_t worker, std::size_t slot, std::uint64_t sequence);
  /// Ends a part that the worker has claimed, and wakes whoever waits for it.
  void finish(std::size_t worker, std::size_t slot, std::uint64_t sequence, PartState state);
  [[nodiscard]] std::uint32_t work_count() const noexcept;
  /// Sleeps until `work_count()` is no longer `seen`. Blocks: at most `limit`.
  void wait_for_work(std::size_t worker, std::uint32_t seen, std::chrono::nanoseconds limit) const;
  [[nodiscard]] std::span<const std::atomic<std::uint64_t>> words_of(
      std::size_t member) const noexcept {
    return {words_ + member * shape_.slots, shape_.slots};
  }

  // The fork server's side.
  /// A worker has ended: what it had is opened again, or fails if it is poison.
  void repair(std::size_t worker);

 private:
  [[nodiscard]] std::atomic<std::uint64_t>& word_at(std::size_t slot,
                                                    std::size_t member) const noexcept {
    return words_[member * shape_.slots + slot];
  }
  [[nodiscard]] bool waits_for_no_copy(std::size_t slot) const;
  void repair_part(std::size_t worker, std::size_t slot, std::size_t member);

  ChannelShape shape_;
  native::SharedMemoryRegion region_;
  ChannelHeader* header_ = nullptr;
  workers::WorkerRecord* records_ = nullptr;
  RestartWords* restarts_ = nullptr;
  MemberWords* members_ = nullptr;
  std::atomic<std::uint64_t>* words_ = nullptr;  // a member's side by side: all are looked at
  SlotWords* slots_ = nullptr;
  PartWords* parts_ = nullptr;
  std::atomic<std::uint64_t>* rooms_ = nullptr;
};

}  // namespace lockstep::inference::detail
