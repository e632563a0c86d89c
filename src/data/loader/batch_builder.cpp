// SPDX-License-Identifier: BSD-3-Clause
// Step 6 of a sample's path: the dataset is called. Before it: row_writer or collated_batches in a
// worker, or inline_source. After it: sample_layout copies the sample into its row.
#include "data/loader/batch_builder.h"

#include <c10/util/Exception.h>

#include <exception>
#include <utility>

#include "data/loader/sample_generator.h"
#include "data/samples/tree_tensors.h"
#include "workers/exception_text.h"
#include "workers/task_errors.h"

namespace lockstep::data::detail {

std::optional<SampleTree> fetch_for_row(const SampleSource& source, std::uint64_t seed,
                                        std::int64_t epoch, std::int64_t index,
                                        const SampleLayout& layout, std::byte* memory,
                                        std::size_t row) {
  SampleGenerator::begin_sample(seed, epoch, index);
  SampleRandom random(seed, epoch, index);
  const auto number = static_cast<std::size_t>(index);
  if (!source.get_into) return source.get(number, random);
  const auto row_of = [&](const SampleLayout& leaf) {
    return std::span(memory + leaf.offset + row * leaf.bytes, leaf.bytes);
  };
  source.get_into(number, row_of(layout.children[0]), row_of(layout.children[1]), random);
  return std::nullopt;
}

SampleTree fetch(const SampleSource& source, std::uint64_t seed, std::int64_t epoch,
                 std::int64_t index) {
  SampleGenerator::begin_sample(seed, epoch, index);
  SampleRandom random(seed, epoch, index);
  return source.get(static_cast<std::size_t>(index), random);
}

SampleTree collate(const SampleSource& source, std::vector<SampleTree> samples, std::size_t& at) {
  at = 0;
  return source.collate ? source.collate(std::move(samples)) : stack(std::move(samples), at);
}

std::string current_exception_message() {
  return workers::current_task_exception_text();
}

std::string current_exception_type() {
  return workers::current_exception_type();
}

}  // namespace lockstep::data::detail
