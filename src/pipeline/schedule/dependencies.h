// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/pipeline/plan.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace lockstep::pipeline {

/// What an action of one stage makes for an action of the stage beside it.
struct Result {
  Traffic traffic = Traffic::Activation;
  std::int64_t stage = 0;  // that made it
  std::int64_t microbatch = 0;
};

/// Which results a plan's actions make and need.
class Dependencies {
 public:
  /// `plan` must outlive this.
  explicit Dependencies(const Plan& plan) : plan_(plan) {}

  /// A backward in two parts gives its result with the first one.
  [[nodiscard]] std::optional<Result> made_by(const Action& action) const {
    const bool forward = action.kind == ActionKind::Forward;
    if (action.kind == ActionKind::BackwardWeight) return std::nullopt;
    if (action.stage == (forward ? plan_.stages() - 1 : 0)) return std::nullopt;
    return Result{forward ? Traffic::Activation : Traffic::Gradient, action.stage,
                  action.microbatch};
  }
  [[nodiscard]] std::optional<Result> needed_by(const Action& action) const {
    const bool forward = action.kind == ActionKind::Forward;
    if (action.kind == ActionKind::BackwardWeight) return std::nullopt;
    if (action.stage == (forward ? 0 : plan_.stages() - 1)) return std::nullopt;
    return Result{forward ? Traffic::Activation : Traffic::Gradient,
                  action.stage + (forward ? -1 : 1), action.microbatch};
  }
  [[nodiscard]] std::int64_t maker_of(const Result& result) const {
    return plan_.rank_of(result.stage);
  }
  [[nodiscard]] std::int64_t user_of(const Result& result) const {
    return plan_.rank_of(result.stage + (result.traffic == Traffic::Activation ? 1 : -1));
  }

  /// Below `results()`.
  [[nodiscard]] std::size_t index_of(const Result& result) const {
    const auto kind = result.traffic == Traffic::Activation ? 0 : plan_.stages();
    return static_cast<std::size_t>((kind + result.stage) * plan_.microbatches() +
                                    result.microbatch);
  }
  [[nodiscard]] std::size_t results() const {
    return static_cast<std::size_t>(2 * plan_.stages() * plan_.microbatches());
  }

 private:
  const Plan& plan_;
};

/// Calls `visit(rank, place)` for the actions of all ranks, each behind what it needs. Returns how
/// many actions of each rank were visited: fewer than it has, where ranks wait for each other.
/// `plan` has each stage's microbatches once.
template <typename Visit>
std::vector<std::size_t> walk(const Plan& plan, const Visit& visit) {
  const Dependencies dependencies(plan);
  std::vector<bool> exists(dependencies.results());
  std::vector<std::size_t> next(static_cast<std::size_t>(plan.ranks()));
  std::vector<std::int64_t> awake;
  for (std::int64_t rank = plan.ranks(); rank-- > 0;) awake.push_back(rank);
  while (!awake.empty()) {
    const std::int64_t rank = awake.back();
    awake.pop_back();
    const auto& actions = plan.actions(rank);
    for (auto& place = next[static_cast<std::size_t>(rank)]; place < actions.size(); ++place) {
      const auto needed = dependencies.needed_by(actions[place]);
      if (needed && !exists[dependencies.index_of(*needed)]) break;
      visit(rank, place);
      if (const auto made = dependencies.made_by(actions[place])) {
        exists[dependencies.index_of(*made)] = true;
        if (dependencies.user_of(*made) != rank) awake.push_back(dependencies.user_of(*made));
      }
    }
  }
  return next;
}

}  // namespace lockstep::pipeline
