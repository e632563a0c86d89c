// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_memory.h"

#include <cstring>
#include <exception>
#include <new>
#include <utility>

#include "native/posix/page_size.h"
#include "workers/pool_frame.h"
#include "workers/pool_task.h"

namespace lockstep::workers {
namespace {

class PrivateMemory final : public PayloadMemory {
 public:
  explicit PrivateMemory(std::size_t size) {
    data =
        static_cast<std::byte*>(::operator new(size, std::align_val_t(PayloadWriter::kAlignment)));
    bytes = size;
  }
  ~PrivateMemory() override {
    ::operator delete(data, std::align_val_t(PayloadWriter::kAlignment));
  }
  PrivateMemory(const PrivateMemory&) = delete;
  PrivateMemory& operator=(const PrivateMemory&) = delete;
};

ChannelShape channel_shape(const PoolMemory::Shape& shape) {
  ChannelShape channel;
  channel.slots = shape.slots;
  channel.workers = shape.workers;
  channel.items_per_slot = 1;
  channel.user_bytes = PoolBlocks::bytes_for(shape.workers, shape.entries());
  return channel;
}

std::size_t slots_bytes(const PoolMemory::Shape& shape) {
  return native::round_up_to_page(2 * PoolMemory::kInline * shape.slots);
}

}  // namespace

/// A block that the program has, until nobody needs it.
class PoolMemory::HeldBlock final : public PayloadMemory {
 public:
  HeldBlock(std::shared_ptr<PoolMemory> memory, std::uint32_t number, bool is_lease)
      : memory_(std::move(memory)), mapping_(memory_->blocks_.map(number)), is_lease_(is_lease) {
    data = mapping_->data();
    bytes = mapping_->size();
    pool = memory_.get();
    entry = number;
    if (is_lease_) memory_->leased_.fetch_add(1, std::memory_order_relaxed);
  }
  // A copy in a process that the program forked gives nothing back.
  ~HeldBlock() override {
    if (!memory_->process_.is_current()) return;
    memory_->blocks_.give_back(*entry, memory_->is_closed_.load(std::memory_order_acquire));
    if (is_lease_) memory_->leased_.fetch_sub(1, std::memory_order_relaxed);
  }
  HeldBlock(const HeldBlock&) = delete;
  HeldBlock& operator=(const HeldBlock&) = delete;

 private:
  std::shared_ptr<PoolMemory> memory_;
  std::shared_ptr<native::MappedBlock> mapping_;
  bool is_lease_;
};

PoolMemory::PoolMemory(const Shape& shape)
    : shape_(shape),
      channel_(std::make_shared<TaskChannel>(channel_shape(shape))),
      blocks_(channel_, shape.entries()) {
  const auto bytes = slots_bytes(shape_);
  channel_->region().reserve(channel_->blocks().take_space(bytes), bytes);  // the first: offset 0
  static_cast<void>(slot_memory(0));
}

std::byte* PoolMemory::slot_memory(std::size_t slot) {
  return channel_->region().payload(0, slots_bytes(shape_)) + slot * 2 * kInline;
}

std::shared_ptr<PayloadMemory> PoolMemory::take(std::size_t bytes, std::size_t spare) {
  const auto block = blocks_.take(blocks_.owner_arena(), bytes, 0, spare);
  if (!block) return nullptr;
  return make_held(block->entry, false);
}

// Held when nothing can fail any more: who would give it back otherwise?
std::shared_ptr<PoolMemory::HeldBlock> PoolMemory::make_held(std::uint32_t entry, bool is_lease) {
  std::shared_ptr<HeldBlock> held;
  try {
    held = std::make_shared<HeldBlock>(shared_from_this(), entry, is_lease);
  } catch (...) {
    blocks_.give_back(entry, true);
    throw;
  }
  blocks_.hold(entry);
  return held;
}

std::shared_ptr<PayloadMemory> PoolMemory::hold(std::uint32_t entry, bool is_frame) {
  auto held = make_held(entry, true);
  if (leased_.load(std::memory_order_relaxed) <= shape_.leases) return held;
  copied_.fetch_add(1, std::memory_order_relaxed);
  return copy(held->data, is_frame ? PoolFrame(held->data).size() : held->bytes);
}

std::shared_ptr<PayloadMemory> PoolMemory::copy(const std::byte* from, std::size_t bytes) {
  auto memory = std::make_shared<PrivateMemory>(bytes);
  std::memcpy(memory->data, from, bytes);
  return memory;
}

void PoolMemory::take_result(PoolTask& task, std::size_t slot) {
  const auto word = channel_->result(slot);
  if (word != 0) {
    task.result = hold(static_cast<std::uint32_t>(word - 1), true);
  }
  const PoolFrame frame(word != 0 ? task.result->data : output(slot));
  // All of them, also where one cannot be had: the others are given back then.
  std::exception_ptr error;
  for (const auto entry : frame.entries()) {
    try {
      task.result_blocks.push_back(hold(entry, false));
    } catch (...) {
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
  if (word != 0) return;
  const auto* data = frame.data();
  if (data == output(slot) + frame.size()) {
    task.result_bytes = frame.bytes();
  } else {
    task.result = copy(output(slot), frame.size());
  }
}

void PoolMemory::close() noexcept {
  is_closed_.store(true, std::memory_order_release);
  blocks_.trim();
}

}  // namespace lockstep::workers
