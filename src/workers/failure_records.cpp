// SPDX-License-Identifier: BSD-3-Clause
#include "workers/failure_records.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "workers/fixed_text.h"

namespace lockstep::workers {
namespace {

template <std::size_t Size>
std::string text_of(const std::array<char, Size>& text) {
  return {text.data(), ::strnlen(text.data(), text.size())};
}

void fill_record(FailureRecord& record, const Failure& failure) {
  record.kind = failure.kind;
  record.worker = static_cast<std::uint32_t>(failure.worker);
  record.pid = failure.pid;
  record.wait_status = failure.wait_status;
  record.position = failure.position;
  record.item = failure.item;
  copy_text(record.type, failure.type);
  copy_text(record.message, failure.message);
}

Failure read_record(const FailureRecord& record) {
  Failure failure;
  failure.kind = record.kind;
  failure.position = record.position;
  failure.worker = record.worker;
  failure.pid = record.pid;
  failure.wait_status = record.wait_status;
  failure.item = record.item;
  failure.type = text_of(record.type);
  failure.message = text_of(record.message);
  return failure;
}

}  // namespace

std::uint64_t FailureRecords::sequence(std::size_t slot) const {
  return layout_.slot(slot).sequence.load(std::memory_order_relaxed);
}

// Of a worker that dies in here only a record is lost: its chunk is still claimed.
void FailureRecords::write(std::size_t slot, const Failure& failure) {
  auto& words = layout_.slot(slot);
  const auto number = words.failure_records_taken.fetch_add(1, std::memory_order_relaxed);
  if (number < layout_.failures_per_slot()) {
    auto& record = layout_.failures(slot)[number];
    record.sequence.store(0, std::memory_order_relaxed);
    fill_record(record, failure);
    record.sequence.store(sequence(slot) + 1, std::memory_order_release);
  }
  auto first = words.first_failed.load(std::memory_order_relaxed);
  while (failure.position < first && !words.first_failed.compare_exchange_weak(
                                         first, failure.position, std::memory_order_release)) {
  }
}

// Where a worker dies in here, nothing is noted in this slot any more: that costs a warning.
void FailureRecords::note(std::size_t slot, const Failure& failure) {
  auto& record = layout_.failures(slot)[layout_.failures_per_slot()];
  auto found = record.sequence.load(std::memory_order_relaxed);
  if (found == sequence(slot) + 1 || found == FailureRecord::kIsWritten) return;
  if (!record.sequence.compare_exchange_strong(found, FailureRecord::kIsWritten)) return;
  fill_record(record, failure);
  record.sequence.store(sequence(slot) + 1, std::memory_order_release);
}

std::optional<std::size_t> FailureRecords::first_failed(std::size_t slot) const {
  const auto position = layout_.slot(slot).first_failed.load(std::memory_order_acquire);
  if (position == SlotWords::kNoFailure) return std::nullopt;
  return static_cast<std::size_t>(position);
}

bool FailureRecords::has_failed_before(std::size_t slot, std::size_t position) const {
  return layout_.slot(slot).first_failed.load(std::memory_order_relaxed) < position;
}

void FailureRecords::clear(std::size_t slot) {
  auto& words = layout_.slot(slot);
  words.failure_records_taken.store(0, std::memory_order_relaxed);
  words.first_failed.store(SlotWords::kNoFailure, std::memory_order_relaxed);
}

std::optional<Failure> FailureRecords::first(std::size_t slot) const {
  const auto position = first_failed(slot);
  if (!position) return std::nullopt;
  Failure failure;
  failure.position = *position;
  failure.message = "too many samples of this batch failed at once to keep what each of them said";
  const auto taken = std::min<std::size_t>(
      layout_.slot(slot).failure_records_taken.load(std::memory_order_relaxed),
      layout_.failures_per_slot());
  for (std::size_t number = 0; number < taken; ++number) {
    const auto& record = layout_.failures(slot)[number];
    if (record.sequence.load(std::memory_order_acquire) != sequence(slot) + 1) continue;
    if (record.position == *position) failure = read_record(record);
  }
  return failure;
}

std::optional<Failure> FailureRecords::noted(std::size_t slot) const {
  const auto& record = layout_.failures(slot)[layout_.failures_per_slot()];
  if (record.sequence.load(std::memory_order_acquire) != sequence(slot) + 1) return std::nullopt;
  return read_record(record);
}

}  // namespace lockstep::workers
