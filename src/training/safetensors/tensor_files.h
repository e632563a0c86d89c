// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "training/safetensors/file.h"

namespace lockstep::training {

/// The tensors of one file, or of several with their index, by name.
///
/// Thread-safety: none.
/// Owns: the open files.
class TensorFiles {
 public:
  /// `path`: as `load_safetensors` takes it. Compares the index with what the files hold.
  explicit TensorFiles(const std::filesystem::path& path);

  /// For messages.
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::vector<std::string> names() const;
  [[nodiscard]] const SafetensorsTensor& place(const std::string& name) const;
  [[nodiscard]] at::Tensor read(const std::string& name) const;
  [[nodiscard]] at::Tensor map(const std::string& name) const;

 private:
  void open_indexed(const std::filesystem::path& index);

  std::string path_;
  std::map<std::string, std::shared_ptr<SafetensorsFile>> file_of_;  // by the name of a tensor
};

}  // namespace lockstep::training
