// SPDX-License-Identifier: BSD-3-Clause
// Step 3 of a sample's path: batches are given out to workers, in slots that are free. Before it:
// loader_engine cut the order into batches. After it: task_channel carries the indices,
// and batch_worker claims them.
#include "data/loader/batch_scheduler.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>

#include "data/loader/sample_policy.h"
#include "data/loader/shared_layout.h"
#include "data/loader/task_words.h"

namespace lockstep::data::detail {
namespace {

using workers::SlotState;

// Samples that take less than this are claimed several at a time: a claim costs a part of a
// microsecond.
constexpr std::uint64_t kWorthAClaim = 20'000;  // ns
// An overflow block costs a few system calls and at least a page. While the
// cost of a sample is not known, only so many samples are passed on in such blocks.
constexpr std::uint64_t kWorthABlock = 200'000;  // ns
constexpr std::size_t kMostUnknown = 1024;

}  // namespace

BatchScheduler::BatchScheduler(std::shared_ptr<const WorkerJob> job,
                               const DataLoaderOptions& options)
    : job_(std::move(job)),
      channel_(*job_->channel),
      in_order_(options.in_order()),
      replaces_(options.on_poison_sample() == SamplePolicy::Replace ||
                options.on_failed_sample() == SamplePolicy::Replace),
      slots_(channel_.slots()) {}

void BatchScheduler::start(PassPlan plan) {
  for (auto& slot : slots_) {
    if (slot.use != Use::None) slot.use = Use::Stale;
  }
  now_.base += now_.assigned + (ahead_ ? ahead_->assigned : 0);
  now_.assigned = 0;
  now_.error = nullptr;
  now_.plan = std::move(plan);
  begin_pass();
}

void BatchScheduler::prepare(std::function<PassPlan()> plan) {
  if (!job_->is_iterable()) prepare_ = std::move(plan);
}

bool BatchScheduler::start_prepared() {
  if (!ahead_ || ahead_->error) return false;  // begun anew, it says why
  for (auto& slot : slots_) {
    if (slot.use == Use::Live) slot.use = Use::Stale;
    if (slot.use == Use::Ahead) slot.use = Use::Live;
  }
  now_ = std::move(*ahead_);
  begin_pass();
  return true;
}

void BatchScheduler::begin_pass() {
  ahead_.reset();
  prepare_ = nullptr;
  ++pass_id_;
  next_ = 0;
  if (job_->is_iterable()) round_.start(job_->facts.shards);
}

BatchScheduler::Overview BatchScheduler::give_out() {
  channel_.prefetch_states();
  Overview overview;
  std::size_t open = 0;
  std::size_t finished = 0;  // of this pass and of the next
  bool is_new = false;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    auto& mine = slots_[slot];
    auto state = take_back_stale(slot, channel_.state(slot));
    if (mine.use == Use::None && state == SlotState::Free && try_assign(slot)) {
      is_new = true;
      state = SlotState::Filling;
    }
    if (job_->is_async() && state == SlotState::Filling && pass_on(slot)) is_new = true;
    if (mine.use == Use::Live || mine.use == Use::Ahead) {
      ++(state == SlotState::Ready ? finished : open);
    }
    see(overview, slot, state);
  }
  // Workers that had nothing to do are woken for some work at a time, not for each batch: a batch
  // that is ready then costs the program no system call. Whoever waits wakes them anyway.
  if (is_new && open >= finished && channel_.events().has_sleepers())
    channel_.events().wake_workers();
  return overview;
}

// A slot that a worker is still at stays stale until it has finished. Returns the slot's state.
SlotState BatchScheduler::take_back_stale(std::size_t slot, SlotState state) {
  auto& mine = slots_[slot];
  // The batch was given out before it was known that its shard is over.
  if (job_->is_iterable() && mine.use == Use::Live && round_.is_beyond(mine.turn)) {
    mine.use = Use::Stale;
  }
  if (mine.use != Use::Stale) return state;
  if (state == SlotState::Ready) take_back(slot);
  if (state == SlotState::Filling && channel_.withdraw(slot)) {
    channel_.blocks().free_all(slot);
    mine.use = Use::None;
  }
  return channel_.state(slot);
}

// A batch of samples that its worker begins before they are wanted, to another worker where that
// one is lost. False where nothing changes.
bool BatchScheduler::pass_on(std::size_t slot) {
  const auto worker = channel_.worker(slot);
  if (!worker || !job_->is_lost(*worker)) return false;
  const auto other = job_->worker_of(channel_.sequence(slot));
  if (other == *worker) return false;
  channel_.set_worker(slot, other);
  return true;
}

void BatchScheduler::take_back(std::size_t slot) {
  channel_.blocks().free_all(slot);
  slots_[slot].use = Use::None;
  channel_.release(slot);
}

bool BatchScheduler::try_assign(std::size_t slot) {
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
BatchScheduler::Pass* BatchScheduler::pass_to_assign() {
  if (is_stopped_) return nullptr;
  if (job_->is_iterable()) return round_.is_over() ? nullptr : &now_;
  if (now_.error) return nullptr;
  if (now_.assigned < now_.plan.batches) return &now_;
  auto* ahead = pass_ahead();
  return ahead != nullptr && ahead->assigned < ahead->plan.batches && !ahead->error ? ahead
                                                                                    : nullptr;
}

BatchScheduler::Pass* BatchScheduler::pass_ahead() {
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

void BatchScheduler::assign(std::size_t slot, Pass& pass) {
  workers::Task task;
  task.sequence = pass.base + pass.assigned;
  task.words[kEpoch] = static_cast<std::uint64_t>(pass.plan.epoch);
  channel_.prefetch_slot(slot, items_.size());  // as many as in the batch before
  items_.clear();
  if (job_->is_iterable()) {
    choose_shard(slot, task);
  } else {
    choose_samples(pass, task);
  }
  task.items = items_;
  divide(task);
  channel_.assign(slot, task);
  slots_[slot].use = &pass == &now_ ? Use::Live : Use::Ahead;
  slots_[slot].batch = pass.assigned++;
}

void BatchScheduler::choose_shard(std::size_t slot, workers::Task& task) {
  const auto turn = round_.take();
  slots_[slot].turn = turn;
  items_.push_back(static_cast<std::int64_t>(turn.batch));
  task.words[kShard] = shard_word(pass_id_, turn.shard);
  task.worker = static_cast<std::int32_t>(turn.shard % channel_.workers());
}

void BatchScheduler::choose_samples(const Pass& pass, workers::Task& task) {
  pass.plan.items(pass.assigned, items_);
  TORCH_CHECK(items_.size() <= channel_.items_per_slot(), "DataLoader: batch ", pass.assigned,
              " of the sampler has ", items_.size(), " samples, but it promised at most ",
              channel_.items_per_slot());
  if (!replaces_) return;
  const auto behind = items_behind(pass.plan, pass.assigned);
  std::copy(behind.begin(), behind.end(), task.words.begin() + kBehind);
}

// Decides who does what, never what comes out.
void BatchScheduler::divide(workers::Task& task) const {
  const auto items = task.items.size();
  if (job_->is_async()) {
    task.worker = static_cast<std::int32_t>(job_->worker_of(task.sequence));
    task.items_per_chunk = std::max<std::size_t>(items, 1);
    return;
  }
  const auto cost = cost_of_sample(items);
  if (!job_->source.has_rows) {
    const bool is_worth_it = cost ? *cost >= kWorthABlock : items <= kMostUnknown;
    task.has_collate_task = items > 1 && is_worth_it && may_share_whole();
    task.items_per_chunk = task.has_collate_task ? 1 : std::max<std::size_t>(items, 1);
  } else if (cost && *cost < kWorthAClaim) {
    const auto largest = std::max<std::size_t>(items / channel_.workers(), 1);
    const auto wanted = kWorthAClaim / std::max<std::uint64_t>(*cost, 1);
    task.items_per_chunk = std::min<std::size_t>(wanted, largest);
  }
}

// Where every worker has a batch of its own to build, nothing is gained when they fetch one
// together: its samples would only be copied through memory once more.
bool BatchScheduler::may_share_whole() const {
  if (job_->is_iterable() || channel_.workers() == 1) return false;
  if (SharedLayout::of(channel_).samples_stay.load(std::memory_order_relaxed) != 0) return false;
  const auto given_out = std::count_if(slots_.begin(), slots_.end(), [](const Slot& slot) {
    return slot.use == Use::Live || slot.use == Use::Ahead;
  });
  return static_cast<std::size_t>(given_out) < channel_.workers();
}

// In nanoseconds; nothing while fewer than `enough` have been fetched.
std::optional<std::uint64_t> BatchScheduler::cost_of_sample(std::size_t enough) const {
  std::uint64_t busy = 0;
  std::uint64_t fetched = 0;
  for (const auto& record : channel_.table().workers) {
    busy += record.busy.load(std::memory_order_relaxed);
    fetched += record.heartbeats.load(std::memory_order_relaxed);
  }
  if (fetched < std::max<std::size_t>(enough, 1)) return std::nullopt;
  return busy / fetched;
}

void BatchScheduler::see(Overview& overview, std::size_t slot, SlotState state) const {
  if (state == SlotState::Held) ++overview.held;
  const auto& mine = slots_[slot];
  if (mine.use != Use::Live) return;
  const bool is_ready = state == SlotState::Ready;
  if (is_ready) ++overview.ready;
  const bool is_older = overview.next && mine.batch < slots_[*overview.next].batch;
  const bool goes_first = in_order_ || is_ready == overview.next_is_ready ? is_older : is_ready;
  if (overview.next && !goes_first) return;
  overview.next = slot;
  overview.next_is_ready = is_ready;
}

void BatchScheduler::move_layout_turn() {
  auto& turn = SharedLayout::of(channel_).turn;
  auto value = turn.load(std::memory_order_acquire);
  if (value == SharedLayout::kPublished) return;
  if ((value & SharedLayout::kPublishing) != 0) return;  // its worker's repair ends that
  const auto decides = next_sequence();
  if (value == decides) return;
  if (turn.compare_exchange_strong(value, decides, std::memory_order_acq_rel)) {
    channel_.events().wake_workers();
  }
}

// The sequence of the batch that the rank waits for, whether it has a slot or not.
std::uint64_t BatchScheduler::next_sequence() const {
  Overview overview;
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    see(overview, slot, channel_.state(slot));
  }
  return overview.next ? channel_.sequence(*overview.next) : now_.base + now_.assigned;
}

// Batches that the program holds keep their slots. They need the mapping, but no overflow
// block of a batch that was not delivered.
void BatchScheduler::drop_unfinished() noexcept {
  for (std::size_t slot = 0; slot < slots_.size(); ++slot) {
    const auto state = channel_.state(slot);
    if (state == SlotState::Filling || state == SlotState::Ready) channel_.blocks().free_all(slot);
  }
}

bool BatchScheduler::expects_more() const {
  return job_->is_iterable() ? !round_.is_over() : next_ < now_.plan.batches;
}

void BatchScheduler::throw_error_of_plan() const {
  if (now_.error) std::rethrow_exception(now_.error);
}

std::uint64_t BatchScheduler::awaited_sequence(std::optional<std::size_t> slot) const {
  return slot && in_order_ ? channel_.sequence(*slot) : workers::PoolEvents::kAnyTask;
}

std::optional<std::size_t> BatchScheduler::only_worker(std::optional<std::size_t> slot) const {
  if (!slot || !job_->is_iterable()) return std::nullopt;
  return slots_[*slot].turn.shard % channel_.workers();  // a shard belongs to one worker
}

void BatchScheduler::note_end_of_shard(std::size_t slot) {
  if (!job_->is_iterable()) return;
  // Where all samples were there, only the batch could not be made of them.
  if (StreamResult::of(channel_.result(slot)).samples == job_->facts.batch_size) return;
  round_.end(slots_[slot].turn.shard, slots_[slot].turn.batch);
}

void BatchScheduler::skip(std::size_t slot) {
  if (!job_->is_iterable()) ++next_;  // a plan counts the batch, a shard that is over does not
  take_back(slot);
}

std::size_t BatchScheduler::hand_over(std::size_t slot) {
  const auto batch = number_of(slot);
  slots_[slot].use = Use::None;
  ++next_;
  return batch;
}

std::size_t BatchScheduler::lose(std::optional<std::size_t> slot) {
  const auto batch = slot ? number_of(*slot) : next_;
  if (slot) {
    note_end_of_shard(*slot);
    slots_[*slot].use = Use::Stale;
  } else if (now_.assigned == next_) {
    ++now_.assigned;  // it never had a slot, and gets none any more
    if (job_->is_iterable()) round_.start(0);
  }
  ++next_;
  ++lost_;
  return batch;
}

// Slots are also given to what lies beyond the end of a shard, which is no batch.
std::size_t BatchScheduler::number_of(std::size_t slot) const {
  return job_->is_iterable() ? next_ : slots_[slot].batch;
}

void BatchScheduler::count_request(const Overview& seen) noexcept {
  ++requests_;
  ready_at_requests_ += seen.ready;
}

void BatchScheduler::add_to(LoaderStatistics& statistics) const {
  statistics.lost_batches += lost_;
  statistics.ready_depth =
      requests_ == 0 ? 0 : static_cast<double>(ready_at_requests_) / static_cast<double>(requests_);
}

}  // namespace lockstep::data::detail
