// SPDX-License-Identifier: BSD-3-Clause
#include "workers/pool_worker.h"

#include <unistd.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "workers/exception_text.h"
#include "workers/pool_frame.h"

namespace lockstep::workers {
namespace {

constexpr const char* kKeeps =
    "the function keeps a tensor that was its argument, whose memory is used again; let it keep a "
    "clone()";

// The worker of this process.
thread_local PoolWorker* current_worker = nullptr;

// Keeps what its tensors lie in, and shows whether one of them is left after the task.
class ArgumentMemory final : public PayloadMemory {
 public:
  ArgumentMemory(std::byte* place, std::size_t size, std::shared_ptr<void> guard,
                 std::shared_ptr<native::MappedBlock> mapping = nullptr)
      : guard_(std::move(guard)), mapping_(std::move(mapping)) {
    data = place;
    bytes = size;
  }

 private:
  std::shared_ptr<void> guard_;
  std::shared_ptr<native::MappedBlock> mapping_;
};

}  // namespace

Failure current_failure(std::size_t worker, const ExceptionText& text) {
  Failure failure;
  failure.worker = worker;
  failure.pid = ::getpid();
  failure.type = current_exception_type();
  failure.message = text ? text() : current_exception_text();
  return failure;
}

/// A block that becomes a part of the result, or is free again.
class PoolWorker::OutputBlock final : public PayloadMemory {
 public:
  OutputBlock(std::shared_ptr<PoolMemory> memory, const PoolBlocks::Block& block)
      : memory_(std::move(memory)), mapping_(memory_->blocks().map(block.entry)) {
    data = block.data;
    bytes = block.bytes;
    pool = memory_.get();
    entry = block.entry;
    is_output = true;
  }
  ~OutputBlock() override {
    if (!is_given) memory_->blocks().give_back(*entry);
  }
  OutputBlock(const OutputBlock&) = delete;
  OutputBlock& operator=(const OutputBlock&) = delete;

  bool is_given = false;

 private:
  std::shared_ptr<PoolMemory> memory_;
  std::shared_ptr<native::MappedBlock> mapping_;
};

void PoolWorker::run(const PoolFunction& function, const ExceptionText& text) {
  current_worker = this;
  auto& channel = *memory_->channel();
  while (const auto claim = channel.claim(worker_)) {
    channel.begin_item(worker_, claim->slot, 0);
    const std::shared_ptr<void> guard = std::make_shared<int>();
    std::optional<Failure> failure;
    try {
      do_task(*claim, function, guard);
    } catch (...) {
      failure = current_failure(worker_, text);
    }
    // Asked when the exception is gone, which may have had one.
    const bool is_kept = failure && guard.use_count() != 1;
    if (is_kept && failure->message != kKeeps) (failure->message += "; ") += kKeeps;
    // In this order: a worker that dies in between has done the task, and nobody does it again.
    failure ? channel.fail(*claim, *failure) : channel.finish(*claim);
    channel.end_item(worker_);
    if (is_kept) break;
  }
  current_worker = nullptr;
}

void PoolWorker::do_task(const Claim& claim, const PoolFunction& function,
                         const std::shared_ptr<void>& guard) {
  task_ = memory_->channel()->sequence(claim.slot);
  const auto result = compute(claim, function, guard);
  if (guard.use_count() != 1) {
    if (result.entry) memory_->blocks().give_back(*result.entry);
    throw std::runtime_error(kKeeps);
  }
  memory_->channel()->set_result(claim.slot, result.entry ? std::uint64_t{*result.entry} + 1 : 0);
  for (const auto& block : result.blocks) static_cast<OutputBlock&>(*block).is_given = true;
}

PoolWorker::Result PoolWorker::compute(const Claim& claim, const PoolFunction& function,
                                       const std::shared_ptr<void>& guard) {
  const auto entry = memory_->channel()->word(claim.slot, 0);
  std::shared_ptr<PayloadMemory> memory;
  if (entry == 0) {
    memory =
        std::make_shared<ArgumentMemory>(memory_->input(claim.slot), PoolMemory::kInline, guard);
  } else {
    memory = argument_memory(static_cast<std::uint32_t>(entry - 1), guard);
  }
  PoolFrame frame(memory->data);
  if (may_repeat_) {
    // The task may write to its arguments; whoever is given it next finds them as they were.
    memory = PoolMemory::copy(memory->data, frame.size());
    frame = PoolFrame(memory->data);
  }
  std::vector<std::shared_ptr<PayloadMemory>> blocks;
  blocks.reserve(frame.entries().size());
  for (const auto number : frame.entries()) blocks.push_back(argument_memory(number, guard));
  PayloadReader arguments(frame.bytes(), frame.data(), memory, std::move(blocks));
  PayloadWriter result(memory_.get());
  function(arguments, result);
  // While the arguments are there: the result may lie in them.
  return write_result(claim, result);
}

std::shared_ptr<PayloadMemory> PoolWorker::argument_memory(std::uint32_t entry,
                                                           const std::shared_ptr<void>& guard) {
  auto mapping = memory_->blocks().map(entry);
  auto* data = mapping->data();
  const auto bytes = mapping->size();
  return std::make_shared<ArgumentMemory>(data, bytes, guard, std::move(mapping));
}

PoolWorker::Result PoolWorker::write_result(const Claim& claim, const PayloadWriter& result) {
  const auto bytes = PoolFrame::bytes_for(result);
  if (bytes <= PoolMemory::kInline) {
    PoolFrame::write(result, memory_->output(claim.slot));
    return {std::nullopt, result.blocks()};
  }
  const auto block = memory_->blocks().take(worker_, bytes, task_);
  if (!block) throw std::runtime_error("the pool has no memory left for a result");
  PoolFrame::write(result, block->data);
  return {block->entry, result.blocks()};
}

std::shared_ptr<PayloadMemory> PoolWorker::output(std::size_t bytes) {
  return current_worker == nullptr ? nullptr : current_worker->take_output(bytes);
}

std::shared_ptr<PayloadMemory> PoolWorker::take_output(std::size_t bytes) {
  const auto& shape = memory_->shape();
  const auto block = memory_->blocks().take(worker_, bytes, task_, shape.slots + shape.leases);
  if (!block) return nullptr;
  return std::make_shared<OutputBlock>(memory_, *block);
}

}  // namespace lockstep::workers
