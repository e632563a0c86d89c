// SPDX-License-Identifier: BSD-3-Clause
// The last step of the way of a sample: a slot that is full becomes tensors that lie in it. Before
// it: worker_source found it ready.
#include <ATen/ops/from_blob.h>
#include <lockstep/core/logging.h>

#include <cstring>
#include <string>
#include <system_error>
#include <utility>

#include "data/worker_source.h"
#include "workers/unit_word.h"

namespace lockstep::data::detail {
namespace {

using workers::SharedMemoryChannel;

// Gives a slot back when the last tensor that lies in it is gone, in whatever thread, even after
// the loader is gone.
struct SlotLease {
  std::shared_ptr<SharedMemoryChannel> channel;
  std::size_t slot;

  SlotLease(std::shared_ptr<SharedMemoryChannel> owner, std::size_t number)
      : channel(std::move(owner)), slot(number) {}
  ~SlotLease() { channel->release(slot); }
  SlotLease(const SlotLease&) = delete;
  SlotLease& operator=(const SlotLease&) = delete;
};

// The same for a batch that has memory of its own.
struct PieceLease {
  std::shared_ptr<SharedMemoryChannel> channel;
  std::size_t payload;
  std::size_t offset;
  std::size_t bytes;
  std::byte* memory;

  PieceLease(std::shared_ptr<SharedMemoryChannel> owner, std::size_t payload_bytes,
             std::size_t piece_offset, std::size_t piece_bytes)
      : channel(std::move(owner)),
        payload(payload_bytes),
        offset(piece_offset),
        bytes(piece_bytes),
        memory(channel->ring().map_piece(payload, offset, bytes)) {}
  ~PieceLease() {
    native::MemoryRing::unmap_piece(memory, bytes);
    channel->ring().free_piece(payload, offset, bytes);
  }
  PieceLease(const PieceLease&) = delete;
  PieceLease& operator=(const PieceLease&) = delete;
};

template <class Lease>
MakeTensor tensors_of(std::shared_ptr<Lease> lease) {
  return [lease](std::byte* place, at::IntArrayRef sizes, at::ScalarType dtype) {
    return at::from_blob(
        place, sizes, [lease](void*) {}, at::TensorOptions(dtype));
  };
}

Value read_batch(std::byte* memory, std::size_t bytes, const MakeTensor& make) {
  WholeHeader header;
  std::memcpy(&header, memory, sizeof(header));
  TORCH_CHECK(header.leaves_offset <= bytes &&
                  header.leaves_bytes <= bytes - header.leaves_offset &&
                  header.form_bytes <= header.leaves_offset - sizeof(header),
              "DataLoader: the batch that a worker wrote does not fit its memory");
  const auto layout =
      ValueLayout::from_bytes({memory + sizeof(header), header.form_bytes}, header.leaves_bytes);
  return read_whole(layout, memory + header.leaves_offset, make);
}

}  // namespace

std::byte* WorkerSource::slot_memory(std::size_t slot) {
  const auto& common = SharedLayout::of(*channel_);
  try {
    return channel_->ring().payload(common.payload_bytes(slots_.size())) + common.slots_offset() +
           slot * common.slot_bytes;
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, "DataLoader: ", error.what());
  }
}

Value WorkerSource::deliver(std::size_t slot) {
  const bool keep_a_copy = circulating() - 1 < workers_ + 1;
  const auto items = channel_->items(slot).size();
  bool was_copied = false;
  const auto samples =
      job_->source.open ? static_cast<std::size_t>(channel_->result(slot, kRows)) : items;
  Value batch = job_->source.has_rows ? open_rows(slot, was_copied) : open_whole(slot, was_copied);
  ++next_;
  ++statistics_.batches;
  statistics_.samples += samples;
  const auto now = Clock::now();
  statistics_.seconds += std::chrono::duration<double>(now - last_taken_).count();
  last_taken_ = now;
  if (!keep_a_copy || was_copied) return batch;
  ++statistics_.copies;
  if (!std::exchange(has_warned_, true)) {
    logging::warning("data loader: the program keeps " +
                     std::to_string(slots_.size() - circulating() - 1) +
                     " batches, so further ones are copied; let go of batches earlier, or raise "
                     "prefetch_batches");
  }
  return clone(batch);
}

// Those that were not left out.
std::vector<std::int64_t> WorkerSource::rows_of(std::size_t slot) const {
  const auto items = channel_->items(slot);
  std::vector<std::int64_t> rows;
  for (std::size_t row = 0; row < items.size(); ++row) {
    if (items[row] != workers::kLeftOut && !channel_->is_skipped(slot, row)) {
      rows.push_back(static_cast<std::int64_t>(row));
    }
  }
  return rows;
}

Value WorkerSource::open_rows(std::size_t slot, bool& was_copied) {
  if (!layout_) {
    const auto& common = SharedLayout::of(*channel_);
    const auto* payload = slot_memory(0) - common.slots_offset();
    layout_ = ValueLayout::from_bytes({payload, common.layout_bytes}, common.slot_bytes);
  }
  std::byte* memory = slot_memory(slot);
  const auto items = channel_->items(slot).size();
  const auto rows = skips_poison_ ? rows_of(slot) : std::vector<std::int64_t>();
  channel_->hold(slot);
  slots_[slot].use = Use::None;
  const auto lease = std::make_shared<SlotLease>(channel_, slot);
  auto batch = read_rows(*layout_, memory, items, tensors_of(lease));
  if (!skips_poison_ || rows.size() == items) return batch;
  statistics_.skipped_samples += items - rows.size();
  ++statistics_.copies;
  was_copied = true;
  return select_rows(batch, rows);
}

Value WorkerSource::open_whole(std::size_t slot, bool& was_copied) {
  const auto& common = SharedLayout::of(*channel_);
  for (const auto item : channel_->items(slot)) {
    statistics_.skipped_samples += item == workers::kLeftOut;
  }
  const auto bytes = static_cast<std::size_t>(channel_->result(slot, kPieceBytes));
  if (bytes == 0) {
    std::byte* memory = slot_memory(slot);
    channel_->hold(slot);
    slots_[slot].use = Use::None;
    const auto lease = std::make_shared<SlotLease>(channel_, slot);
    return read_batch(memory, common.slot_bytes, tensors_of(lease));
  }
  const auto offset = static_cast<std::size_t>(channel_->result(slot, kPiece));
  slots_[slot].use = Use::None;
  channel_->release(slot);
  ++statistics_.oversize;
  was_copied = true;  // nothing is gained by a copy: the slot is free
  const auto lease =
      std::make_shared<PieceLease>(channel_, common.payload_bytes(slots_.size()), offset, bytes);
  return read_batch(lease->memory, bytes, tensors_of(lease));
}

}  // namespace lockstep::data::detail
