// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>

#include "data/loader/batch_worker.h"

namespace lockstep::data::detail {

/// The places of a batch in a slot, for a worker that has claimed some of them (`BatchPlaces`).
class BatchWorker::Places {
 public:
  Places(BatchWorker& worker, std::size_t slot)
      : worker_(worker), channel_(worker.channel_), slot_(slot) {}

  [[nodiscard]] std::size_t size() const { return channel_.items(slot_).size(); }
  [[nodiscard]] std::int64_t word(std::size_t place) const { return channel_.item(slot_, place); }
  [[nodiscard]] std::int64_t behind(std::size_t number) const {
    return static_cast<std::int64_t>(channel_.word(slot_, kBehind + number));
  }
  void begin(std::size_t place) { channel_.begin_item(worker_.worker_, slot_, place); }
  void note(std::size_t place, std::int64_t index) { worker_.note(slot_, place, index); }
  void leave_out(std::size_t place) { channel_.leave_out(slot_, place); }
  void replace(std::size_t place, std::int64_t index) { channel_.replace(slot_, place, index); }

 private:
  BatchWorker& worker_;
  workers::SharedMemoryChannel& channel_;
  std::size_t slot_;
};

}  // namespace lockstep::data::detail
