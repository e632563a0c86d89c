// SPDX-License-Identifier: BSD-3-Clause
// Several backwards a step, ranks that run out of data, and buffers.
#include "multirank/parity/parity_case.h"

namespace lockstep::testing::parity {
namespace {

using Options = DistributedDataParallelOptions;
using Join = Case::Join;

// Two averages of a step add up: the second one is of the first's result and more, which may be
// larger than the sum of both, to which the bound of one average refers.
constexpr Precision kTwoAverages{.own = 8};

std::vector<Case> accumulation() {
  return {
      {.name = "accumulate_2", .net = mlp},
      {.name = "accumulate_3", .net = convolutional},
      {.name = "accumulate_tied", .net = tied, .optimizer = adam()},
      {.name = "accumulate_bucket_view", .net = mlp},
      {.name = "accumulate_2_static",
       .net = mlp,
       .oracle = "accumulate_2",
       .options = Options().static_graph(true)},
      {.name = "accumulate_sparse",
       .net = sparse_bag_of_words,
       .optimizer = plain_sgd(),
       .precision = kRepeatedRows},
      {.name = "accumulate_branches", .net = branches},
      {.name = "accumulate_in_turn", .net = branches},
      {.name = "two_averages", .net = mlp, .accumulates = false, .precision = kTwoAverages},
  };
}

// PyTorch's joined ranks do not step, and get parameters at the end. Lockstep's can do both.
std::vector<Case> joins() {
  const auto all = Options().averaging(GradientAveraging::AllRanks);
  const auto active = Options().averaging(GradientAveraging::ActiveRanks);
  return {
      {.name = "join_all_ranks", .net = mlp, .options = all, .join = Join::WithStep},
      {.name = "join_all_ranks_without_step",
       .net = mlp,
       .oracle = "join_all_ranks",
       .options = all,
       .join = Join::WithoutStep},
      {.name = "join_active_ranks", .net = mlp, .options = active, .join = Join::WithStep},
      {.name = "join_active_ranks_without_step",
       .net = mlp,
       .oracle = "join_active_ranks",
       .options = active,
       .join = Join::WithoutStep},
      {.name = "join_convolutional",
       .net = convolutional,
       .options = active,
       .join = Join::WithStep},
      {.name = "join_adam",
       .net = mlp,
       .optimizer = adam(),
       .options = all,
       .join = Join::WithStep},
      {.name = "join_accumulate", .net = mlp, .options = active, .join = Join::WithStep},
      {.name = "join_branches",
       .net = branches,
       .optimizer = plain_sgd(),
       .options = active,
       .join = Join::WithStep},
      {.name = "join_batch_norm", .net = batch_norm, .options = active, .join = Join::WithStep},
  };
}

std::vector<Case> buffers() {
  const auto broadcast = Options().buffer_sync(BufferSync::Broadcast);
  return {
      {.name = "batch_norm_broadcast", .net = batch_norm, .options = broadcast},
      {.name = "running_mean_broadcast", .net = running_mean, .options = broadcast},
      {.name = "running_mean_accumulate", .net = running_mean, .options = broadcast},
  };
}

LOCKSTEP_PARITY_CASES(Accumulation, accumulation());
LOCKSTEP_PARITY_CASES(Joins, joins());
LOCKSTEP_PARITY_CASES(Buffers, buffers());

}  // namespace
}  // namespace lockstep::testing::parity
