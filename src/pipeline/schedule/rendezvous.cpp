// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/schedule/rendezvous.h"

#include <c10/util/Exception.h>

#include <cstddef>
#include <cstdint>

#include "pipeline/schedule/dependencies.h"

namespace lockstep::pipeline {
namespace {

/// Where nothing is buffered: a send ends when its receive is posted.
class RendezvousWalk {
 public:
  RendezvousWalk(const Plan& plan, const std::vector<std::vector<Step>>& steps)
      : dependencies_(plan), steps_(steps), next_(steps.size()) {
    posted_.resize(dependencies_.results());
    sent_.resize(dependencies_.results());
    for (std::size_t rank = 0; rank < steps_.size(); ++rank) awake_.push_back(rank);
  }

  void run() {
    while (!awake_.empty()) {
      const std::size_t rank = awake_.back();
      awake_.pop_back();
      while (next_[rank] < steps_[rank].size() && take(steps_[rank][next_[rank]])) ++next_[rank];
    }
    for (std::size_t rank = 0; rank < steps_.size(); ++rank) {
      TORCH_CHECK(next_[rank] == steps_[rank].size(), "a pipeline's plan never ends where a send ",
                  "waits for its receive: rank ", rank, " waits in ", steps_[rank][next_[rank]],
                  " for rank ", steps_[rank][next_[rank]].peer);
    }
  }

 private:
  /// False: it waits.
  bool take(const Step& step) {
    if (step.kind == StepKind::Compute) return true;
    const bool sends = step.kind == StepKind::Send;
    const std::int64_t back = step.traffic == Traffic::Activation ? -1 : 1;
    const auto message = dependencies_.index_of(
        {step.traffic, sends ? step.stage : step.stage + back, step.microbatch});
    if (step.kind == StepKind::WaitReceive) return sent_[message];
    if (sends && !posted_[message]) return false;
    (sends ? sent_ : posted_)[message] = true;
    awake_.push_back(static_cast<std::size_t>(step.peer));
    return true;
  }

  Dependencies dependencies_;
  const std::vector<std::vector<Step>>& steps_;
  std::vector<std::size_t> next_;
  std::vector<bool> posted_;
  std::vector<bool> sent_;
  std::vector<std::size_t> awake_;
};

}  // namespace

void require_rendezvous(const Plan& plan, const std::vector<std::vector<Step>>& steps) {
  RendezvousWalk(plan, steps).run();
}

}  // namespace lockstep::pipeline
