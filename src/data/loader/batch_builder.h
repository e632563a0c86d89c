// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/loader/detail/loader_input.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/samples/sample_layout.h"

namespace lockstep::data::detail {

/// Fetches sample `index` of `epoch` for row `row`. Where the dataset can, it is written there at
/// once, and nothing is returned.
/// Throws: what the dataset throws.
[[nodiscard]] std::optional<SampleTree> fetch_for_row(const SampleSource& source,
                                                      std::uint64_t seed, std::int64_t epoch,
                                                      std::int64_t index,
                                                      const SampleLayout& layout, std::byte* memory,
                                                      std::size_t row);

[[nodiscard]] SampleTree fetch(const SampleSource& source, std::uint64_t seed, std::int64_t epoch,
                               std::int64_t index);

/// Makes a batch of these samples: collates them, or stacks them. When it throws, `at` is the
/// number of the sample that is unlike the first, or 0 where no single sample is to blame.
[[nodiscard]] SampleTree collate(const SampleSource& source, std::vector<SampleTree> samples,
                                 std::size_t& at);

/// What the exception that is being handled says, and its type. Call them in a catch block only.
[[nodiscard]] std::string current_exception_message();
[[nodiscard]] std::string current_exception_type();

}  // namespace lockstep::data::detail
