// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <lockstep/comm/process_group.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pipeline/runtime/activation_slots.h"
#include "pipeline/runtime/parcel.h"

namespace lockstep::pipeline {

/// One kind of traffic between the stages of different ranks, over a group of its own: messages of
/// the group, in the order in which the plan sends and receives them.
///
/// A message with the description comes first. The tensors follow, a message each, or lie in a slot
/// that the receiver reads where it is. A send never blocks; its tensors stay here until it is
/// complete. Thread-safety: as the group's.
class StageLink {
 public:
  explicit StageLink(std::shared_ptr<ProcessGroup> group) : group_(std::move(group)) {}

  /// From here on, tensors lie in slots where the ranks share memory: so many a rank, each as large
  /// as the largest parcel so far. What does not fit, or finds no free slot, goes as messages.
  /// Collective. Blocks: the calling thread. Throws: what a collective throws.
  void make_slots(std::int64_t slots);
  /// Begins to send.
  void send(int to, Parcel parcel);
  /// From here on, the next parcel of that rank may arrive, on that device.
  void post(int from, c10::Device device);
  /// The oldest parcel that was posted for that rank. `other`: the traffic whose sends must make
  /// progress meanwhile.
  ///
  /// Blocks: the calling thread, until the deadline of a message at the latest. Throws: what a
  /// message throws.
  [[nodiscard]] Parcel take(int from, StageLink& other);
  /// Waits until nothing is left to send, on both. Blocks and throws: as `take`.
  static void finish_sends(StageLink& one, StageLink& other);
  /// Makes all progress that is possible now.
  void progress();
  /// Whether something is left to send that moves only while this rank is in a call of the group.
  [[nodiscard]] bool sends_in_calls_alone();
  /// Moves the bytes of messages. Failures appear in the next call of another function.
  void move_messages() noexcept { group_->progress(); }

  /// Ends the group with this reason, which the other ranks get. Does not throw.
  void give_up(const std::string& reason) noexcept;
  void close() { group_->close(); }

  [[nodiscard]] std::uint64_t sent_bytes() const noexcept { return sent_bytes_; }
  /// How many parcels lay in slots.
  [[nodiscard]] std::uint64_t slots_filled() const noexcept { return slots_filled_; }

 private:
  struct Sent {
    at::Tensor tensor;
    Work work;
  };
  struct Received {
    at::Tensor tensor;
    Work work;
  };
  /// A parcel on its way: its description first, which says what else to receive.
  struct Incoming {
    c10::Device device;
    std::optional<Received> header = {};
    std::optional<Received> rest = {};  // of the description
    std::optional<Parcel> parcel = {};
    std::vector<Received> tensors = {};
  };

  void send_tensor(int to, at::Tensor tensor);
  [[nodiscard]] Received receive(int from, at::Tensor tensor);
  /// Receives as far as it can without waiting. Messages of a later parcel are asked for when those
  /// of the earlier ones have been.
  void advance(int from);
  /// Whether everything was asked for.
  [[nodiscard]] bool advance(int from, Incoming& incoming);
  /// What of the parcel has not come; null: it is complete. It was asked for.
  [[nodiscard]] static Work* missing(Incoming& incoming);
  [[nodiscard]] bool has_unsent();

  std::shared_ptr<ProcessGroup> group_;
  std::shared_ptr<ActivationSlots> slots_;  // null: there are none
  std::size_t largest_parcel_ = 0;
  std::uint64_t slots_filled_ = 0;
  std::deque<Sent> sent_;
  std::map<int, std::deque<Incoming>> incoming_;
  std::uint64_t sent_bytes_ = 0;
};

}  // namespace lockstep::pipeline
