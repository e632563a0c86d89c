// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "data/loader/batch_builder.h"
#include "data/loader/task_words.h"
#include "workers/task_channel.h"

namespace lockstep::data::detail {

/// The places of the batch in a slot, for a worker that has claimed some of them (`BatchPlaces`).
///
/// Runs in the worker only.
class ClaimedPlaces {
 public:
  ClaimedPlaces(workers::TaskChannel& channel, std::size_t worker, std::size_t slot)
      : channel_(channel), worker_(worker), slot_(slot) {}

  [[nodiscard]] std::size_t size() const { return channel_.items().of(slot_).size(); }
  [[nodiscard]] std::int64_t word(std::size_t place) const {
    return channel_.items().at(slot_, place);
  }
  [[nodiscard]] std::int64_t behind(std::size_t number) const {
    return static_cast<std::int64_t>(channel_.word(slot_, kBehind + number));
  }
  void begin(std::size_t place) { channel_.begin_item(worker_, slot_, place); }
  void leave_out(std::size_t place) { channel_.items().leave_out(slot_, place); }
  void replace(std::size_t place, std::int64_t index) {
    channel_.items().replace(slot_, place, index);
  }
  /// Says why the batch goes on without sample `index`, or with another one in its place. In a
  /// catch block only.
  void note(std::size_t place, std::int64_t index) {
    auto failure = current_failure(worker_, place);
    failure.item = index;
    channel_.failures().note(slot_, failure);
  }

  /// What the exception that is being handled says about a place, for the rank.
  [[nodiscard]] static workers::Failure current_failure(std::size_t worker, std::size_t place) {
    workers::Failure failure;
    failure.position = place;
    failure.worker = worker;
    failure.pid = ::getpid();
    failure.type = current_exception_type();
    failure.message = current_exception_message();
    return failure;
  }

 private:
  workers::TaskChannel& channel_;
  std::size_t worker_;
  std::size_t slot_;
};

}  // namespace lockstep::data::detail
