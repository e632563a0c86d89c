// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/detail/loader_engine.h>

#include <cstddef>
#include <string>
#include <vector>

#include "data/sample_layout.h"

namespace lockstep::data::detail {

/// Fetches sample `index` of `epoch` and puts it into row `row`, in place where the dataset can.
/// Throws: what the dataset throws, and as `write_row`.
void fetch_row(const SampleSource& source, std::uint64_t seed, std::int64_t epoch,
               std::int64_t index, const ValueLayout& layout, std::byte* memory, std::size_t row);

[[nodiscard]] Value fetch(const SampleSource& source, std::uint64_t seed, std::int64_t epoch,
                          std::int64_t index);

/// A batch of these samples: collated, or stacked.
[[nodiscard]] Value collate(const SampleSource& source, std::vector<Value> samples);

/// What the exception that is being handled says, and its type. Call them in a catch block only.
[[nodiscard]] std::string current_exception_message();
[[nodiscard]] std::string current_exception_type();

}  // namespace lockstep::data::detail
