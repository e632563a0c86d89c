// SPDX-License-Identifier: BSD-3-Clause
// Step 3 of the way of a sample, first half: batches are given out to workers, in slots that are
// free. worker_source waits for them.
#include <algorithm>
#include <utility>

#include "data/loader/worker_source.h"

namespace lockstep::data::detail {
namespace {

using workers::SlotState;

// Samples that take less than this are claimed several at a time: a claim costs a part of a
// microsecond.
constexpr std::uint64_t kWorthAClaim = 20'000;  // ns
// A piece of the ring costs a few system calls and at least a page. Of samples that may turn out
// not to be worth it, only so many are passed on in pieces.
constexpr std::uint64_t kWorthAPiece = 200'000;  // ns
constexpr std::size_t kMostUnknown = 1024;

}  // namespace

WorkerSource::Overview WorkerSource::give_out_work() {
  channel_->expect_states();
  if (parking_) parking_->look();
  Overview overview;
  std::size_t open = 0;
  std::size_t finished = 0;  // of this pass and of the next
  bool is_new = false;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    auto& mine = slots_[slot];
    auto state = channel_->state(slot);
    // Prepared before it was known that its shard is over.
    if (job_->source.open && mine.use == Use::Live && round_.is_beyond(mine.turn)) {
      mine.use = Use::Stale;
    }
    if (mine.use == Use::Stale) {
      if (state == SlotState::Ready) take_back(slot);
      if (state == SlotState::Filling && channel_->withdraw(slot)) {
        channel_->free_pieces(slot);
        mine.use = Use::None;
      }
      state = channel_->state(slot);
    }
    if (mine.use == Use::None && state == SlotState::Free && give_out(slot)) {
      is_new = true;
      state = SlotState::Filling;
    }
    if (mine.use == Use::Live || mine.use == Use::Ahead) {
      ++(state == SlotState::Ready ? finished : open);
    }
    see(overview, slot, state);
  }
  // Workers that had nothing to do are woken for some work at a time, not for each batch: a batch
  // that is ready then costs the program no system call. Whoever waits wakes them anyway.
  if (is_new && open >= finished && channel_->has_sleepers()) channel_->wake_workers();
  return overview;
}

bool WorkerSource::give_out(std::size_t slot) {
  auto* pass = pass_to_assign();
  if (pass == nullptr) return false;
  try {
    assign(slot, *pass);
  } catch (...) {
    pass->error = std::current_exception();
    return false;
  }
  return true;
}

// The pass whose next batch is to be given out, null when there is nothing more to give out.
WorkerSource::Pass* WorkerSource::pass_to_assign() {
  if (supervisor_is_dead_) return nullptr;
  if (job_->source.open) return round_.is_over() ? nullptr : &now_;
  if (now_.error) return nullptr;
  if (now_.assigned < now_.plan.batches) return &now_;
  auto* ahead = pass_ahead();
  return ahead != nullptr && ahead->assigned < ahead->plan.batches && !ahead->error ? ahead
                                                                                    : nullptr;
}

WorkerSource::Pass* WorkerSource::pass_ahead() {
  if (ahead_) return &*ahead_;
  if (!prepare_) return nullptr;
  const auto plan = std::exchange(prepare_, nullptr);
  try {
    ahead_ = Pass{plan(), now_.base + now_.plan.batches, 0, nullptr};
  } catch (...) {
    return nullptr;  // its own begin() will say so
  }
  return &*ahead_;
}

void WorkerSource::assign(std::size_t slot, Pass& pass) {
  auto& mine = slots_[slot];
  workers::Task task;
  task.sequence = pass.base + pass.assigned;
  task.words[kEpoch] = static_cast<std::uint64_t>(pass.plan.epoch);
  channel_->expect_assign(slot, items_.size());  // as many as in the batch before
  items_.clear();
  if (job_->source.open) {
    const auto turn = round_.take();
    mine.turn = turn;
    items_.push_back(static_cast<std::int64_t>(turn.batch));
    task.words[kShard] = shard_word(pass_, turn.shard);
    task.worker = static_cast<std::int32_t>(turn.shard % workers_);
  } else {
    pass.plan.items(pass.assigned, items_);
    TORCH_CHECK(items_.size() <= channel_->items_per_slot(), "DataLoader: batch ", pass.assigned,
                " of the sampler has ", items_.size(), " samples, but it promised at most ",
                channel_->items_per_slot());
    if (replaces_) {
      const auto behind = items_behind(pass.plan, pass.assigned);
      std::copy(behind.begin(), behind.end(), task.words.begin() + kBehind);
    }
  }
  task.items = items_;
  divide(task);
  channel_->assign(slot, task);
  mine.use = &pass == &now_ ? Use::Live : Use::Ahead;
  mine.batch = pass.assigned++;
}

// Decides who does what, never what comes out.
void WorkerSource::divide(workers::Task& task) const {
  const auto items = task.items.size();
  const auto cost = cost_of_sample(items);
  if (!job_->source.has_rows) {
    const bool is_worth_it = cost ? *cost >= kWorthAPiece : items <= kMostUnknown;
    task.has_closing_unit = items > 1 && is_worth_it && may_share_whole();
    task.items_per_unit = task.has_closing_unit ? 1 : std::max<std::size_t>(items, 1);
  } else if (cost && *cost < kWorthAClaim) {
    const auto largest = std::max<std::size_t>(items / workers_, 1);
    const auto wanted = kWorthAClaim / std::max<std::uint64_t>(*cost, 1);
    task.items_per_unit = std::min<std::size_t>(wanted, largest);
  }
}

// Where every worker has a batch of its own to build, nothing is gained when they fetch one
// together: its samples would only take one more way through memory.
bool WorkerSource::may_share_whole() const {
  if (job_->source.open || workers_ == 1) return false;
  if (SharedLayout::of(*channel_).samples_stay.load(std::memory_order_relaxed) != 0) return false;
  const auto given_out = std::count_if(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.use == Use::Live || slot.use == Use::Ahead;
  });
  return static_cast<std::size_t>(given_out) < workers_;
}

// In nanoseconds; nothing while fewer than `enough` have been fetched.
std::optional<std::uint64_t> WorkerSource::cost_of_sample(std::size_t enough) const {
  std::uint64_t busy = 0;
  std::uint64_t fetched = 0;
  for (const auto& record : channel_->board().workers) {
    busy += record.busy.load(std::memory_order_relaxed);
    fetched += record.beats.load(std::memory_order_relaxed);
  }
  if (fetched < std::max<std::size_t>(enough, 1)) return std::nullopt;
  return busy / fetched;
}

// A batch that will not be delivered.
void WorkerSource::take_back(std::size_t slot) {
  channel_->free_pieces(slot);
  slots_[slot].use = Use::None;
  channel_->release(slot);
}

// Until the layout is known, the batch that the rank waits for decides it.
void WorkerSource::move_layout_turn() {
  if (layout_) return;
  auto& turn = SharedLayout::of(*channel_).turn;
  const auto slot = look().next;
  const auto decides = slot ? channel_->sequence(*slot) : sequence();
  auto value = turn.load(std::memory_order_acquire);
  if (value == SharedLayout::kSettled || value == decides) return;
  if ((value & SharedLayout::kSettling) != 0) return;  // its worker's repair ends that
  if (turn.compare_exchange_strong(value, decides, std::memory_order_acq_rel)) {
    channel_->wake_workers();
  }
}

}  // namespace lockstep::data::detail
