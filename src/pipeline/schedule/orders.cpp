// SPDX-License-Identifier: BSD-3-Clause
#include "pipeline/schedule/orders.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace lockstep::pipeline {
namespace {

/// Collects the order of one rank. Each kind of action takes a stage's microbatches from 0 on.
class Order {
 public:
  explicit Order(const PlanSize& size)
      : microbatches_(size.microbatches),
        counts_(static_cast<std::size_t>(4 * size.ranks * size.stages_per_rank)) {}

  /// Counts, but adds nothing, where the stage has had all microbatches.
  void add(ActionKind kind, std::int64_t stage) {
    const std::int64_t microbatch = counts_[index_of(kind, stage)]++;
    if (microbatch < microbatches_) actions_.push_back({kind, stage, microbatch});
  }
  [[nodiscard]] std::int64_t count(ActionKind kind, std::int64_t stage) const {
    return counts_[index_of(kind, stage)];
  }

  std::vector<Action> take() { return std::move(actions_); }

 private:
  static std::size_t index_of(ActionKind kind, std::int64_t stage) {
    return static_cast<std::size_t>(4 * stage + static_cast<std::int64_t>(kind));
  }

  std::int64_t microbatches_;
  std::vector<std::int64_t> counts_;
  std::vector<Action> actions_;
};

/// The stages of a rank in turns, as many microbatches of each at a time as a round has.
class Rounds {
 public:
  Rounds(const char* schedule, const PlanSize& size, std::int64_t rank) : size_(size), rank_(rank) {
    const std::int64_t rounds = std::max<std::int64_t>(1, size.microbatches / size.ranks);
    TORCH_CHECK(size.microbatches % rounds == 0, "the pipeline schedule ", schedule, " goes in ",
                "max(1, microbatches / ranks) rounds of equal length; ", size.microbatches,
                " microbatches on ", size.ranks, " ranks make ", rounds,
                " rounds, which do not divide ", size.microbatches,
                "; take a multiple of the ranks, or fewer than twice as many as ranks");
    length_ = size.microbatches / rounds;
  }

  /// Each forward, or each backward, of the rank has one.
  [[nodiscard]] std::int64_t turns() const { return size_.stages_per_rank * size_.microbatches; }
  /// Forwards before the first backward, if a rank has `more` of them than the next rank.
  [[nodiscard]] std::int64_t warm_up(std::int64_t more) const {
    const std::int64_t of_last_rank = (size_.stages_per_rank - 1) * length_;
    return std::min(turns(), of_last_rank + more * (size_.ranks - 1 - rank_));
  }
  [[nodiscard]] std::int64_t forward_stage(std::int64_t turn) const {
    return local(turn) * size_.ranks + rank_;
  }
  [[nodiscard]] std::int64_t backward_stage(std::int64_t turn) const {
    return (size_.stages_per_rank - 1 - local(turn)) * size_.ranks + rank_;
  }

 private:
  [[nodiscard]] std::int64_t local(std::int64_t turn) const {
    return turn / length_ % size_.stages_per_rank;
  }

  PlanSize size_;
  std::int64_t rank_;
  std::int64_t length_ = 1;  // of a round
};

}  // namespace

std::vector<Action> gpipe_order(const PlanSize& size, std::int64_t rank) {
  Order order(size);
  for (std::int64_t local = 0; local < size.stages_per_rank; ++local) {
    for (std::int64_t i = 0; i < size.microbatches; ++i) {
      order.add(ActionKind::Forward, local * size.ranks + rank);
    }
  }
  for (std::int64_t local = size.stages_per_rank; local-- > 0;) {
    for (std::int64_t i = 0; i < size.microbatches; ++i) {
      order.add(ActionKind::Backward, local * size.ranks + rank);
    }
  }
  return order.take();
}

std::vector<Action> one_f_one_b_order(const PlanSize& size, std::int64_t rank) {
  TORCH_CHECK(size.stages_per_rank == 1, "the pipeline schedule 1F1B has one stage a rank, not ",
              size.stages_per_rank, "; interleaved() is 1F1B with several");
  TORCH_CHECK(size.microbatches >= size.ranks, "the pipeline schedule 1F1B needs at least as many ",
              "microbatches as ranks; ", size.microbatches, " microbatch(es) on ", size.ranks,
              " ranks cannot fill the pipeline");
  Order order(size);
  const std::int64_t warm_up = std::min(size.microbatches, size.ranks - 1 - rank);
  for (std::int64_t i = 0; i < warm_up; ++i) order.add(ActionKind::Forward, rank);
  for (std::int64_t i = warm_up; i < size.microbatches; ++i) {
    order.add(ActionKind::Forward, rank);
    order.add(ActionKind::Backward, rank);
  }
  for (std::int64_t i = 0; i < warm_up; ++i) order.add(ActionKind::Backward, rank);
  return order.take();
}

std::vector<Action> interleaved_order(const PlanSize& size, std::int64_t rank) {
  const Rounds rounds("interleaved", size, rank);
  Order order(size);
  // So many that a microbatch's backward is there when the rank begins its own.
  const std::int64_t warm_up = rounds.warm_up(2);
  for (std::int64_t turn = 0; turn < rounds.turns() + warm_up; ++turn) {
    if (turn < rounds.turns()) order.add(ActionKind::Forward, rounds.forward_stage(turn));
    if (turn >= warm_up) order.add(ActionKind::Backward, rounds.backward_stage(turn - warm_up));
  }
  return order.take();
}

std::vector<Action> zero_bubble_order(const PlanSize& size, std::int64_t rank) {
  const Rounds rounds("zero bubble", size, rank);
  Order order(size);
  const std::int64_t warm_up = rounds.warm_up(1);
  std::int64_t weights = 0;
  for (std::int64_t turn = 0; turn < rounds.turns() + warm_up; ++turn) {
    if (turn < rounds.turns()) order.add(ActionKind::Forward, rounds.forward_stage(turn));
    const std::int64_t back = turn - warm_up;
    if (back >= 0) order.add(ActionKind::BackwardInput, rounds.backward_stage(back));
    // The later the rank, the more W it keeps for the end, when it has nothing else to do.
    if (back >= rank) order.add(ActionKind::BackwardWeight, rounds.backward_stage(weights++));
  }
  while (weights < rounds.turns()) {
    order.add(ActionKind::BackwardWeight, rounds.backward_stage(weights++));
  }
  return order.take();
}

std::vector<Action> zbv_order(const PlanSize& size, std::int64_t rank) {
  TORCH_CHECK(size.stages_per_rank == 2, "the pipeline schedule ZBV has two stages a rank, not ",
              size.stages_per_rank);
  using enum ActionKind;
  const std::int64_t down = rank;
  const std::int64_t up = 2 * size.ranks - 1 - rank;
  const std::int64_t rest = size.ranks - rank;
  // Made for so many; what a smaller batch lacks is left out.
  const std::int64_t microbatches = std::max(size.microbatches, 2 * size.ranks - 1);
  Order order(size);
  const auto repeat = [&](std::int64_t times, const auto& add) {
    for (std::int64_t i = 0; i < times; ++i) add();
  };
  const auto backward = [&](std::int64_t stage) {
    order.add(BackwardInput, stage);
    order.add(BackwardWeight, stage);
  };
  repeat(2 * rest - 1, [&] { order.add(Forward, down); });
  repeat(rank, [&] {
    order.add(Forward, up);
    order.add(Forward, down);
  });
  repeat(rest, [&] {
    order.add(Forward, up);
    backward(up);
  });
  while (order.count(Forward, up) < order.count(Forward, down) ||
         order.count(Forward, down) < microbatches) {
    if (order.count(Forward, down) < microbatches) order.add(Forward, down);
    backward(down);
    order.add(Forward, up);
    backward(up);
  }
  repeat(rank, [&] {
    order.add(BackwardInput, down);
    order.add(BackwardInput, up);
  });
  repeat(rest, [&] { backward(down); });
  for (const std::int64_t stage : {up, down}) {
    repeat(order.count(BackwardInput, stage) - order.count(BackwardWeight, stage),
           [&] { order.add(BackwardWeight, stage); });
  }
  return order.take();
}

}  // namespace lockstep::pipeline
