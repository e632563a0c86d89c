// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "parallel/buckets/gradient_storage.h"
#include "parallel/ddp/reducer_context.h"

namespace lockstep {

/// Makes the buckets of the current assignment in `storage`, tells each parameter its place, and
/// describes the buckets in the statistics.
///
/// Gradients that somebody still holds in the old buckets move elsewhere first.
/// Thread-safety: guarded by the reducer's lock, between two iterations.
/// Throws: where gradients could not be moved.
void rebuild_buckets(const ReducerContext& context, const GradientStorage& storage);

}  // namespace lockstep
