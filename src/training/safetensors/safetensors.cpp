// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/training/safetensors.h>

#include <array>
#include <cstdio>
#include <system_error>
#include <utility>

#include "native/posix/atomic_file.h"
#include "training/safetensors/file_writer.h"
#include "training/safetensors/header.h"
#include "training/safetensors/index_writer.h"
#include "training/safetensors/tensor_files.h"

namespace lockstep::training {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

std::string shard_name(std::size_t number, std::size_t count) {
  std::array<char, 64> name{};
  std::snprintf(name.data(), name.size(), "model-%05zu-of-%05zu.safetensors", number + 1, count);
  return name.data();
}

std::vector<Tensors> cut(const Tensors& tensors, std::uint64_t max_bytes) {
  std::vector<Tensors> shards;
  std::uint64_t bytes = 0;
  for (const auto& [name, tensor] : tensors) {
    const std::uint64_t own = tensor.defined() ? tensor.nbytes() : 0;
    if (shards.empty() || (!shards.back().empty() && own > max_bytes - bytes)) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().emplace(name, tensor);
    bytes = own > max_bytes ? max_bytes : bytes + own;
  }
  if (shards.empty()) shards.emplace_back();
  return shards;
}

void write_text(const std::string& path, const std::string& text) {
  try {
    native::write_atomically(path, text);
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, error.what());
  }
}

/// While some files are new and others old, none must say that they belong together.
void remove(const std::string& index) {
  try {
    native::remove_durably(index);
  } catch (const std::system_error& error) {
    TORCH_CHECK(false, error.what());
  }
}

}  // namespace

void save_safetensors(const fs::path& path, const Tensors& tensors,
                      const std::map<std::string, std::string>& metadata,
                      const SaveSafetensorsOptions& options) {
  write_file(path.string(), plan_file(tensors, metadata, options.alignment()));
}

Tensors load_safetensors(const fs::path& path, const LoadSafetensorsOptions& options) {
  const TensorFiles files(path);
  Tensors tensors;
  for (const auto& name : files.names()) {
    tensors.emplace_hint(tensors.end(), name,
                         options.memory_mapped() ? files.map(name) : files.read(name));
  }
  return tensors;
}

SafetensorsHeader read_safetensors_header(const fs::path& path) {
  return read_header(files::BoundedFile(path.string()));
}

fs::path save_safetensors_shards(const fs::path& folder, const Tensors& tensors,
                                 std::uint64_t max_bytes,
                                 const std::map<std::string, std::string>& metadata,
                                 const SaveSafetensorsOptions& options) {
  TORCH_CHECK(max_bytes > 0, "save_safetensors_shards: max_bytes is 0; it must be 1 or more");
  std::error_code error;
  TORCH_CHECK(fs::is_directory(folder, error), folder.string(),
              ": is no folder; save_safetensors_shards makes none");
  const auto shards = cut(tensors, max_bytes);
  // Before the first of them replaces an older one.
  std::vector<PlannedFile> plans;
  for (const auto& shard : shards) {
    plans.push_back(plan_file(shard, metadata, options.alignment()));
  }
  const fs::path index = folder / "model.safetensors.index.json";
  remove(index.string());
  IndexWriter entries;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string file = shard_name(i, shards.size());
    write_file((folder / file).string(), plans[i]);
    for (const auto& [name, tensor] : shards[i]) entries.add(name, tensor.nbytes(), file);
  }
  write_text(index.string(), entries.text());
  return index;
}

}  // namespace lockstep::training
