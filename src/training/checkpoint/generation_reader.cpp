// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/generation_reader.h"

#include <c10/util/Exception.h>

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

std::set<std::string> GenerationReader::files_of(
    const std::vector<detail::TrainingPart>& parts) const {
  std::set<std::string> files{kValuesFile};
  for (const auto& part : parts) {
    if (part.is_of_rank) {
      files.insert(rank_file(part.name, source_rank(), record_.world_size));
      continue;
    }
    files.insert(whole_file(part.name));
    for (std::int64_t rank = 0; rank < record_.world_size; ++rank) {
      files.insert(shard_file(part.name, rank, record_.world_size));
    }
  }
  return files;
}

void GenerationReader::verify(const std::vector<detail::TrainingPart>& parts) {
  const auto needed = files_of(parts);
  std::map<std::string, FileDigest> files = record_.files;
  std::erase_if(files, [&](const auto& file) {
    return !needed.contains(file.first) && is_of_a_rank(file.first);
  });
  for (auto file = files.begin(); file != files.end(); ++file) {
    const auto& [name, digest] = *file;
    // The disk goes on with the next file while the end of this one is looked at.
    if (const auto next = std::next(file); next != files.end()) {
      files::BoundedFile(path_of(next->first), folder_.files()).prefetch(0, kReadAhead);
    }
    if (needed.contains(name)) {
      loaded_.try_emplace(name, path_of(name), digest, folder_.files());
    } else {
      check_digest(path_of(name), digest, folder_.files());
    }
  }
}

const LoadedFile* GenerationReader::find(const std::string& file) const {
  const auto found = loaded_.find(file);
  return found == loaded_.end() ? nullptr : &found->second;
}

PartState GenerationReader::read(const detail::TrainingPart& part) const {
  PartState state;
  const auto add_texts = [&](const LoadedFile& file, const std::string& prefix) {
    for (const auto& [key, text] : file.texts()) {
      if (key.starts_with(prefix) && !(prefix.empty() && key == "format")) {
        state.texts.emplace(key.substr(prefix.size()), text);
      }
    }
  };
  const std::string own = part.is_of_rank ? rank_file(part.name, source_rank(), record_.world_size)
                                          : whole_file(part.name);
  if (const LoadedFile* file = find(own)) {
    state.tensors = file->tensors();
    add_texts(*file, "");
  } else if (!part.is_of_rank) {
    for (std::int64_t rank = 0; rank < record_.world_size; ++rank) {
      const LoadedFile* shard = find(shard_file(part.name, rank, record_.world_size));
      if (shard != nullptr) state.tensors.insert(shard->tensors().begin(), shard->tensors().end());
    }
    if (const LoadedFile* values = find(kValuesFile)) {
      add_texts(*values, value_key(part.name, ""));
    }
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
