// SPDX-License-Identifier: BSD-3-Clause
// The last step of the way of a sample: a slot that is full becomes tensors that lie in it. Before
// it: worker_source found it ready.
#include <lockstep/core/logging.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "data/loader/batch_builder.h"
#include "data/loader/batch_lease.h"
#include "data/loader/worker_source.h"
#include "data/samples/tree_codec.h"
#include "data/samples/tree_tensors.h"

namespace lockstep::data::detail {
namespace {

using workers::SharedMemoryChannel;

MakeTensor tensors_of(BatchLease& lease) {
  return [&lease](std::byte* place, at::IntArrayRef sizes, at::ScalarType dtype) {
    return lease.tensor(place, sizes, dtype);
  };
}

}  // namespace

std::byte* WorkerSource::slot_memory(std::size_t slot) {
  const auto& common = SharedLayout::of(*channel_);
  try {
    return SharedLayout::payload(*channel_) + common.slots_offset() + slot * common.slot_bytes;
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, "DataLoader: ", error.what());
  }
}

// Where the size of the ring has just been learned.
void WorkerSource::pin_ring(std::size_t slot) {
  if (!pinning_ || parking_) return;
  const auto& common = SharedLayout::of(*channel_);
  try {
    auto* payload = slot_memory(0) - common.slots_offset();
    const auto bytes = native::MemoryRing::round_up_to_page(common.payload_bytes(slots_.size()));
    parking_ = std::make_shared<SlotParking>(channel_, pinning_, payload, bytes);
  } catch (...) {  // this batch is lost, so that a loop which goes on comes to an end
    take_back(slot);
    ++next_;
    ++statistics_.lost_batches;
    throw;
  }
}

SampleTree WorkerSource::deliver(std::size_t slot, std::size_t held) {
  pin_ring(slot);
  const bool keep_a_copy = slots_.size() - held - 1 < workers_ + 1;
  bool was_copied = false;
  const auto samples = count_samples(slot);
  SampleTree batch = open(slot, keep_a_copy, was_copied);
  ++next_;
  ++statistics_.batches;
  statistics_.samples += samples;
  const auto now = Clock::now();
  statistics_.seconds += std::chrono::duration<double>(now - last_taken_).count();
  last_taken_ = now;
  if (!keep_a_copy || was_copied) {
    if (pinning_ && was_copied) return clone_into_pinned_memory(batch);
    return batch;
  }
  ++statistics_.copies;
  if (!std::exchange(has_warned_, true)) {
    const auto parked = parking_ ? parking_->count() : 0;
    logging::warning(
        "data loader: the program keeps " + std::to_string(held) + " batches" +
        (parked == 0 ? "" : ", " + std::to_string(parked) + " of them for copies to a device") +
        ", so further ones are copied; let go of batches earlier, or raise prefetch_batches");
  }
  return pinning_ ? clone_into_pinned_memory(batch) : clone(batch);
}

// Without memory a batch is lost, and the next ones come.
SampleTree WorkerSource::open(std::size_t slot, bool keep_a_copy, bool& was_copied) {
  try {
    return job_->source.has_rows ? open_rows(slot, keep_a_copy, was_copied)
                                 : open_whole(slot, keep_a_copy, was_copied);
  } catch (...) {
    WorkerError::Context context;
    context.pid = ::getpid();
    context.exception_type = current_exception_type();
    context.message = current_exception_message();
    // It may already be in a tensor's hands, which give it back.
    const bool is_ours = slots_[slot].use == Use::Live;
    give_up_batch(is_ours ? std::optional(slot) : std::nullopt, std::move(context));
  }
}

// Those that were not left out.
std::vector<std::int64_t> WorkerSource::rows_of(std::size_t slot) const {
  const auto items = channel_->items(slot).size();
  std::vector<std::int64_t> rows;
  for (std::size_t row = 0; row < items; ++row) {
    if (!channel_->is_left_out(slot, row)) {
      rows.push_back(static_cast<std::int64_t>(row));
    }
  }
  return rows;
}

SampleTree WorkerSource::open_rows(std::size_t slot, bool keep_a_copy, bool& was_copied) {
  std::byte* memory = slot_memory(slot);
  if (!layout_) {
    const auto& common = SharedLayout::of(*channel_);
    const auto* payload = slot_memory(0) - common.slots_offset();
    layout_ = SampleLayout::from_bytes({payload, common.layout_bytes}, common.slot_bytes);
  }
  const auto items = channel_->items(slot).size();
  const auto rows = may_leave_out_ ? rows_of(slot) : std::vector<std::int64_t>();
  const HeldLease<SlotLease> lease(new SlotLease(channel_, slot, keep_a_copy ? nullptr : parking_));
  slots_[slot].use = Use::None;
  auto batch = read_rows(*layout_, memory, items, tensors_of(*lease));
  if (!may_leave_out_ || rows.size() == items) return batch;
  ++statistics_.copies;
  was_copied = true;
  return select_rows(batch, rows);
}

SampleTree WorkerSource::open_whole(std::size_t slot, bool keep_a_copy, bool& was_copied) {
  const auto& common = SharedLayout::of(*channel_);
  auto piece = channel_->map_piece(slot, SharedMemoryChannel::kResultPiece);
  if (!piece) {
    std::byte* memory = slot_memory(slot);
    const HeldLease<SlotLease> lease(
        new SlotLease(channel_, slot, keep_a_copy ? nullptr : parking_));
    slots_[slot].use = Use::None;
    return TreeCodec::read(memory, common.slot_bytes, tensors_of(*lease));
  }
  const HeldLease<PieceLease> lease(new PieceLease(channel_, std::move(*piece)));
  slots_[slot].use = Use::None;
  channel_->release(slot);
  ++statistics_.oversize;
  was_copied = true;  // nothing is gained by a copy: the slot is free
  return TreeCodec::read(lease->piece().data(), lease->piece().size(), tensors_of(*lease));
}

}  // namespace lockstep::data::detail
