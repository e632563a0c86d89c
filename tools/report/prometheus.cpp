// SPDX-License-Identifier: BSD-3-Clause
#include "prometheus.h"

#include <string_view>

#include "run_files.h"

namespace report {
namespace {

constexpr std::size_t kMostSamples = 1000;

/// Where the labels end: at the brace that is in no value.
std::size_t end_of_labels(std::string_view line, std::size_t begin) {
  bool is_quoted = false;
  for (auto i = begin; i < line.size(); ++i) {
    if (is_quoted && line[i] == '\\') {
      ++i;
    } else if (line[i] == '"') {
      is_quoted = !is_quoted;
    } else if (line[i] == '}' && !is_quoted) {
      return i;
    }
  }
  return std::string_view::npos;
}

bool parse(std::string_view line, Sample& sample) {
  const auto name_end = line.find_first_of("{ ");
  if (name_end == 0 || name_end == std::string_view::npos) return false;
  auto value_begin = name_end;
  if (line[name_end] == '{') {
    const auto end = end_of_labels(line, name_end + 1);
    if (end == std::string_view::npos) return false;
    sample.labels = line.substr(name_end + 1, end - name_end - 1);
    value_begin = end + 1;
  }
  value_begin = line.find_first_not_of(' ', value_begin);
  if (value_begin == std::string_view::npos) return false;
  sample.name = line.substr(0, name_end);
  const auto value = line.substr(value_begin);
  sample.value = value.substr(0, value.find(' '));  // a time may follow
  return true;
}

}  // namespace

std::vector<Sample> read_prometheus(const std::filesystem::path& path, FileNote& note) {
  std::vector<Sample> samples;
  note.unused = for_each_line(path, [&](std::string_view line) {
    if (line.starts_with('#')) return true;
    Sample sample;
    if (samples.size() >= kMostSamples || !parse(line, sample)) return false;
    samples.push_back(sample);
    ++note.lines;
    return true;
  });
  return samples;
}

}  // namespace report
