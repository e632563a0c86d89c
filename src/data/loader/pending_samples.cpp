// SPDX-License-Identifier: BSD-3-Clause
// Beside step 6 of a sample's path: samples of a dataset with `get_async` are begun before they are
// wanted, and taken in order.
#include "data/loader/pending_samples.h"

#include <algorithm>
#include <sstream>
#include <utility>

#include "concurrency/deadline.h"
#include "concurrency/waited_time.h"
#include "data/loader/sample_generator.h"
#include "data/loader/sample_policy.h"

namespace lockstep::data::detail {
namespace {

// Nobody waits for longer without looking around.
constexpr std::chrono::milliseconds kPendingSlice{50};

}  // namespace

PendingSamples::PendingSamples(const SampleSource& source, std::size_t most,
                               std::chrono::milliseconds timeout,
                               std::chrono::milliseconds patience, LookAheadCounts& counts)
    : source_(source), most_(most), timeout_(timeout), patience_(patience), counts_(counts) {
  note_under_way();  // a worker that died had others
}

PendingSamples::~PendingSamples() {
  forget_those_of_parent();
  forget_all();
  const auto deadline = Deadline::after(patience_);
  for (auto& entry : unwanted_) {
    const auto rest = std::chrono::duration_cast<std::chrono::milliseconds>(deadline.remaining());
    // The dataset is left with it: what is under way may use it.
    if (!entry.sample->wait_for(rest)) native::leave_alone(std::move(entry));
  }
  counts_.under_way.store(0, std::memory_order_relaxed);
}

void PendingSamples::use(Tell tell, GoesOn goes_on) {
  tell_ = std::move(tell);
  goes_on_ = std::move(goes_on);
}

SampleSource PendingSamples::source() {
  SampleSource result = source_;
  result.get = [this](std::size_t index, SampleRandom& random) { return take(index, random); };
  result.get_into = nullptr;
  return result;
}

SampleTree PendingSamples::take(std::size_t index, SampleRandom& random) {
  forget_those_of_parent();
  if (goes_on_ && !goes_on_()) throw SampleNotWanted();
  begin_upcoming();
  const auto is_it = [index](const Entry& entry) { return entry.index == index; };
  auto found = std::find_if(entries_.begin(), entries_.end(), is_it);
  if (found == entries_.end()) {  // in another's place, or behind such a one
    begin(index, 0);
    found = std::prev(entries_.end());
  }
  LookAheadCounts::add(counts_.wanted, 1);
  LookAheadCounts::add(counts_.under_way_sum, under_way());
  Entries taken;
  taken.splice(taken.end(), entries_, found);
  note_under_way();
  auto& entry = taken.front();
  if (entry.error) std::rethrow_exception(entry.error);
  try {
    await(entry);
  } catch (...) {
    let_go(taken, taken.begin());
    note_under_way();
    throw;
  }
  // Others were begun meanwhile, and how many depends on the time.
  SampleGenerator::begin_again();
  return entry.sample->take(random);
}

// What nobody wants any more is under way as well. What did not come at its turn may never come.
std::size_t PendingSamples::under_way() const {
  const auto counts = [](const Entry& entry) { return !entry.is_silent; };
  return entries_.size() +
         static_cast<std::size_t>(std::count_if(unwanted_.begin(), unwanted_.end(), counts));
}

void PendingSamples::begin_upcoming() {
  if (!unwanted_.empty()) sweep();
  if (!tell_ || under_way() >= most_) return;
  tell_(most_, [&](std::int64_t index, std::uint64_t place) {
    if (under_way() >= most_) return false;
    begin(static_cast<std::size_t>(index), place);
    return true;
  });
}

// An error is the sample's, and waits for its turn.
void PendingSamples::begin(std::size_t index, std::uint64_t place) {
  Entry entry;
  entry.place = place;
  entry.index = index;
  LookAheadCounts::add(counts_.begun, 1);
  try {
    entry.sample = source_.start(index);
  } catch (...) {
    entry.error = std::current_exception();
  }
  entries_.push_back(std::move(entry));
}

void PendingSamples::await(Entry& entry) {
  if (entry.sample->wait_for(std::chrono::milliseconds::zero())) {
    return LookAheadCounts::add(counts_.ready, 1);
  }
  WaitedTime waited(2 * kPendingSlice);
  const auto slice = std::min(kPendingSlice, std::max(timeout_ / 4, std::chrono::milliseconds(1)));
  while (!entry.sample->wait_for(slice)) {
    if (goes_on_ && !goes_on_()) throw SampleNotWanted();
    if (waited.look() < timeout_) continue;
    std::ostringstream text;
    text << "get_async(" << entry.index << ") has not given its sample within "
         << std::chrono::duration<double>(timeout_).count() << " s (DataLoaderOptions::timeout)";
    entry.is_silent = true;
    throw SilentSample(std::move(text).str());
  }
}

void PendingSamples::forget_before(std::uint64_t place) {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const auto next = std::next(entry);
    if (entry->place < place) let_go(entries_, entry);
    entry = next;
  }
  sweep();
  note_under_way();
}

void PendingSamples::forget_all() {
  while (!entries_.empty()) let_go(entries_, entries_.begin());
  sweep();
  note_under_way();
}

void PendingSamples::let_go(Entries& from, Entries::iterator entry) {
  if (entry->sample) LookAheadCounts::add(counts_.unwanted, 1);
  unwanted_.splice(unwanted_.end(), from, entry);
}

// Drops what is there, or never was.
void PendingSamples::sweep() {
  unwanted_.remove_if([](const Entry& entry) {
    return !entry.sample || entry.sample->wait_for(std::chrono::milliseconds::zero());
  });
}

void PendingSamples::note_under_way() {
  counts_.under_way.store(under_way(), std::memory_order_relaxed);
}

// Whoever was to set these futures does not exist in a fork of the process.
void PendingSamples::forget_those_of_parent() {
  if (owner_.is_current()) return;
  owner_ = native::OwningProcess();
  native::leave_alone(std::exchange(entries_, {}));
  native::leave_alone(std::exchange(unwanted_, {}));
}

}  // namespace lockstep::data::detail
