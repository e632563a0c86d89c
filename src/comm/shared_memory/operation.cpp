// SPDX-License-Identifier: BSD-3-Clause
#include "comm/shared_memory/operation.h"

#include <string>

namespace lockstep {

OperationFailure lost(const SharedMemoryCounters& counters, int rank) {
  std::string reason = counters.describe(rank);
  switch (counters.state(rank)) {
    case SharedMemoryCounters::RankState::Aborted:
      reason += " gave up: " + counters.reason_of(rank);
      break;
    case SharedMemoryCounters::RankState::Closed:
      reason += " has closed the group";
      break;
    default:
      reason += " died";
  }
  return {OperationFailure::Kind::PeerLost, reason, "look at what that rank reported first"};
}

void SharedMemoryOperation::arrive() {
  if (shape_.is_staged) turn_ = transport_.next_turn();
  offer(done_rounds_);
  digest_ = digest_of(fingerprint_, shape_.is_place_fixed);
  round_ = transport_.counters().arrive(fingerprint_, digest_);
  ++arrived_rounds_;
}

bool SharedMemoryOperation::try_start(bool is_oldest) {
  if (arrived_rounds_ == 0) {
    // Operations in registered memory share no slots, so that several buckets can be offered while
    // earlier ones are under way.
    if (!is_oldest && (shape_.is_staged || !transport_.counters().can_arrive())) return false;
    arrive();
  }
  return !shape_.is_open_ended && arrived_rounds_ == shape_.rounds;
}

bool SharedMemoryOperation::try_finish() {
  SharedMemoryCounters& counters = transport_.counters();
  while (done_rounds_ < shape_.rounds) {
    if (arrived_rounds_ == done_rounds_) arrive();
    if (!has_acted_) {
      if (!counters.have_all_arrived(round_)) return false;
      if (!counters.have_same_digest(round_, digest_)) {
        check_fingerprints(
            counters.world_size(), [&](int rank) { return counters.fingerprint(rank, round_); },
            shape_.is_place_fixed);
      }
      act(done_rounds_);
      counters.finish(round_);
      has_acted_ = true;
    }
    if (shape_.is_two_phase && !counters.have_all_finished(round_)) return false;
    conclude(done_rounds_);
    counters.complete();
    ++done_rounds_;
    has_acted_ = false;
  }
  return true;
}

bool SharedMemoryOperation::spin() {
  const SharedMemoryCounters& counters = transport_.counters();
  return has_acted_ ? counters.spin_until_finished(round_) : counters.spin_until_arrived(round_);
}

void SharedMemoryOperation::sleep(std::chrono::nanoseconds limit) {
  if (has_acted_) {
    transport_.counters().sleep_until_finished(round_, limit);
  } else {
    transport_.counters().sleep_until_arrived(round_, limit);
  }
}

void SharedMemoryOperation::check_peers() {
  const SharedMemoryCounters& counters = transport_.counters();
  for (int rank = 0; rank < counters.world_size(); ++rank) {
    if (!is_late(rank) || counters.can_still_come(rank)) continue;
    // It may have come, and gone, between the two looks.
    if (is_late(rank)) throw lost(counters, rank);
  }
}

bool SharedMemoryOperation::is_late(int rank) const {
  const SharedMemoryCounters& counters = transport_.counters();
  return has_acted_ ? !counters.has_finished(rank, round_) : !counters.has_arrived(rank, round_);
}

std::string SharedMemoryOperation::describe_missing() const {
  const SharedMemoryCounters& counters = transport_.counters();
  std::string text;
  for (int rank = 0; rank < counters.world_size(); ++rank) {
    if (!is_late(rank)) continue;
    if (!text.empty()) text += ", ";
    text += counters.describe(rank) + (has_acted_ ? " has not done its part" : " has not arrived");
  }
  return text.empty() ? "no rank is late any more" : text;
}

}  // namespace lockstep
