// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/comm/process_group.h>
#include <lockstep/parallel/distributed_data_parallel_options.h>
#include <lockstep/parallel/statistics.h>

#include <vector>

#include "parallel/buckets/bucket_assignments.h"
#include "parallel/buckets/bucket_queue.h"
#include "parallel/ddp/gradient_listener.h"
#include "parallel/ddp/reduced_parameter.h"

namespace lockstep {

/// What the parts of a reducer share. The reducer owns it and outlives its parts.
/// Thread-safety: guarded by the reducer's lock.
struct ReducerContext {
  const GradientListener& reducer;  ///< tells its averages from those of other models
  ProcessGroup& group;
  const DistributedDataParallelOptions& options;
  std::vector<ReducedParameter>& parameters;
  BucketAssignments& assignments;
  BucketQueue& buckets;
  DistributedDataParallelStatistics& statistics;
};

}  // namespace lockstep
