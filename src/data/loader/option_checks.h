// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/data_loader_options.h>
#include <lockstep/data/loader/detail/loader_input.h>

namespace lockstep::data::detail {

/// Throws: `c10::Error` naming the option that is out of range, or that does not apply to a loader
/// of this dataset and sampler.
void check_options(const DataLoaderOptions& options, bool is_iterable, const SamplerFacts& sampler);

}  // namespace lockstep::data::detail
