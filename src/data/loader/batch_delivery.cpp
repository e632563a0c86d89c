// SPDX-License-Identifier: BSD-3-Clause
// The last step of a sample's path: a slot that is full becomes tensors that lie in it. Before it:
// worker_source found it ready.
#include "data/loader/batch_delivery.h"

#include <lockstep/core/logging.h>
#include <lockstep/data/loader/worker_error.h>

#include <string>
#include <system_error>
#include <utility>

#include "data/loader/batch_lease.h"
#include "data/loader/shared_layout.h"
#include "data/loader/task_words.h"
#include "data/loader/worker_failure.h"
#include "data/samples/tree_codec.h"
#include "data/samples/tree_tensors.h"
#include "native/posix/page_size.h"
#include "workers/overflow_blocks.h"

namespace lockstep::data::detail {
namespace {

using workers::OverflowBlocks;
using workers::SlotState;

MakeTensor tensors_of(BatchLease& lease) {
  return [&lease](std::byte* place, at::IntArrayRef sizes, at::ScalarType dtype) {
    return lease.tensor(place, sizes, dtype);
  };
}

}  // namespace

BatchDelivery::BatchDelivery(std::shared_ptr<const WorkerJob> job, const DataLoaderOptions& options)
    : job_(std::move(job)),
      channel_(*job_->channel),
      may_leave_out_(!job_->is_iterable() && (options.on_poison_sample() == SamplePolicy::Skip ||
                                              options.on_failed_sample() == SamplePolicy::Skip)) {}

void BatchDelivery::pin_batches(std::shared_ptr<native::HostPinning> pinning) {
  pinning_ = std::move(pinning);
}

void BatchDelivery::begin_pass() {
  last_taken_ = Clock::now();
}

void BatchDelivery::release_finished() noexcept {
  if (deferred_) deferred_->release_finished();
}

bool BatchDelivery::has_samples(std::size_t slot) const {
  if (!job_->is_iterable()) return !may_leave_out_ || !rows_of(slot).empty();
  const auto samples = StreamResult::of(channel_.result(slot)).samples;
  return samples == job_->facts.batch_size || (samples != 0 && !job_->facts.drop_last);
}

void BatchDelivery::count_skipped(std::size_t slot) {
  const auto count = count_samples(slot);
  warn_of_missing(slot, count);
  count_missing(count);
}

// Whatever goes wrong, the batch is lost, so that a loop which goes on comes to an end.
SampleTree BatchDelivery::deliver(std::size_t slot, std::size_t batch, std::size_t held) {
  try {
    pin_slots();
    const auto count = count_samples(slot);
    warn_of_missing(slot, count);
    auto result = take(slot, held);
    count_batch(count);
    return result;
  } catch (...) {
    give_up(slot);
    auto context = context_of_exception();
    context.batch = static_cast<std::int64_t>(batch);
    throw WorkerError(context);
  }
}

// Where the size of the slots has just been learned.
void BatchDelivery::pin_slots() {
  if (!pinning_ || deferred_) return;
  const auto bytes =
      native::round_up_to_page(SharedLayout::of(channel_).payload_bytes(channel_.slots()));
  deferred_ = std::make_shared<DeferredRelease>(job_->channel, pinning_, payload(), bytes);
}

BatchDelivery::Count BatchDelivery::count_samples(std::size_t slot) const {
  Count count;
  count.samples = channel_.items().of(slot).size();
  if (job_->is_iterable()) {
    const auto result = StreamResult::of(channel_.result(slot));
    count.samples = result.samples;
    count.skipped = result.thrown;
  } else if (may_leave_out_) {
    count.skipped = count.samples - rows_of(slot).size();
    count.samples -= count.skipped;
  }
  count.replaced = channel_.items().replaced(slot);
  return count;
}

void BatchDelivery::warn_of_missing(std::size_t slot, const Count& count) {
  if (count.skipped + count.replaced == 0 || !missing_.is_due()) return;
  const auto noted = channel_.failures().noted(slot);
  if (!noted) return;  // by on_poison_sample
  MissingSample missing;
  if (!job_->is_iterable()) missing.index = noted->item;
  missing.exception_type = noted->type;
  missing.message = noted->message;
  missing_.give(job_->source, job_->facts.on_failed_sample, missing);
}

void BatchDelivery::count_missing(const Count& count) {
  statistics_.skipped_samples += count.skipped;
  statistics_.replaced_samples += count.replaced;
}

void BatchDelivery::count_batch(const Count& count) {
  count_missing(count);
  ++statistics_.batches;
  statistics_.samples += count.samples;
  const auto now = Clock::now();
  statistics_.seconds += std::chrono::duration<double>(now - last_taken_).count();
  last_taken_ = now;
}

SampleTree BatchDelivery::take(std::size_t slot, std::size_t held) {
  const bool keep_a_copy = channel_.slots() - held - 1 < channel_.workers() + 1;
  auto opened =
      job_->source.has_rows ? open_rows(slot, keep_a_copy) : open_whole(slot, keep_a_copy);
  if (keep_a_copy && !opened.is_copy) return copy(opened.batch, held);
  if (pinning_ && opened.is_copy) return clone_into_pinned_memory(opened.batch);
  return std::move(opened.batch);
}

SampleTree BatchDelivery::copy(const SampleTree& batch, std::size_t held) {
  if (!std::exchange(has_warned_of_copies_, true)) {
    const auto deferred = deferred_ ? deferred_->count() : 0;
    logging::warning(
        "data loader: the program keeps " + std::to_string(held) + " batches" +
        (deferred == 0 ? "" : ", " + std::to_string(deferred) + " of them for copies to a device") +
        ", so further ones are copied; let go of batches earlier, or raise prefetch_batches");
  }
  auto result = pinning_ ? clone_into_pinned_memory(batch) : clone(batch);
  ++statistics_.copies;
  return result;
}

// A slot that is Ready has no lease yet; a lease gives it back by itself.
void BatchDelivery::give_up(std::size_t slot) {
  ++statistics_.lost_batches;
  if (channel_.state(slot) != SlotState::Ready) return;
  channel_.blocks().free_all(slot);
  channel_.release(slot);
}

BatchDelivery::Opened BatchDelivery::open_rows(std::size_t slot, bool keep_a_copy) {
  std::byte* memory = slot_memory(slot);
  if (!layout_) {
    const auto& common = SharedLayout::of(channel_);
    layout_ = SampleLayout::from_bytes({payload(), common.layout_bytes}, common.slot_bytes);
  }
  const auto items = channel_.items().of(slot).size();
  const auto rows = may_leave_out_ ? rows_of(slot) : std::vector<std::int64_t>();
  const HeldLease<SlotLease> lease(
      new SlotLease(job_->channel, slot, keep_a_copy ? nullptr : deferred_));
  auto batch = read_rows(*layout_, memory, items, tensors_of(*lease));
  if (!may_leave_out_ || rows.size() == items) return {std::move(batch), false};
  batch = select_rows(batch, rows);
  ++statistics_.copies;
  return {std::move(batch), true};
}

BatchDelivery::Opened BatchDelivery::open_whole(std::size_t slot, bool keep_a_copy) {
  auto block = channel_.blocks().map(slot, OverflowBlocks::kResult);
  if (!block) {
    std::byte* memory = slot_memory(slot);
    const HeldLease<SlotLease> lease(
        new SlotLease(job_->channel, slot, keep_a_copy ? nullptr : deferred_));
    const auto bytes = SharedLayout::of(channel_).slot_bytes;
    return {TreeCodec::read(memory, bytes, tensors_of(*lease)), false};
  }
  const HeldLease<BlockLease> lease(new BlockLease(job_->channel, std::move(*block)));
  channel_.release(slot);
  ++statistics_.oversize;
  const auto& memory = lease->block();
  // Nothing would be gained by another copy: the slot is free.
  return {TreeCodec::read(memory.data(), memory.size(), tensors_of(*lease)), true};
}

// The rows that were not left out.
std::vector<std::int64_t> BatchDelivery::rows_of(std::size_t slot) const {
  const auto items = channel_.items().of(slot).size();
  std::vector<std::int64_t> rows;
  for (std::size_t row = 0; row < items; ++row) {
    if (!channel_.items().is_left_out(slot, row)) rows.push_back(static_cast<std::int64_t>(row));
  }
  return rows;
}

std::byte* BatchDelivery::payload() const {
  try {
    return SharedLayout::payload(channel_);
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, "DataLoader: ", error.what());
  }
}

std::byte* BatchDelivery::slot_memory(std::size_t slot) const {
  return payload() + SharedLayout::of(channel_).slot_offset(slot);
}

}  // namespace lockstep::data::detail
