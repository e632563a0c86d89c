// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/schedule/runnable.h"

#include <c10/util/Exception.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/schedule/dependencies.h"

namespace lockstep::pipeline {
namespace {

constexpr std::int64_t kNowhere = -1;

/// Where a rank's order has the four kinds of actions of one microbatch in one stage.
using Places = std::array<std::int64_t, 4>;

std::int64_t& place_of(Places& places, ActionKind kind) {
  return places[static_cast<std::size_t>(kind)];
}

/// One entry a microbatch.
std::vector<Places> places_in_stage(const Plan& plan, std::int64_t stage,
                                    const std::vector<std::int64_t>& places_of_stage) {
  std::vector<Places> found(static_cast<std::size_t>(plan.microbatches()),
                            {kNowhere, kNowhere, kNowhere, kNowhere});
  const std::int64_t rank = plan.rank_of(stage);
  for (const std::int64_t place : places_of_stage) {
    const Action& action = plan.actions(rank)[static_cast<std::size_t>(place)];
    auto& first = place_of(found[static_cast<std::size_t>(action.microbatch)], action.kind);
    TORCH_CHECK(first == kNowhere, "a pipeline's plan has ", action, " twice: actions ", first,
                " and ", place, " of rank ", rank);
    first = place;
  }
  return found;
}

void check_microbatch(std::int64_t rank, std::int64_t stage, std::int64_t microbatch,
                      Places places) {
  const std::int64_t forward = place_of(places, ActionKind::Forward);
  const std::int64_t whole = place_of(places, ActionKind::Backward);
  const std::int64_t input = place_of(places, ActionKind::BackwardInput);
  const std::int64_t weight = place_of(places, ActionKind::BackwardWeight);
  const auto text = [&](ActionKind kind) { return to_string({kind, stage, microbatch}); };
  TORCH_CHECK(forward != kNowhere, "a pipeline's plan lacks ", text(ActionKind::Forward),
              ", which rank ", rank, " must have");
  TORCH_CHECK(whole != kNowhere || (input != kNowhere && weight != kNowhere),
              "a pipeline's plan lacks the backward of stage ", stage, " for microbatch ",
              microbatch, ": rank ", rank, " must have ", text(ActionKind::Backward), ", or ",
              text(ActionKind::BackwardInput), " and ", text(ActionKind::BackwardWeight));
  TORCH_CHECK(whole == kNowhere || (input == kNowhere && weight == kNowhere),
              "a pipeline's plan has the backward of stage ", stage, " for microbatch ", microbatch,
              " twice: rank ", rank, " has ", text(ActionKind::Backward), " as well as ",
              text(input != kNowhere ? ActionKind::BackwardInput : ActionKind::BackwardWeight));
  const bool split = whole == kNowhere;
  const std::int64_t backward = split ? input : whole;
  TORCH_CHECK(forward < backward, "a pipeline's plan: rank ", rank, " has ",
              text(split ? ActionKind::BackwardInput : ActionKind::Backward), " (its action ",
              backward, ") before ", text(ActionKind::Forward), " (its action ", forward, ")");
  TORCH_CHECK(!split || input < weight, "a pipeline's plan: rank ", rank, " has ",
              text(ActionKind::BackwardWeight), " (its action ", weight, ") before ",
              text(ActionKind::BackwardInput), " (its action ", input, ")");
}

/// Each stage has each microbatch once, in the order in which it can be computed.
void check_stages(const Plan& plan) {
  std::vector<std::vector<std::int64_t>> places(static_cast<std::size_t>(plan.stages()));
  for (std::int64_t rank = 0; rank < plan.ranks(); ++rank) {
    std::int64_t place = 0;
    for (const Action& action : plan.actions(rank)) {
      places[static_cast<std::size_t>(action.stage)].push_back(place++);
    }
  }
  for (std::int64_t stage = 0; stage < plan.stages(); ++stage) {
    const auto found = places_in_stage(plan, stage, places[static_cast<std::size_t>(stage)]);
    for (std::size_t i = 0; i < found.size(); ++i) {
      check_microbatch(plan.rank_of(stage), stage, static_cast<std::int64_t>(i), found[i]);
    }
  }
}

/// "rank 0 waits before 0B0 (its action 2) for the result of 1B0 (action 4 of rank 1)"
std::string describe_wait(const Plan& plan, std::int64_t rank, std::size_t place) {
  const Dependencies dependencies(plan);
  const Action& action = plan.actions(rank)[place];
  const auto needed = *dependencies.needed_by(action);
  const std::int64_t maker = dependencies.maker_of(needed);
  std::size_t there = 0;
  for (const Action& other : plan.actions(maker)) {
    const auto made = dependencies.made_by(other);
    if (made && dependencies.index_of(*made) == dependencies.index_of(needed)) break;
    ++there;
  }
  std::string text = "rank ";
  text += std::to_string(rank) + " waits before " + to_string(action) + " (its action ";
  text += std::to_string(place) + ") for the result of " + to_string(plan.actions(maker)[there]);
  text += " (action " + std::to_string(there) + " of rank " + std::to_string(maker) + ")";
  return text;
}

/// No ranks wait for each other, wherever sends go on without waiting.
void check_progress(const Plan& plan) {
  constexpr int kMostRanksNamed = 8;
  const auto reached = walk(plan, [](std::int64_t /*rank*/, std::size_t /*place*/) {});
  std::string waits;
  int stuck = 0;
  for (std::int64_t rank = 0; rank < plan.ranks(); ++rank) {
    const std::size_t place = reached[static_cast<std::size_t>(rank)];
    if (place == plan.actions(rank).size() || ++stuck > kMostRanksNamed) continue;
    if (stuck > 1) waits += "; ";
    waits += describe_wait(plan, rank, place);
  }
  if (stuck > kMostRanksNamed) waits += "; and more ranks";
  TORCH_CHECK(stuck == 0, "a pipeline's plan never ends: ", waits);
}

}  // namespace

void require_runnable(const Plan& plan) {
  check_stages(plan);
  check_progress(plan);
}

bool is_runnable(const Plan& plan) {
  try {
    require_runnable(plan);
    return true;
  } catch (const c10::Error&) {
    return false;
  }
}

}  // namespace lockstep::pipeline
