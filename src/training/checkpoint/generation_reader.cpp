// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/generation_reader.h"

#include <c10/util/Exception.h>
#include <lockstep/training/safetensors.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "training/checkpoint/file_check.h"
#include "training/checkpoint/snapshot.h"

namespace lockstep::training {
namespace {

bool is_of_a_rank(const std::string& file) {
  return file.find(".rank-") != std::string::npos;
}

}  // namespace

std::string GenerationReader::path_of(const std::string& file) const {
  return (folder_.generation(record_.generation) / file).string();
}

std::int64_t GenerationReader::source_rank() const {
  return is_same_world() ? rank_ : 0;
}

void GenerationReader::verify(const std::vector<detail::TrainingPart>& parts) const {
  for (const auto& [name, digest] : record_.files) {
    if (!is_of_a_rank(name)) check_digest(path_of(name), digest);
  }
  for (const auto& part : parts) {
    const auto file = record_.files.find(rank_file(part.name, source_rank(), record_.world_size));
    if (file != record_.files.end()) check_digest(path_of(file->first), file->second);
  }
}

PartState GenerationReader::read(const detail::TrainingPart& part) const {
  PartState state;
  const auto add_texts = [&](const std::string& file, const std::string& prefix) {
    for (auto& [key, text] : read_safetensors_header(path_of(file)).metadata) {
      if (key.starts_with(prefix) && !(prefix.empty() && key == "format")) {
        state.texts.emplace(key.substr(prefix.size()), std::move(text));
      }
    }
  };
  const std::string file = part.is_of_rank ? rank_file(part.name, source_rank(), record_.world_size)
                                           : whole_file(part.name);
  if (has(file)) {
    state.tensors = load_safetensors(path_of(file));
    add_texts(file, "");
  } else if (!part.is_of_rank) {
    if (has(index_file(part.name))) {
      state.tensors = load_safetensors(path_of(index_file(part.name)));
    }
    if (has(kValuesFile)) add_texts(kValuesFile, value_key(part.name, ""));
  }
  TORCH_CHECK(!state.tensors.empty() || !state.texts.empty(), "the checkpoint has no part '",
              part.name, "'");
  state.texts.erase(kNothing);
  return state;
}

std::vector<std::function<void()>> GenerationReader::prepare(
    const std::vector<detail::TrainingPart>& parts) const {
  std::vector<std::function<void()>> loads;
  std::vector<std::function<void()>> others;
  for (const auto& part : parts) {
    // What may still throw comes before anything is overwritten.
    auto& target = part.is_object ? loads : others;
    if (!part.is_of_rank || is_same_world()) {
      target.push_back(part.prepare(read(part)));
      continue;
    }
    TORCH_CHECK(part.adapt, "the checkpoint was saved by ", record_.world_size,
                " ranks and is loaded "
                "by ",
                world_size_, "; '", part.name, "' is each rank's own and cannot be divided");
    target.push_back(part.adapt(read(part), static_cast<int>(rank_)));
  }
  std::move(others.begin(), others.end(), std::back_inserter(loads));
  return loads;
}

}  // namespace lockstep::training
