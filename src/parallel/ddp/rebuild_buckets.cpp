// SPDX-License-Identifier: BSD-3-Clause
#include "parallel/ddp/rebuild_buckets.h"

#include <ATen/core/grad_mode.h>

#include <cstddef>

namespace lockstep {

void rebuild_buckets(const ReducerContext& context, const GradientStorage& storage) {
  const at::NoGradGuard no_grad;
  BucketAssignment& assignment = context.assignments.current();
  BucketQueue& buckets = context.buckets;
  // Gradients that lie side by side would be written over.
  buckets.vacate();
  for (std::size_t i = 0; i < context.parameters.size(); ++i) {
    context.parameters[i].is_assigned = assignment.members()[i];
  }
  buckets.clear();
  buckets.set_buckets(
      storage.make_buckets(assignment.buckets(), context.assignments.bucket_names()));
  auto& statistics = context.statistics;
  statistics.buckets.clear();
  for (const BucketSpec& spec : assignment.buckets()) {
    const std::size_t bucket = statistics.buckets.size();
    auto& described = statistics.buckets.emplace_back();
    described.bytes = buckets.at(bucket).bytes();
    for (std::size_t place = 0; place < spec.parameters.size(); ++place) {
      ReducedParameter& parameter = context.parameters[spec.parameters[place]];
      parameter.bucket = bucket;
      parameter.place = place;
      described.parameters.push_back(parameter.name);
    }
  }
  if (assignment.number() == 0) assignment.set_number(++statistics.plan);
  context.assignments.note_built();
  statistics.plan_reason = assignment.reason();
}

}  // namespace lockstep
