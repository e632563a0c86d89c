// SPDX-License-Identifier: BSD-3-Clause
#include "data/batch_builder.h"

#include <c10/util/Exception.h>
#include <c10/util/Type.h>
#include <cxxabi.h>

#include <exception>

#include "data/sample_generator.h"

namespace lockstep::data::detail {

void fetch_row(const SampleSource& source, std::uint64_t seed, std::int64_t epoch,
               std::int64_t index, const ValueLayout& layout, std::byte* memory, std::size_t row) {
  SampleGenerator::begin_sample(seed, epoch, index);
  SampleRandom random(seed, epoch, index);
  const auto number = static_cast<std::size_t>(index);
  if (!source.get_into) {
    write_row(source.get(number, random), layout, memory, row);
    return;
  }
  const auto row_of = [&](const ValueLayout& leaf) {
    return std::span(memory + leaf.offset + row * leaf.bytes, leaf.bytes);
  };
  source.get_into(number, row_of(layout.children[0]), row_of(layout.children[1]), random);
}

Value fetch(const SampleSource& source, std::uint64_t seed, std::int64_t epoch,
            std::int64_t index) {
  SampleGenerator::begin_sample(seed, epoch, index);
  SampleRandom random(seed, epoch, index);
  return source.get(static_cast<std::size_t>(index), random);
}

Value collate(const SampleSource& source, std::vector<Value> samples) {
  return source.collate ? source.collate(std::move(samples)) : stack(std::move(samples));
}

std::string current_exception_message() {
  try {
    throw;
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "an exception of unknown type";
  }
}

std::string current_exception_type() {
  const std::type_info* type = abi::__cxa_current_exception_type();
  return type != nullptr ? c10::demangle(type->name()) : std::string();
}

}  // namespace lockstep::data::detail
