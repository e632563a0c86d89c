// SPDX-License-Identifier: BSD-3-Clause
#include "training/safetensors/tensor_files.h"

#include <c10/util/Exception.h>

#include <utility>

#include "files/bounded_file.h"
#include "files/bounded_view.h"
#include "training/safetensors/header.h"
#include "training/safetensors/header_json.h"

namespace lockstep::training {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOneFile = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
// As long as a header may be, for the same number of names.
constexpr std::uint64_t kMaxIndexBytes = kMaxHeaderBytes;
constexpr std::size_t kMaxFiles = 10'000;

/// The file or the index that is meant.
fs::path find(const fs::path& path) {
  std::error_code no_folder;
  if (!fs::is_directory(path, no_folder)) return path;
  std::error_code error;
  const bool has_index = fs::exists(path / kIndex, error);
  const bool has_file = fs::exists(path / kOneFile, error);
  TORCH_CHECK(!(has_index && has_file), path.string(), ": there are both ", kIndex, " and ",
              kOneFile, " in this folder; name the one that is meant");
  if (has_index || has_file) return path / (has_index ? kIndex : kOneFile);
  TORCH_CHECK(false, path.string(), ": there is neither ", kIndex, " nor ", kOneFile,
              " in this folder");
}

std::map<std::string, std::string> read_index(const std::string& path) {
  const files::BoundedFile file(path);
  if (file.size() > kMaxIndexBytes) {
    file.fail(0, "an index of at most " + std::to_string(kMaxIndexBytes) + " bytes",
              std::to_string(file.size()));
  }
  const std::string text = file.text(0, file.size(), "the index");
  return parse_index(text, [&](const std::string& expected, const std::string& found) {
    file.fail(0, "in the index " + expected, found);
  });
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

}  // namespace

TensorFiles::TensorFiles(const fs::path& path) : path_(path.string()) {
  const fs::path found = find(path);
  if (found.extension() == ".json") {
    open_indexed(found);
    return;
  }
  const auto file = std::make_shared<SafetensorsFile>(found.string());
  for (const auto& [name, tensor] : file->header().tensors) file_of_.emplace(name, file);
}

void TensorFiles::open_indexed(const fs::path& index) {
  std::map<std::string, std::shared_ptr<SafetensorsFile>> files;
  for (const auto& [name, file_name] : read_index(index.string())) {
    TORCH_CHECK(is_plain_name(file_name), index.string(), ": the tensor ", files::in_quotes(name),
                " is said to be in ", files::in_quotes(file_name),
                ", which is no name of a file beside the index");
    auto& file = files[file_name];
    TORCH_CHECK(files.size() <= kMaxFiles, index.string(), ": it names more than ", kMaxFiles,
                " files");
    if (file == nullptr) {
      file = std::make_shared<SafetensorsFile>((index.parent_path() / file_name).string());
    }
    TORCH_CHECK(file->header().tensors.contains(name), index.string(), ": the tensor ",
                files::in_quotes(name), " is said to be in ", file_name,
                ", which does not have it");
    file_of_.emplace(name, file);
  }
  for (const auto& [file_name, file] : files) {
    for (const auto& [name, tensor] : file->header().tensors) {
      TORCH_CHECK(file_of_.contains(name) && file_of_.at(name) == file, file->path(),
                  ": the tensor ", files::in_quotes(name), " is in this file, and the index ",
                  index.string(), " says otherwise");
    }
  }
}

std::vector<std::string> TensorFiles::names() const {
  std::vector<std::string> names;
  names.reserve(file_of_.size());
  for (const auto& [name, file] : file_of_) names.push_back(name);
  return names;
}

const SafetensorsTensor& TensorFiles::place(const std::string& name) const {
  return file_of_.at(name)->header().tensors.at(name);
}

at::Tensor TensorFiles::read(const std::string& name) const {
  return file_of_.at(name)->read(name);
}

at::Tensor TensorFiles::map(const std::string& name) const {
  return file_of_.at(name)->map(name);
}

}  // namespace lockstep::training
