// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/pipeline/plan.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pipeline/schedule/dependencies.h"
#include "pipeline/schedule/runnable.h"

namespace lockstep::pipeline {
namespace {

/// How many actions of each rank have ended for certain.
using Clock = std::vector<std::size_t>;

/// Follows what each rank can know of all others, and counts results of one kind that exist.
///
/// What makes the results and what ends their use may be on two ranks. The maker can rely on the
/// end of a use only where a message, or a chain of them, has told it; all other uses may still go
/// on.
class InFlight {
 public:
  /// The results of this kind of this stage, which the stage beside it uses.
  InFlight(const Plan& plan, Traffic traffic, std::int64_t stage)
      : plan_(plan), dependencies_(plan), traffic_(traffic), stage_(stage) {}

  std::int64_t peak() {
    const std::int64_t user_stage = stage_ + (traffic_ == Traffic::Activation ? 1 : -1);
    user_ = plan_.rank_of(user_stage);
    std::size_t place = 0;
    for (const Action& action : plan_.actions(user_)) {
      ++place;
      if (action.stage != user_stage) continue;
      const bool ends =
          action.kind == ActionKind::Backward || action.kind == ActionKind::BackwardWeight;
      if (ends) ended_after_.push_back(place);
    }
    clocks_.assign(static_cast<std::size_t>(plan_.ranks()),
                   Clock(static_cast<std::size_t>(plan_.ranks()), 0));
    sent_.resize(dependencies_.results());
    walk(plan_, [&](std::int64_t rank, std::size_t at) { visit(rank, at); });
    return peak_;
  }

 private:
  void visit(std::int64_t rank, std::size_t place) {
    Clock& clock = clocks_[static_cast<std::size_t>(rank)];
    const Action& action = plan_.actions(rank)[place];
    if (const auto needed = dependencies_.needed_by(action)) {
      Clock& sent = sent_[dependencies_.index_of(*needed)];
      for (std::size_t i = 0; i < sent.size(); ++i) clock[i] = std::max(clock[i], sent[i]);
      sent = {};
    }
    const auto made = dependencies_.made_by(action);
    if (made && made->traffic == traffic_ && made->stage == stage_) {
      const auto known = clock[static_cast<std::size_t>(user_)];
      const auto ended = std::upper_bound(ended_after_.begin(), ended_after_.end(), known);
      peak_ = std::max(peak_, ++made_ - (ended - ended_after_.begin()));
    }
    clock[static_cast<std::size_t>(rank)] = place + 1;
    if (made && dependencies_.user_of(*made) != rank) sent_[dependencies_.index_of(*made)] = clock;
  }

  const Plan& plan_;
  Dependencies dependencies_;
  Traffic traffic_;
  std::int64_t stage_;
  std::int64_t user_ = 0;
  std::vector<std::size_t> ended_after_;  // so many actions of the user's rank
  std::vector<Clock> clocks_;             // one a rank
  std::vector<Clock> sent_;               // with each message under way
  std::int64_t made_ = 0;
  std::int64_t peak_ = 0;
};

/// The most inputs that the first stage keeps: its own rank begins and ends each.
std::int64_t peak_of_first_stage(const Plan& plan) {
  std::int64_t held = 0;
  std::int64_t peak = 0;
  for (const Action& action : plan.actions(plan.rank_of(0))) {
    if (action.stage != 0 || action.kind == ActionKind::BackwardInput) continue;
    held += action.kind == ActionKind::Forward ? 1 : -1;
    peak = std::max(peak, held);
  }
  return peak;
}

}  // namespace

std::int64_t Plan::peak_in_flight(std::int64_t stage) const {
  static_cast<void>(rank_of(stage));
  require_runnable(*this);
  return stage == 0 ? peak_of_first_stage(*this)
                    : InFlight(*this, Traffic::Activation, stage - 1).peak();
}

std::int64_t Plan::peak_gradients_in_flight(std::int64_t stage) const {
  static_cast<void>(rank_of(stage));
  require_runnable(*this);
  return stage == stages() - 1 ? 0 : InFlight(*this, Traffic::Gradient, stage + 1).peak();
}

}  // namespace lockstep::pipeline
