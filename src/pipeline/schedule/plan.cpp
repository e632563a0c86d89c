// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/pipeline/plan.h>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace lockstep::pipeline {
namespace {

constexpr std::size_t kMostActions = std::size_t{1} << 20;

using Rows = std::vector<std::vector<Action>>;

void check_size(const Rows& rows) {
  TORCH_CHECK(!rows.empty(), "a pipeline's plan has no ranks; it needs a row for each rank");
  std::size_t total = 0;
  for (std::size_t rank = 0; rank < rows.size(); ++rank) {
    TORCH_CHECK(!rows[rank].empty(), "a pipeline's plan has no actions for rank ", rank, " of ",
                rows.size(), "; each rank needs at least one stage");
    total += rows[rank].size();
    for (const Action& action : rows[rank]) {
      TORCH_CHECK(action.stage >= 0 && action.microbatch >= 0, "a pipeline's plan: rank ", rank,
                  " has the action ", action, "; stages and microbatches count from 0");
    }
  }
  TORCH_CHECK(total <= kMostActions, "a pipeline's plan has ", total, " actions; at most ",
              kMostActions, " are allowed");
}

/// How many different numbers `number_of` gives: all from 0 on, with none left out.
template <typename NumberOf>
std::int64_t count_numbers(const Rows& rows, const char* what, const NumberOf& number_of) {
  std::vector<std::int64_t> numbers;
  for (const auto& row : rows) {
    for (const Action& action : row) numbers.push_back(number_of(action));
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    TORCH_CHECK(numbers[i] == static_cast<std::int64_t>(i), "a pipeline's plan has no action of ",
                what, " ", i, ", but one of ", what, " ", numbers[i], "; ", what,
                " numbers count from 0 and leave none out");
  }
  return static_cast<std::int64_t>(numbers.size());
}

/// The rank of each stage.
std::vector<std::int64_t> ranks_of_stages(const Rows& rows, std::int64_t stages) {
  std::vector<std::int64_t> rank_of(static_cast<std::size_t>(stages), -1);
  for (std::size_t rank = 0; rank < rows.size(); ++rank) {
    const auto own = static_cast<std::int64_t>(rank);
    for (const Action& action : rows[rank]) {
      auto& owner = rank_of[static_cast<std::size_t>(action.stage)];
      if (owner < 0) owner = own;
      TORCH_CHECK(owner == own, "a pipeline's plan has stage ", action.stage, " on rank ", owner,
                  " and on rank ", own, " (", action, "); a stage belongs to one rank");
    }
  }
  return rank_of;
}

}  // namespace

Plan::Plan(std::vector<std::vector<Action>> actions) : actions_(std::move(actions)) {
  check_size(actions_);
  const auto stages =
      count_numbers(actions_, "stage", [](const Action& action) { return action.stage; });
  microbatches_ =
      count_numbers(actions_, "microbatch", [](const Action& action) { return action.microbatch; });
  rank_of_ = ranks_of_stages(actions_, stages);
  stages_of_.resize(actions_.size());
  for (std::int64_t stage = 0; stage < stages; ++stage) {
    stages_of_[static_cast<std::size_t>(rank_of(stage))].push_back(stage);
  }
  for (std::size_t rank = 0; rank < stages_of_.size(); ++rank) {
    TORCH_CHECK(stages_of_[rank].size() == stages_of_[0].size(), "a pipeline's plan has ",
                stages_of_[0].size(), " stage(s) on rank 0 and ", stages_of_[rank].size(),
                " on rank ", rank, "; all ranks have the same number of stages");
  }
}

std::int64_t Plan::ranks() const noexcept {
  return static_cast<std::int64_t>(actions_.size());
}

std::int64_t Plan::stages() const noexcept {
  return static_cast<std::int64_t>(rank_of_.size());
}

std::int64_t Plan::stages_per_rank() const noexcept {
  return stages() / ranks();
}

std::int64_t Plan::microbatches() const noexcept {
  return microbatches_;
}

std::int64_t Plan::rank_of(std::int64_t stage) const {
  TORCH_CHECK(stage >= 0 && stage < stages(), "a pipeline's plan has ", stages(),
              " stages; there is no stage ", stage);
  return rank_of_[static_cast<std::size_t>(stage)];
}

const std::vector<std::int64_t>& Plan::stages_of(std::int64_t rank) const {
  static_cast<void>(actions(rank));
  return stages_of_[static_cast<std::size_t>(rank)];
}

const std::vector<Action>& Plan::actions(std::int64_t rank) const {
  TORCH_CHECK(rank >= 0 && rank < ranks(), "a pipeline's plan has ", ranks(),
              " ranks; there is no rank ", rank);
  return actions_[static_cast<std::size_t>(rank)];
}

bool Plan::has_split_backward() const noexcept {
  return std::any_of(actions_.begin(), actions_.end(), [](const std::vector<Action>& row) {
    return std::any_of(row.begin(), row.end(), [](const Action& action) {
      return action.kind == ActionKind::BackwardInput || action.kind == ActionKind::BackwardWeight;
    });
  });
}

Action Plan::last_backward(std::int64_t stage) const {
  const auto& row = actions(rank_of(stage));
  const auto found = std::find_if(row.rbegin(), row.rend(), [&](const Action& action) {
    return action.stage == stage &&
           (action.kind == ActionKind::Backward || action.kind == ActionKind::BackwardWeight);
  });
  TORCH_CHECK(found != row.rend(), "a pipeline's plan has no backward of stage ", stage);
  return *found;
}

}  // namespace lockstep::pipeline
