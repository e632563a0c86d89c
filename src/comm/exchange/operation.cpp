// SPDX-License-Identifier: BSD-3-Clause
#include "comm/exchange/operation.h"

#include <algorithm>

namespace lockstep {

ExchangeOperation::ExchangeOperation(Transport& transport, const Fingerprint& fingerprint,
                                     std::size_t bytes, std::size_t chunk_bytes)
    : transport_(transport),
      own_(fingerprint),
      all_(static_cast<std::size_t>(transport.world_size())),
      bytes_(bytes),
      chunk_bytes_(chunk_bytes) {}

bool ExchangeOperation::try_start(bool) {
  if (!announcement_) announcement_ = transport_.announce(own_, all_);
  return true;
}

bool ExchangeOperation::try_finish() {
  if (!is_agreed_) {
    if (!announcement_->is_done()) return false;
    check_fingerprints(world_size(),
                       [this](int rank) { return all_[static_cast<std::size_t>(rank)]; });
    is_agreed_ = true;
  }
  while (is_step_done()) {
    backoff_.reset();
    if (!start_next_step()) return true;
  }
  return false;
}

bool ExchangeOperation::start_next_step() {
  if (!is_prepared_) {
    if (start_preparation(step_++)) return true;
    is_prepared_ = true;
    step_ = 0;
  }
  while (done_bytes_ < bytes_) {
    const Chunk chunk{done_bytes_, std::min(chunk_bytes_, bytes_ - done_bytes_)};
    if (start_step(step_++, chunk)) return true;
    done_bytes_ += chunk.bytes;
    step_ = 0;
  }
  return false;
}

void ExchangeOperation::check_peers() {
  if (announcement_) announcement_->check_peers();
}

std::string ExchangeOperation::describe_missing() const {
  return announcement_ ? announcement_->describe_missing() : "this rank has not begun";
}

}  // namespace lockstep
