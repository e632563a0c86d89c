// SPDX-License-Identifier: BSD-3-Clause
// Step 3 of the way of a sample, and its last: batches are given out to workers, and come back in
// order as tensors that lie in the workers' memory. Before it: data_loader. In between:
// worker_pool, shared_memory_channel, batch_worker.
#include "data/process_source.h"

#include <ATen/ops/from_blob.h>
#include <lockstep/core/logging.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

namespace lockstep::data::detail {
namespace {

using workers::SharedMemoryChannel;
using workers::SlotState;
using workers::WorkerState;

// Slots beyond those that are being filled: what a training step holds until its backward pass is
// over.
constexpr std::size_t kSpareSlots = 3;
constexpr std::chrono::milliseconds kSlice{100};

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

at::Tensor view(std::byte* memory, const TensorLayout& layout, std::size_t rows,
                const std::shared_ptr<SlotLease>& lease) {
  if (!layout.is_present()) return {};
  at::DimVector sizes{static_cast<std::int64_t>(rows)};
  sizes.append(layout.shape().begin(), layout.shape().end());
  return at::from_blob(
      memory, sizes, [lease](void*) {}, at::TensorOptions(layout.dtype()));
}

SharedLayout& shared_layout(const SharedMemoryChannel& channel) {
  return *reinterpret_cast<SharedLayout*>(channel.user_area());
}

}  // namespace

ProcessSource::ProcessSource(SampleSource source, std::size_t largest_batch,
                             const DataLoaderOptions& options)
    : source_(std::move(source)),
      largest_batch_(largest_batch),
      workers_(static_cast<std::size_t>(options.workers())),
      timeout_(options.timeout()) {
  const auto prefetch = static_cast<std::size_t>(options.prefetch_batches());
  const auto slots = workers_ * prefetch + kSpareSlots;
  channel_ = std::make_shared<SharedMemoryChannel>(
      SharedMemoryChannel::Shape{slots, workers_, largest_batch, sizeof(SharedLayout)});
  std::construct_at(&shared_layout(*channel_));
  uses_.assign(slots, Use::None);
  reported_.assign(workers_, false);
  workers::WorkerProgram program;
  program.run = [this, init = options.worker_init()](std::size_t worker) {
    BatchWorker(*channel_, source_, largest_batch_, init).run(worker);
  };
  program.keep_descriptors = {channel_->ring().descriptor()};
  pool_ = std::make_unique<workers::WorkerPool>(channel_->board(), program);
}

ProcessSource::~ProcessSource() {
  pool_.reset();
  channel_->ring().close_descriptor();  // batches that are still held need the mapping only
}

void ProcessSource::start(BatchPlan plan) {
  for (std::size_t slot = 0; slot < uses_.size(); ++slot) {
    if (uses_[slot] != Use::Live) continue;
    if (channel_->state(slot) == SlotState::Assigned && channel_->withdraw(slot)) {
      uses_[slot] = Use::None;
    } else {
      channel_->cancel(slot);
      uses_[slot] = Use::Stale;
    }
  }
  base_ += assigned_;
  plan_ = std::move(plan);
  next_ = 0;
  assigned_ = 0;
  move_layout_turn();
  give_out_work();
}

Batch ProcessSource::next() {
  auto deadline = Deadline::after(timeout_);
  std::size_t progress = 0;
  for (;;) {
    const auto seen = channel_->done_count();
    move_layout_turn();
    give_out_work();
    const auto slot = slot_of_next();
    check_workers(slot);
    if (slot && channel_->state(*slot) == SlotState::Ready) return deliver(*slot);
    if (slot && channel_->state(*slot) == SlotState::Failed) check_failed(*slot);
    check_anyone_left(slot);
    if (slot && channel_->progress(*slot) != progress) {
      progress = channel_->progress(*slot);
      deadline = Deadline::after(timeout_);
    }
    if (deadline.has_passed()) throw_timeout(slot, deadline.elapsed().count());
    channel_->wait_done(seen, std::min<std::chrono::nanoseconds>(deadline.remaining(), kSlice));
  }
}

std::optional<std::size_t> ProcessSource::slot_of_next() const {
  for (std::size_t slot = 0; slot < uses_.size(); ++slot) {
    if (uses_[slot] == Use::Live && channel_->sequence(slot) == sequence()) return slot;
  }
  return std::nullopt;
}

void ProcessSource::give_out_work() {
  for (std::size_t slot = 0; slot < uses_.size(); ++slot) {
    const auto state = channel_->state(slot);
    if (uses_[slot] == Use::Stale && (state == SlotState::Ready || state == SlotState::Failed)) {
      take_back(slot);
    }
    if (uses_[slot] != Use::None || channel_->state(slot) != SlotState::Free) continue;
    if (assigned_ == plan_.batches() || nursery_is_dead_) continue;
    channel_->assign(slot, base_ + assigned_, plan_.items(assigned_));
    uses_[slot] = Use::Live;
    ++assigned_;
  }
}

void ProcessSource::take_back(std::size_t slot) {
  uses_[slot] = Use::None;
  channel_->release(slot);
}

std::size_t ProcessSource::circulating() const {
  std::size_t count = 0;
  for (std::size_t slot = 0; slot < uses_.size(); ++slot) {
    if (channel_->state(slot) != SlotState::Held) ++count;
  }
  return count;
}

Batch ProcessSource::deliver(std::size_t slot) {
  if (!layout_) layout_.emplace(shared_layout(*channel_).sample, largest_batch_);
  std::byte* memory = nullptr;
  try {
    memory = channel_->ring().payload(layout_->bytes * uses_.size()) + slot * layout_->bytes;
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, "DataLoader: ", error.what());
  }
  const auto rows = channel_->items(slot).size();
  const bool keep_a_copy = circulating() - 1 < workers_ + 1;
  channel_->hold(slot);
  uses_[slot] = Use::None;
  ++next_;
  const auto lease = std::make_shared<SlotLease>(channel_, slot);
  Batch batch{view(memory, layout_->sample.data, rows, lease),
              view(memory + layout_->target_offset, layout_->sample.target, rows, lease)};
  if (!keep_a_copy) return batch;
  if (!std::exchange(has_warned_, true)) {
    logging::warning("data loader: the program keeps " +
                     std::to_string(uses_.size() - circulating() - 1) +
                     " batches, so further ones are copied; let go of batches earlier, or raise "
                     "prefetch_batches");
  }
  return {batch.data.clone(), batch.target.defined() ? batch.target.clone() : at::Tensor()};
}

void ProcessSource::check_failed(std::size_t slot) {
  const auto failure = channel_->failure(slot);
  WorkerError::Context context;
  // The slot no longer says who it was; the failure is the dataset's, not the worker's, but people
  // ask.
  const auto worker = channel_->finisher(slot);
  context.worker = static_cast<int>(worker);
  context.pid = channel_->board().workers[worker].pid.load(std::memory_order_relaxed);
  context.batch = static_cast<std::int64_t>(next_);
  context.sample =
      channel_->items(slot)[std::min(failure.position, channel_->items(slot).size() - 1)];
  context.message = failure.message;
  take_back(slot);
  ++next_;
  throw WorkerError(std::move(context));
}

bool ProcessSource::worker_has_ended(std::size_t worker) const {
  const auto state = channel_->board().workers[worker].state.load(std::memory_order_acquire);
  return state == WorkerState::Ended || state == WorkerState::StartFailed;
}

// An end is reported once: at the turn of the batch that the worker had in hand, else at once.
void ProcessSource::check_workers(std::optional<std::size_t> slot) {
  for (std::size_t worker = 0; worker < workers_; ++worker) {
    if (reported_[worker] || !worker_has_ended(worker)) continue;
    auto context = end_of(worker);
    bool is_for_later = false;
    for (std::size_t claimed = 0; claimed < uses_.size(); ++claimed) {
      if (channel_->claimer(claimed) != worker) continue;
      is_for_later = uses_[claimed] == Use::Live && slot != claimed;
      if (is_for_later) break;
      if (slot == claimed) ++next_;
      describe_work(context, claimed);
      take_back(claimed);
    }
    if (is_for_later) continue;
    reported_[worker] = true;
    throw WorkerError(std::move(context));
  }
}

WorkerError::Context ProcessSource::end_of(std::size_t worker) const {
  const auto& record = channel_->board().workers[worker];
  const int status = record.wait_status.load(std::memory_order_relaxed);
  WorkerError::Context context;
  context.worker = static_cast<int>(worker);
  context.pid = record.pid.load(std::memory_order_relaxed);
  if (record.state.load(std::memory_order_acquire) == WorkerState::StartFailed) {
    context.failure = WorkerFailure::NotStarted;
    context.message = "could not be started: " + std::generic_category().message(status);
    return context;
  }
  context.message = native::describe_wait_status(status);
  if (WIFSIGNALED(status)) {
    context.failure = WorkerFailure::Killed;
    context.signal = WTERMSIG(status);
  } else {
    context.failure = WorkerFailure::Exited;
    context.exit_status = WEXITSTATUS(status);
  }
  const std::string said(record.message, ::strnlen(record.message, sizeof(record.message)));
  if (!said.empty()) context.message += " (" + said + ")";
  return context;
}

// A slot of an earlier pass has no batch number that means anything now.
void ProcessSource::describe_work(WorkerError::Context& context, std::size_t slot) const {
  const auto items = channel_->items(slot);
  context.sample = items[std::min(channel_->progress(slot), items.size() - 1)];
  const auto number = channel_->sequence(slot);
  if (number >= base_) context.batch = static_cast<std::int64_t>(number - base_);
}

void ProcessSource::check_anyone_left(std::optional<std::size_t> slot) {
  if (!nursery_is_dead_) nursery_is_dead_ = pool_->nursery_status().has_value();
  bool all_have_ended = true;
  for (std::size_t worker = 0; worker < workers_; ++worker) {
    all_have_ended = all_have_ended && worker_has_ended(worker);
  }
  if (!nursery_is_dead_ && !all_have_ended) return;
  // A worker may have finished this very batch before it went.
  const auto state = slot ? channel_->state(*slot) : SlotState::Assigned;
  if (state != SlotState::Assigned && state != SlotState::Claimed) return;
  WorkerError::Context context;
  if (nursery_is_dead_) {
    const int status = *pool_->nursery_status();
    context.pid = pool_->nursery_pid();
    context.failure = WIFSIGNALED(status) ? WorkerFailure::Killed : WorkerFailure::Exited;
    if (WIFSIGNALED(status)) context.signal = WTERMSIG(status);
    if (WIFEXITED(status)) context.exit_status = WEXITSTATUS(status);
    context.message =
        "lost all its workers: their parent process " + native::describe_wait_status(status);
  } else {
    context = end_of(workers_ - 1);
    context.message += ", and no worker is left,";
  }
  context.batch = static_cast<std::int64_t>(next_);
  if (slot) {
    take_back(*slot);
  } else if (assigned_ == next_) {
    ++assigned_;  // passed over without ever having had a slot
  }
  ++next_;
  throw WorkerError(std::move(context));
}

void ProcessSource::throw_timeout(std::optional<std::size_t> slot, double seconds) {
  WorkerError::Context context;
  context.failure = WorkerFailure::TimedOut;
  context.message = "made no progress for " + std::to_string(seconds) + " s";
  context.pid = pool_->nursery_pid();
  name_culprit(context, slot);
  context.batch = static_cast<std::int64_t>(next_);
  if (slot && channel_->withdraw(*slot)) {
    uses_[*slot] = Use::None;
  } else if (slot) {
    channel_->cancel(*slot);
    uses_[*slot] = Use::Stale;
  } else if (assigned_ == next_) {
    ++assigned_;
  }
  ++next_;
  throw WorkerError(std::move(context));
}

// Where nobody took the batch: one that is still in worker_init, or busy with another batch.
void ProcessSource::name_culprit(WorkerError::Context& context,
                                 std::optional<std::size_t> slot) const {
  const auto name = [&](std::size_t worker) {
    context.worker = static_cast<int>(worker);
    context.pid = channel_->board().workers[worker].pid.load(std::memory_order_relaxed);
  };
  const auto name_claimer_of = [&](std::size_t busy) {
    const auto worker = channel_->claimer(busy);
    if (!worker) return false;
    name(*worker);
    describe_work(context, busy);
    return true;
  };
  if (slot && name_claimer_of(*slot)) return;
  for (std::size_t worker = 0; worker < workers_; ++worker) {
    const auto& record = channel_->board().workers[worker];
    if (record.state.load(std::memory_order_acquire) == WorkerState::Starting) return name(worker);
  }
  for (std::size_t busy = 0; busy < uses_.size(); ++busy) {
    if (name_claimer_of(busy)) return;
  }
}

// Until the layout is known, the batch that the rank waits for decides it.
void ProcessSource::move_layout_turn() {
  if (layout_) return;
  auto& turn = shared_layout(*channel_).turn;
  auto value = turn.load(std::memory_order_acquire);
  if (value == SharedLayout::kSettled || value == sequence()) return;
  if ((value & SharedLayout::kSettling) != 0 &&
      !worker_has_ended(static_cast<std::size_t>(value & ~SharedLayout::kSettling))) {
    return;
  }
  if (turn.compare_exchange_strong(value, sequence(), std::memory_order_acq_rel)) {
    channel_->wake_workers();
  }
}

}  // namespace lockstep::data::detail
