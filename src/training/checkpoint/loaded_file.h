// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <ATen/core/Tensor.h>
#include <lockstep/training/safetensors_header.h>

#include <filesystem>
#include <map>
#include <string>

#include "native/posix/file_system.h"
#include "training/checkpoint/manifest.h"

namespace lockstep::training {

/// A file of tensors in memory, with the bytes that the manifest says: the bytes that were compared
/// are those that are used.
///
/// Thread-safety: immutable after construction.
class LoadedFile {
 public:
  /// Throws: `c10::Error` naming the file where it is another one.
  LoadedFile(const std::filesystem::path& path, const FileDigest& expected,
             native::FileSystem& files);

  [[nodiscard]] const std::map<std::string, std::string>& texts() const noexcept {
    return header_.metadata;
  }
  /// Adds its tensors, which share the memory.
  void add_tensors(std::map<std::string, at::Tensor>& tensors) const;

 private:
  at::Tensor bytes_;
  SafetensorsHeader header_;
};

}  // namespace lockstep::training
