// SPDX-License-Identifier: BSD-3-Clause
#include "comm/group/comm_backend.h"

#include <ATen/ops/full.h>
#include <lockstep/core/error.h>

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"
#include "comm/group/group_context.h"

namespace lockstep {

void agree_on_memory(GroupContext& group, CommBackend& backend, bool has_memory,
                     const std::string& error_text) {
  const auto have_all = at::full({1}, has_memory ? 1 : 0, at::kInt);
  group.run(backend.make_operation({.op = CollectiveOp::AllReduce,
                                    .reduce_op = ReduceOp::Min,
                                    .inputs = {have_all},
                                    .outputs = {have_all}}),
            "allocate");
  if (have_all.item<int>() == 0) throw CommError(group.context_for("allocate"), error_text);
}

}  // namespace lockstep
