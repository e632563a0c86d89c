// SPDX-License-Identifier: BSD-3-Clause
// Which parameters a backward reaches, and how often.
#include "multirank/parity/parity_case.h"

namespace lockstep::testing::parity {
namespace {

using Options = DistributedDataParallelOptions;

std::vector<Case> graph_cases() {
  const auto fixed = Options().static_graph(true);
  return {
      {.name = "frozen", .net = first_layer_frozen},
      {.name = "ignored", .net = mlp, .options = Options().ignored_names({"body.2.weight"})},
      // PyTorch needs find_unused_parameters for these.
      {.name = "branches", .net = branches},
      {.name = "branches_adamw", .net = branches, .optimizer = adamw()},
      {.name = "branches_in_turn", .net = branches, .needs_undefined = true},
      {.name = "unused_layer", .net = unused_layer},
      {.name = "unused_layer_static", .net = unused_layer, .options = fixed},
      {.name = "unused_layer_not_static", .net = unused_layer, .oracle = "unused_layer_static"},
      {.name = "several_outputs", .net = several_outputs, .loss = classify_and_measure},
      {.name = "some_outputs", .net = several_outputs},
      {.name = "some_outputs_static",
       .net = several_outputs,
       .oracle = "some_outputs",
       .options = fixed},
      {.name = "two_forwards", .net = mlp, .loss = compare_two},
      {.name = "evaluation_between", .net = mlp, .loss = look_first},
      {.name = "checkpointed", .net = checkpointed},
      {.name = "checkpointed_static", .net = checkpointed, .options = fixed},
      {.name = "mlp_static", .net = mlp, .options = fixed},
  };
}

LOCKSTEP_PARITY_CASES(Graphs, graph_cases());

}  // namespace
}  // namespace lockstep::testing::parity
