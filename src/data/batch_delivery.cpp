// SPDX-License-Identifier: BSD-3-Clause
// The last step of the way of a sample: a slot that is full becomes tensors that lie in it. Before
// it: worker_source found it ready.
#include <ATen/ops/from_blob.h>
#include <lockstep/core/logging.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "data/batch_builder.h"
#include "data/value_bytes.h"
#include "data/value_tensors.h"
#include "data/worker_source.h"
#include "native/posix/owning_process.h"
#include "workers/unit_word.h"

namespace lockstep::data::detail {
namespace {

using workers::SharedMemoryChannel;

// Counts the tensors that lie in a piece of memory, and gives it back when the last of them is
// gone, in whatever thread, even after the loader is gone. Each tensor's storage has the lease
// itself as its context, so a delivery allocates one lease and nothing more of its own.
class Lease {
 public:
  virtual ~Lease() = default;
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  static void drop(void* lease) {
    auto* self = static_cast<Lease*>(lease);
    if (self->holders_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete self;
  }
  at::Tensor tensor(std::byte* place, at::IntArrayRef sizes, at::ScalarType dtype) {
    holders_.fetch_add(1, std::memory_order_relaxed);
    return at::for_blob(place, sizes)
        .context(this, &Lease::drop)
        .options(at::TensorOptions(dtype))
        .make_tensor();
  }

 protected:
  explicit Lease(std::shared_ptr<SharedMemoryChannel> owner) : channel(std::move(owner)) {}

  std::shared_ptr<SharedMemoryChannel> channel;
  native::OwningProcess process;  // one that the program forks gives nothing back

 private:
  std::atomic<std::size_t> holders_{1};  // whoever makes the tensors
};

class SlotLease : public Lease {
 public:
  /// With `parking`, a device may read the slot when it is let go of.
  SlotLease(std::shared_ptr<SharedMemoryChannel> owner, std::size_t slot,
            std::shared_ptr<SlotParking> parking)
      : Lease(std::move(owner)), slot_(slot), parking_(std::move(parking)) {}
  ~SlotLease() override {
    if (!process.is_current()) return;
    if (parking_) {
      parking_->park(slot_);
    } else {
      channel->release(slot_);
    }
  }

 private:
  std::size_t slot_;
  std::shared_ptr<SlotParking> parking_;
};

// For a batch that has memory of its own.
class PieceLease : public Lease {
 public:
  PieceLease(std::shared_ptr<SharedMemoryChannel> owner, native::MappedPiece piece)
      : Lease(std::move(owner)), piece_(std::move(piece)) {}
  ~PieceLease() override {
    if (process.is_current()) piece_.drop();
  }
  [[nodiscard]] const native::MappedPiece& piece() const { return piece_; }

 private:
  native::MappedPiece piece_;
};

struct Drop {
  void operator()(Lease* lease) const { Lease::drop(lease); }
};
template <class T>
using Held = std::unique_ptr<T, Drop>;

Held<SlotLease> hold(const std::shared_ptr<SharedMemoryChannel>& channel, std::size_t slot,
                     std::shared_ptr<SlotParking> parking) {
  Held<SlotLease> lease(new SlotLease(channel, slot, std::move(parking)));
  channel->hold(slot);
  return lease;
}

MakeTensor tensors_of(Lease& lease) {
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

Value WorkerSource::deliver(std::size_t slot) {
  pin_ring(slot);
  const bool keep_a_copy = circulating() - 1 < workers_ + 1;
  const auto items = channel_->items(slot).size();
  bool was_copied = false;
  const auto samples = job_->source.open ? static_cast<std::size_t>(channel_->result(slot)) : items;
  Value batch = open(slot, keep_a_copy, was_copied);
  ++next_;
  ++statistics_.batches;
  statistics_.samples += samples;
  const auto now = Clock::now();
  statistics_.seconds += std::chrono::duration<double>(now - last_taken_).count();
  last_taken_ = now;
  if (!keep_a_copy || was_copied) {
    return pinning_ && was_copied ? clone_into_pinned_memory(batch) : batch;
  }
  ++statistics_.copies;
  if (!std::exchange(has_warned_, true)) {
    const auto parked = parking_ ? parking_->count() : 0;
    logging::warning(
        "data loader: the program keeps " + std::to_string(slots_.size() - circulating() - 1) +
        " batches" +
        (parked == 0 ? "" : ", " + std::to_string(parked) + " of them for copies to a device") +
        ", so further ones are copied; let go of batches earlier, or raise prefetch_batches");
  }
  return pinning_ ? clone_into_pinned_memory(batch) : clone(batch);
}

// Without memory a batch is lost, and the next ones come.
Value WorkerSource::open(std::size_t slot, bool keep_a_copy, bool& was_copied) {
  try {
    return job_->source.has_rows ? open_rows(slot, keep_a_copy, was_copied)
                                 : open_whole(slot, keep_a_copy, was_copied);
  } catch (const std::exception& error) {
    WorkerError::Context context;
    context.pid = ::getpid();
    context.exception_type = current_exception_type();
    context.message = error.what();
    // It may already be in a tensor's hands, which give it back.
    const bool is_ours = slots_[slot].use == Use::Live;
    give_up_batch(is_ours ? std::optional(slot) : std::nullopt, std::move(context));
  }
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

Value WorkerSource::open_rows(std::size_t slot, bool keep_a_copy, bool& was_copied) {
  if (!layout_) {
    const auto& common = SharedLayout::of(*channel_);
    const auto* payload = slot_memory(0) - common.slots_offset();
    layout_ = ValueLayout::from_bytes({payload, common.layout_bytes}, common.slot_bytes);
  }
  std::byte* memory = slot_memory(slot);
  const auto items = channel_->items(slot).size();
  const auto rows = skips_poison_ ? rows_of(slot) : std::vector<std::int64_t>();
  const auto lease = hold(channel_, slot, keep_a_copy ? nullptr : parking_);
  slots_[slot].use = Use::None;
  auto batch = read_rows(*layout_, memory, items, tensors_of(*lease));
  if (!skips_poison_ || rows.size() == items) return batch;
  statistics_.skipped_samples += items - rows.size();
  ++statistics_.copies;
  was_copied = true;
  return select_rows(batch, rows);
}

Value WorkerSource::open_whole(std::size_t slot, bool keep_a_copy, bool& was_copied) {
  const auto& common = SharedLayout::of(*channel_);
  if (skips_poison_) {
    statistics_.skipped_samples += channel_->items(slot).size() - rows_of(slot).size();
  }
  auto piece = channel_->map_piece(slot, SharedMemoryChannel::kResultPiece);
  if (!piece) {
    std::byte* memory = slot_memory(slot);
    const auto lease = hold(channel_, slot, keep_a_copy ? nullptr : parking_);
    slots_[slot].use = Use::None;
    return ValueBytes::read(memory, common.slot_bytes, tensors_of(*lease));
  }
  const Held<PieceLease> lease(new PieceLease(channel_, std::move(*piece)));
  slots_[slot].use = Use::None;
  channel_->release(slot);
  ++statistics_.oversize;
  was_copied = true;  // nothing is gained by a copy: the slot is free
  return ValueBytes::read(lease->piece().data(), lease->piece().size(), tensors_of(*lease));
}

}  // namespace lockstep::data::detail
