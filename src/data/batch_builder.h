// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/data/detail/loader_engine.h>

#include <cstddef>
#include <string>

#include "data/sample_layout.h"

namespace lockstep::data::detail {

/// The memory of one batch: rows of data and rows of targets.
struct BatchRows {
  std::byte* data = nullptr;
  std::byte* target = nullptr;
};

/// Copies `sample` into row `row`.
/// Throws: `c10::Error` with both shapes when the sample is not like `layout`.
void write_row(const torch::data::Example<>& sample, const SampleLayout& layout,
               const BatchRows& rows, std::size_t row);

/// Fetches sample `index` and puts it into row `row`, in place where the dataset can.
/// Throws: what the dataset throws, and as `write_row`.
void fetch_row(const SampleSource& source, std::size_t index, const SampleLayout& layout,
               const BatchRows& rows, std::size_t row);

/// What the exception that is being handled says, without a backtrace. Call it in a catch block
/// only.
[[nodiscard]] std::string current_exception_message();

}  // namespace lockstep::data::detail
